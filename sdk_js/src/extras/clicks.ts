/* Clicks: links that lead away, downloads, and elements with data-track-event="Name" (data-track-plan="pro" becomes the
 * property `plan`). What stands in an element or a field is not sent. */
import { listen, type Fields } from "../core/env";
import { track } from "../core/tracker";

const FILES = /\.(pdf|zip|docx?|xlsx?|pptx?|csv|txt|rar|7z|gz|apk|exe|dmg|epub|mp[34])$/i;

/** data-track-* of an element as properties, without the event's name. */
function properties(element: HTMLElement): Fields {
  const found: Fields = {};
  for (const key in element.dataset) {
    const [, name] = /^track([A-Z]\w*)/.exec(key) || [];
    if (name && name !== "Event") found[name.replace(/[A-Z]/g, (c, at) => (at ? "_" : "") + c.toLowerCase())] = element.dataset[key];
  }
  return found;
}

export function start(): void {
  listen<MouseEvent>(document, "click auxclick", ({ target, button }) => {
    const element = target as HTMLElement;
    if (button > 1 || !element.closest) return;
    const marked = element.closest<HTMLElement>("[data-track-event]");
    if (marked && !button) track(marked.dataset["trackEvent"]!, properties(marked));
    const link = element.closest("a");
    // A mark tells all that is to be told.
    if (!link || marked || !/^http/.test(link.protocol)) return;
    const facts = { url: link.href, host: link.hostname };
    const file = FILES.exec(link.pathname);
    if (file || link.hasAttribute("download")) track("File Downloaded", { ...facts, extension: file ? file[1] : undefined });
    else if (link.hostname !== location.hostname) track("Link Clicked", { ...facts, outbound: true });
  });
}
