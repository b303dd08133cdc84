/* A view of the events as they leave, in a corner of the page: `?tracker_debug=1`, or debug(). */
import { afterSending } from "../core/delivery";
import { methods, on } from "../core/tracker";
import type { Fields } from "../core/env";

const MAX_LINES = 200;

export function start(): void {
  methods["debug"] = (shown = true) => (shown ? show() : box && box.remove());
  if (/[?&]tracker_debug=1/.test(location.search)) show();
}

let box: HTMLElement | undefined;
const lines: Record<string, HTMLElement> = Object.create(null);

function show(): void {
  const fresh = !box;
  box ||= document.createElement("pre");
  box.style.cssText =
    "position:fixed;z-index:2147483647;right:0;bottom:0;width:20em;max-height:40%;overflow:auto;margin:0;" +
    "padding:8px;font:12px monospace;color:#fff;background:#111";
  document.documentElement.append(box);
  if (!fresh) return;
  on("message", ({ messageId, type, event, name, properties, traits }: Fields) => {
    const line = (lines[messageId as string] = document.createElement("div"));
    line.title = JSON.stringify(properties || traits);
    line.textContent = `… ${type} ${event || name || ""}`;
    box!.append(line);
    box!.scrollTop = 1e6;
    if (box!.childNodes.length > MAX_LINES) box!.firstChild!.remove();
  });
  afterSending.push((messages, status) => {
    for (const json of messages) {
      const line = lines[JSON.parse(json).messageId];
      if (line) line.textContent = line.textContent!.replace(/^\S+/, status === 200 ? "✓" : "✗" + status);
    }
  });
}
