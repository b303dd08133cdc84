/* /t.full.js: everything. `data-auto` names the extras that run by themselves; by default all but the dataLayer. */
import { boot } from "../core/boot";
import { options } from "../core/tracker";
import * as adapters from "../extras/adapters";
import * as clicks from "../extras/clicks";
import * as datalayer from "../extras/datalayer";
import * as debug from "../extras/debug";
import * as ecommerce from "../extras/ecommerce";
import * as engagement from "../extras/engagement";
import * as forms from "../extras/forms";
import * as linker from "../extras/linker";
import * as popup from "../extras/popup";

const AUTO = { engagement, clicks, forms, popups: adapters, datalayer };

boot([
  linker.start,
  debug.start,
  ecommerce.start,
  popup.start,
  () => {
    const wanted = (options.auto ?? "engagement clicks forms popups").split(" ");
    for (const [name, extra] of Object.entries(AUTO)) if (wanted.includes(name)) extra.start();
  },
]);
