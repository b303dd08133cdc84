/* The package for bundlers: load() and the extras as functions, so that what a site does not name is not in its bundle.
 *
 *     import { load, engagement, popups } from "event-streaming-tracker-snippet";
 *     const tracker = load("KEY", { endpoint: "https://t.example", spa: "" }, [engagement, popups]);
 *
 * Nothing happens at import; on a server load() gives an object whose calls do nothing.
 */
import { safe } from "./core/env";
import { start } from "./core/tracker";
import type { Options, Tracker } from "./types";

export { start as adapters } from "./extras/adapters";
export { start as clicks } from "./extras/clicks";
export { start as datalayer } from "./extras/datalayer";
export { start as debug } from "./extras/debug";
export { start as ecommerce } from "./extras/ecommerce";
export { start as engagement } from "./extras/engagement";
export { start as forms } from "./extras/forms";
export { start as linker } from "./extras/linker";
export { start as popups } from "./extras/popup";
export { subscribeToPush } from "./extras/webpush";
export { CLICK_IDS, ECOMMERCE, EVENTS, POPUP_ACTIONS } from "./contract.gen";
export type * from "./contract.gen";
export type * from "./types";

/** Whatever is called on it does nothing. It is no promise: who awaits it gets it. */
const nothing: unknown = /* @__PURE__ */ new Proxy(() => nothing, {
  get: (_, name) => (name === "then" ? undefined : nothing),
});

/** The instance of this page; a second call gives the same one. It is window.tracker, too. */
export function load(writeKey: string, options?: Options | null, extras: (() => void)[] = []): Tracker {
  if (typeof document === "undefined") return nothing as Tracker;
  const started = safe(() => start(writeKey, options || {}, "tracker", extras), "load");
  // Without the extra.
  if (started) started["debug"] ||= nothing;
  return (started || nothing) as Tracker;
}
