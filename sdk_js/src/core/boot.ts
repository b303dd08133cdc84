/* As a script of a page: its data attributes are the options, and the stub's queue is taken over. */
import { safe, warn } from "./env";
import { start } from "./tracker";
import type { Options } from "../types";

export function boot(extras: (() => void)[] = []): void {
  safe(() => {
    const script = (document.currentScript || document.querySelector("script[data-write-key][src]")) as HTMLScriptElement | null;
    const { writeKey, global: name = "tracker", ...options } = { ...(script && script.dataset) } as Options & Record<string, string | undefined>;
    if (!writeKey) return warn("no data-write-key");
    // Not by URL: pages have variables of this name.
    options.endpoint ||= script!.src.split("/", 3).join("/");
    start(writeKey, options, name, extras);
  }, "start");
}
