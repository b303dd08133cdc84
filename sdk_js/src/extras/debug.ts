/* A view of the events as they leave, the last one first, at the page's foot: `?tracker_debug=1`, or debug(). */
import { afterSending } from "../core/delivery";
import { methods } from "../core/tracker";

const MAX_CHARS = 20_000;

let box: HTMLElement | undefined;

export function start(): void {
  methods["debug"] = show;
  if (/[?&]tracker_debug=1/.test(location.search)) show();
}

function show(shown = true): void {
  if (!box) {
    const view = (box = document.createElement("pre"));
    view.style.cssText = "position:fixed;z-index:2147483647;bottom:0;max-height:40%;overflow:auto;background:#ffc";
    afterSending.push((messages, status) => {
      for (const json of messages) {
        const { type, event, name, properties, traits } = JSON.parse(json);
        const line = [status === 200 ? "✓" : "✗" + status, type, event || name || "", JSON.stringify(properties || traits)];
        view.textContent = (line.join(" ") + "\n" + view.textContent).slice(0, MAX_CHARS);
      }
    });
  }
  if (shown) document.documentElement.append(box);
  else box.remove();
}
