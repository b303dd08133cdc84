/* GA4's ecommerce events of window.dataLayer, from Google Tag Manager or gtag(): the endpoint knows GA4's names and items. */
import { safe, type Fields } from "../core/env";
import { track } from "../core/tracker";

/** view_item, select_item, add_to_cart, remove_from_cart, begin_checkout, ...: they have items, a refund of all has none. */
const NAMES = /^(view|select|add|remove|begin|purchase|refund)/;

export function start(): void {
  const layer = ((window as unknown as Record<string, any>)["dataLayer"] ||= []) as unknown[];
  const look = (entry: any): void => {
    safe(() => {
      // gtag("event", name, {...}) pushes its arguments; GTM's form is {event: name, ecommerce: {...}}.
      const [name, facts] = entry[0] === "event" ? [entry[1], entry[2]] : [entry.event, entry.ecommerce];
      if (NAMES.test(name) && (facts.items || facts.transaction_id)) track(name, facts as Fields);
    });
  };
  layer.map(look);
  const push = layer.push;
  layer.push = (...entries: unknown[]) => {
    entries.map(look);
    return push.apply(layer, entries);
  };
}
