/* What an event says about its page and browser. The user agent is left out: the endpoint has it from the request. */

export type Fields = Record<string, unknown>;

declare const VERSION: string;

let lastPageUrl = "";
let pageReferrer = document.referrer;

/** Before a page call: inside a single-page application the referrer is the page before, not the one before the first. */
export function turnPage(): void {
  if (lastPageUrl && lastPageUrl !== location.href) pageReferrer = lastPageUrl;
  lastPageUrl = location.href;
}

export function page(): Fields {
  return {
    url: location.href,
    path: location.pathname,
    search: location.search,
    title: document.title,
    referrer: pageReferrer,
  };
}

/** utm_source, utm_medium, utm_campaign, utm_term, utm_content -> source, medium, name, term, content. */
function campaign(): Fields | undefined {
  const found: Fields = {};
  new URLSearchParams(location.search).forEach((value, key) => {
    const match = /^utm_(source|medium|campaign|term|content)$/.exec(key);
    if (match && value) found[match[1] === "campaign" ? "name" : match[1]!] = value;
  });
  return Object.keys(found).length ? found : undefined;
}

export function context(): Fields {
  return {
    page: page(),
    locale: navigator.language,
    timezone: Intl.DateTimeFormat().resolvedOptions().timeZone,
    campaign: campaign(),
    library: { name: "tracker.js", version: VERSION },
  };
}
