/* Small values that outlive the page: a first-party cookie on the widest domain that the browser allows, so that a site's
 * subdomains share them; localStorage where cookies are blocked; memory where both are, or while nothing may be stored. */
import { safe } from "./env";

export const PREFIX = "trk_";
const YEAR_S = 31_536_000;
const MAX_COOKIE_CHARS = 1000;

const memory: Record<string, string> = {};
/** What this task has read: a burst of calls reads each cookie once, and the next task sees what other tabs wrote. */
let seen: Record<string, string | undefined> | undefined;
let storing = false;
let domain: string | undefined;

/** localStorage; undefined where it is blocked (naming it can throw) or nothing may be stored. */
export const local = (): Storage | undefined => (storing ? safe(() => localStorage) : undefined);

export function read(key: string): string | undefined {
  if (!storing) return memory[key];
  if (!seen) {
    seen = {};
    setTimeout(() => (seen = undefined));
  }
  if (!(key in seen)) seen[key] = readCookie(key) ?? safe(() => local()!.getItem(PREFIX + key)) ?? memory[key];
  return seen[key] || undefined;
}

/** '' takes the value away, also for subdomains that have another one in their localStorage. */
export function write(key: string, value: string): void {
  memory[key] = value;
  if (!storing) return;
  if (seen) seen[key] = value;
  safe(() => {
    if (value.length < MAX_COOKIE_CHARS) writeCookie(key, value, YEAR_S);
  });
  const inCookie = readCookie(key) === value;
  safe(() => (inCookie ? local()!.removeItem(PREFIX + key) : local()!.setItem(PREFIX + key, value)));
}

/** From now on values are stored, beginning with those of this page, or (false) in memory alone. */
export function store(on: boolean): void {
  if (on === storing) return;
  storing = on;
  seen = undefined;
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
  seen = undefined;
  safe(() => {
    for (const [name] of document.cookie.split("; ").map((part) => part.split("="))) {
      if (name!.startsWith(PREFIX)) writeCookie(name!.slice(PREFIX.length), "", 0);
    }
  });
  safe(() => {
    for (const key of Object.keys(localStorage)) if (key.startsWith(PREFIX)) localStorage.removeItem(key);
  });
}

export function readCookie(key: string): string | undefined {
  return safe(() => decodeURIComponent(RegExp(`(?:^|; )${PREFIX + key}=([^;]*)`).exec(document.cookie)![1]!));
}

function writeCookie(key: string, value: string, maxAgeS: number, on = (domain ??= widestDomain())): void {
  document.cookie =
    `${PREFIX}${key}=${encodeURIComponent(value)}; Path=/; Max-Age=${maxAgeS}; SameSite=Lax` +
    (on && `; Domain=${on}`) +
    (location.protocol === "https:" ? "; Secure" : "");
}

/** The widest domain on which the browser lets this host set a cookie; '' = this host alone (also IPs, localhost). */
function widestDomain(): string {
  const parts = location.hostname.split(".");
  if (/^[\d.]+$/.test(location.hostname)) return "";
  for (let n = 2; n <= parts.length; n++) {
    const wide = parts.slice(-n).join(".");
    writeCookie("try", "1", 9, wide);
    const settable = readCookie("try");
    writeCookie("try", "", 0, wide);
    if (settable) return wide;
  }
  return "";
}
