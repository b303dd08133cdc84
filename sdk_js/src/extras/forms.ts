/* Forms: started with the first input, submitted, or abandoned when the page is left. Names of fields are sent, never what
 * stands in them: only of fields in a form with data-track-values="name email" that it names. */
import { beforeLeaving } from "../core/delivery";
import { listen, safe, type Fields } from "../core/env";
import { on, track, viewed } from "../core/tracker";

interface Started {
  fields_: string[];
  sinceMs_: number;
}
const SECRET = /pass|card|cvc|cvv|iban|otp/i;

export function start(): void {
  const open = new Map<HTMLFormElement, Started>();

  const tell = (form: HTMLFormElement, what: string, more?: Fields): void => {
    const { fields_: fields, sinceMs_: since } = open.get(form) || { fields_: [], sinceMs_: Date.now() };
    const id = form.getAttribute("id");
    track("Form " + what, {
      form_id: id || form.getAttribute("name") || undefined,
      // A field may be named `action`, too.
      action: safe(() => new URL(form.getAttribute("action") || "", document.baseURI).pathname),
      fields,
      seconds: what === "Started" ? undefined : Math.round((Date.now() - since) / 1000),
      ...more,
    }, { context: { page: viewed } });
  };
  const values = (form: HTMLFormElement): Fields | undefined => {
    const asked = form.dataset["trackValues"];
    if (!asked) return;
    const found: Fields = {};
    for (const name of asked.split(" ")) {
      const field = form.elements.namedItem(name) as HTMLInputElement | null;
      if (field && field.type !== "password" && !SECRET.test(name)) found[name] = field.value;
    }
    return { values: found };
  };
  const abandon = (gone: boolean): void => {
    if (!gone) return;
    for (const form of open.keys()) tell(form, "Abandoned");
    open.clear();
  };

  listen(document, "input change", ({ target }) => {
    const { form, name, type } = target as HTMLInputElement;
    if (!form || type === "hidden" || form.hasAttribute("data-track-off")) return;
    const known = open.get(form);
    const fields = known ? known.fields_ : [];
    if (name && !fields.includes(name)) fields.push(name);
    if (known) return;
    open.set(form, { fields_: fields, sinceMs_: Date.now() });
    tell(form, "Started");
  });
  listen(document, "submit", ({ target }) => {
    const form = target as HTMLFormElement;
    if (form.hasAttribute("data-track-off")) return;
    tell(form, "Submitted", values(form));
    open.delete(form);
  });
  beforeLeaving.push(abandon);
  on("pageend", () => abandon(true));
}
