/* /t.full.js: everything. `data-auto` names the extras that run by themselves; by default all but the dataLayer. */
import { boot } from "../core/boot";
import { options } from "../core/tracker";
import { start as adapters } from "../extras/adapters";
import { start as clicks } from "../extras/clicks";
import { start as datalayer } from "../extras/datalayer";
import { start as debug } from "../extras/debug";
import { start as ecommerce } from "../extras/ecommerce";
import { start as engagement } from "../extras/engagement";
import { start as forms } from "../extras/forms";
import { start as linker } from "../extras/linker";
import { start as popup } from "../extras/popup";

const AUTO = { engagement, clicks, forms, popups: adapters, datalayer };

boot([
  linker,
  debug,
  ecommerce,
  popup,
  () => {
    const wanted = (options.auto == null ? "engagement clicks forms popups" : options.auto).split(" ");
    for (const [name, extra] of Object.entries(AUTO)) if (wanted.includes(name)) extra();
  },
]);
