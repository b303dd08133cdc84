/* What an event says about its page and browser. The user agent is left out: the endpoint has it from the request. */
import { safe, type Fields } from "./env";
import { campaign } from "./visit";

let lastUrl = "";
let referrer: string | undefined;
let zone: string | undefined;

/** Before a page call: inside a single-page application the referrer is the page before, not the one before the first. */
export function turnPage(): void {
  if (lastUrl && lastUrl !== location.href) referrer = lastUrl;
  lastUrl = location.href;
}

export function page(): Fields {
  return {
    url: location.href,
    path: location.pathname,
    search: location.search,
    title: document.title,
    referrer: (referrer ||= document.referrer),
  };
}

export function context(): Fields {
  return {
    page: page(),
    locale: navigator.language,
    campaign: campaign(),
    webdriver: navigator.webdriver || undefined,
    library: { name: "tracker.js", version: VERSION },
  };
}

declare const Temporal: { Now: { timeZoneId(): string } };

/** Not of the lite build: the first look at Intl takes a slow phone 100 ms; browsers of 2026 can tell without it. */
export const timezone = (): string | undefined =>
  (zone ||= safe(() => Temporal.Now.timeZoneId()) || safe(() => Intl.DateTimeFormat().resolvedOptions().timeZone));
