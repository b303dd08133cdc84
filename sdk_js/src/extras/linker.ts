/* One visitor over several domains of a site: links to them carry the anonymous id for two minutes. It is taken from pages
 * of these domains alone, so that nobody can be given an id by a link on some other page. */
import { OPEN, state } from "../core/consent";
import { listen, safe } from "../core/env";
import { write } from "../core/store";
import { anonymousId, options } from "../core/tracker";

const PARAMETER = "trk_link";
const VALID_MS = 120_000;

export function start(): void {
  const domains = (options.linker || "").split(" ");
  const ours = (host: string): boolean => host !== location.hostname && domains.some((d) => host === d || host.endsWith("." + d));
  safe(() => {
    const url = new URL(location.href);
    const carried = url.searchParams.get(PARAMETER);
    if (!carried) return;
    url.searchParams.delete(PARAMETER);
    history.replaceState(history.state, "", url.href);
    const [id, at] = carried.split("~");
    if (id && Math.abs(Date.now() - +at!) < VALID_MS && ours(new URL(document.referrer).hostname)) write("anonymous_id", id);
  });
  if (!options.linker) return;
  listen(document, "click auxclick submit", ({ target }) => {
    if (state() !== OPEN) return;
    const link = (target as HTMLElement).closest("a,form") as HTMLElement | null;
    const key = link && link.matches("a") ? "href" : "action";
    // Of a form the attribute: a field may be named `action`, too.
    const to = link && link.getAttribute(key);
    if (!to) return;
    const url = new URL(to, document.baseURI);
    if (!ours(url.hostname)) return;
    url.searchParams.set(PARAMETER, anonymousId() + "~" + Date.now());
    link!.setAttribute(key, url.href);
  });
}
