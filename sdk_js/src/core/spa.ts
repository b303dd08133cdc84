/* Page views of single-page applications: pushState, replaceState, back and forward, and on request the hash. */
import { listen, safe } from "./env";

/** Frameworks set the title after the address; a redirect in the same moment is no view of its own. */
const SETTLE_MS = 50;

let timer: ReturnType<typeof setTimeout> | undefined;
let lastUrl = "";
let withHash = false;
let viewed: () => void;

const address = (): string => location.pathname + location.search + (withHash ? location.hash : "");

/** To be told of each page call, so that a page that was told by hand is not told again. */
export function seen(): void {
  lastUrl = address();
}

/** Looks now, not when the timer fires. */
export function look(): void {
  clearTimeout(timer);
  if (viewed && address() !== lastUrl) viewed();
}

function soon(): void {
  clearTimeout(timer);
  timer = setTimeout(look, SETTLE_MS);
}

export function watch(hash: boolean, onView: () => void): void {
  withHash = hash;
  viewed = onView;
  for (const method of ["pushState", "replaceState"] as const) {
    safe(() => {
      const original = history[method];
      history[method] = function (this: History, ...args: Parameters<typeof original>) {
        const result = original.apply(this, args);
        soon();
        return result;
      };
    });
  }
  listen(window, "popstate hashchange", soon);
  // Routers on the Navigation API turn a click into a route without any of these.
  safe(() => listen((window as any).navigation, "currententrychange", soon));
  look();
}
