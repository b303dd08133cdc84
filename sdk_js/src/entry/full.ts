/* /t.full.js: everything. `data-auto` names the extras that run by themselves; by default all but the dataLayer. */
// The order of these is that of the build, and this one packs well.
import { start as forms } from "../extras/forms";
import { start as debug } from "../extras/debug";
import { options } from "../core/tracker";
import { start as ecommerce } from "../extras/ecommerce";
import { start as clicks } from "../extras/clicks";
import { start as adapters } from "../extras/adapters";
import { boot } from "../core/boot";
import { start as linker } from "../extras/linker";
import { start as datalayer } from "../extras/datalayer";
import { start as popup } from "../extras/popup";
import { start as engagement } from "../extras/engagement";

const AUTO = { engagement, clicks, forms, popups: adapters, datalayer };

boot([
  linker,
  debug,
  ecommerce,
  popup,
  () => {
    const { auto = "engagement clicks forms popups" } = options;
    for (const [name, extra] of Object.entries(AUTO)) if (auto.includes(name)) extra();
  },
]);
