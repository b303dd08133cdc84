// h("a", {href, class, onclick, dataset}, ...children): elements without HTML strings, so no text can become markup.
export function h(tag, attributes = {}, ...children) {
  const element = tag === "svg" || tag === "path" || tag === "circle" ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value == null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

const ICONS = {
  bag: "M6 8h12l1 12H5zM9 8V6a3 3 0 0 1 6 0v2", left: "M14 6l-6 6 6 6", plus: "M12 6v12M6 12h12", minus: "M6 12h12", close: "M7 7l10 10M17 7L7 17",
  check: "M5 12.5l4.5 4.5L19 7.5", up: "M6 14l6-6 6 6", down: "M6 10l6 6 6-6", leaf: "M5 19C5 9 11 5 20 5c0 9-5 14-13 13M5 19c3-5 6-7 10-9", truck: "M3 7h11v9H3zM14 10h4l3 3v3h-7zM7 19a2 2 0 1 0 0-4 2 2 0 0 0 0 4zM17 19a2 2 0 1 0 0-4 2 2 0 0 0 0 4z", loop: "M4 12a8 8 0 0 1 14-5l2 2M20 4v5h-5M20 12a8 8 0 0 1-14 5l-2-2M4 20v-5h5",
};

export const icon = (name) =>
  h("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" }, h("path", { d: ICONS[name] }));
