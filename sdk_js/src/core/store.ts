/* Small values that outlive the page: a first-party cookie; localStorage where cookies are blocked; memory where both are, or
 * while nothing may be stored. */
import { dropCookie, dropStored, ownDomain, PREFIX, readCookie, writeCookie } from "./cookies";
import { safe } from "./env";

export { PREFIX, readCookie };
/** Of the value as it stands in the cookie; servers refuse a request with 8 KB of headers. */
const MAX_COOKIE_CHARS = 1000;

const memory: Record<string, string> = { __proto__: null as never };
export let storing = false;

/** localStorage; undefined where it is blocked (naming it can throw) or nothing may be stored. */
export const local = (): Storage | undefined => (storing ? safe(() => localStorage) : undefined);

export function read(key: string): string | undefined {
  return ((storing ? readCookie(key) ?? safe(() => local()!.getItem(PREFIX + key)) : undefined) ?? memory[key]) || undefined;
}

/** '' takes the value away, also for subdomains that have another one in their localStorage. */
export function write(key: string, value: string): void {
  memory[key] = value;
  if (!storing) return;
  // Where it is too long, the cookie must not go on saying something else.
  const inCookie = encodeURIComponent(value)[MAX_COOKIE_CHARS] ? safe(() => dropCookie(PREFIX + key)) : writeCookie(key, value);
  safe(() => (inCookie ? local()!.removeItem(PREFIX + key) : local()!.setItem(PREFIX + key, value)));
}

/** The endpoint has set the cookie to what it was when it was asked: what this page has said since stays. */
export const settle = (key: string): unknown =>
  safe(() => (storing ? memory[key] && writeCookie(key, memory[key]!) : dropCookie(PREFIX + key)));

/** From now on values are stored, beginning with those of this page, or (false) in memory alone. */
export function store(on: boolean): void {
  if (on === storing) return;
  storing = on;
  if (!on) return;
  for (const key in memory) {
    const value = memory[key]!;
    delete memory[key];
    if (!read(key)) write(key, value);
  }
}

/** Takes away whatever was stored, and what this page knows. */
export function forget(): void {
  for (const key in memory) delete memory[key];
  dropStored();
}

/** Whether `host` is one of the site's: under the widest domain of the cookies; while none may be set, under this host. */
export function isOwn(host: string): boolean {
  const site = (storing && safe(ownDomain)) || location.hostname.replace("www.", "");
  return host === site || host.endsWith("." + site);
}
