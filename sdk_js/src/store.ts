/* Small values that outlive the page: a first-party cookie (shared by the site's subdomains), localStorage, memory.
 * Any of them can be blocked; nothing here throws. */

/** What no storage would take. */
const memory: Record<string, string | undefined> = Object.create(null);
const YEAR_S = 31_536_000;
let cookieDomain: string | undefined;

/** localStorage, or undefined where it is blocked (reading the property alone can throw). */
export function local(): Storage | undefined {
  try {
    return window.localStorage;
  } catch {
    return undefined;
  }
}

function readCookie(key: string): string | undefined {
  try {
    for (const part of document.cookie.split("; ")) {
      if (part.startsWith(key + "=")) return decodeURIComponent(part.slice(key.length + 1));
    }
  } catch {
    // blocked, or not ours
  }
  return undefined;
}

function writeCookie(key: string, value: string, maxAgeS: number, domain: string): void {
  document.cookie =
    `${key}=${encodeURIComponent(value)}; Path=/; Max-Age=${maxAgeS}; SameSite=Lax` +
    (domain && `; Domain=${domain}`) +
    (location.protocol === "https:" ? "; Secure" : "");
}

/** The widest domain on which the browser lets this host set a cookie; '' = this host alone (also IPs, localhost). */
function widestDomain(): string {
  const parts = location.hostname.split(".");
  if (/^[\d.]+$/.test(location.hostname)) return "";
  for (let n = 2; n <= parts.length; n++) {
    const domain = parts.slice(-n).join(".");
    writeCookie("trk_try", "1", 9, domain);
    const settable = readCookie("trk_try") === "1";
    writeCookie("trk_try", "", 0, domain);
    if (settable) return domain;
  }
  return "";
}

export function read(key: string, withCookie: boolean): string | undefined {
  let value = withCookie ? readCookie(key) : undefined;
  try {
    value = value || local()?.getItem(key) || undefined;
  } catch {
    // blocked
  }
  return value || memory[key];
}

/** '' removes. */
export function write(key: string, value: string, withCookie: boolean): void {
  delete memory[key];
  try {
    if (withCookie) writeCookie(key, value, value ? YEAR_S : 0, (cookieDomain ??= widestDomain()));
  } catch {
    // blocked
  }
  try {
    if (value) local()?.setItem(key, value);
    else local()?.removeItem(key);
  } catch {
    // blocked or full
  }
  if (value && read(key, withCookie) !== value) memory[key] = value;
}

/** A random uuid (version 4). crypto.randomUUID exists in secure contexts only. */
export function uuid(): string {
  try {
    return crypto.randomUUID();
  } catch {
    return "10000000-1000-4000-8000-100000000000".replace(/[018]/g, (c) =>
      (+c ^ (randomByte() & (15 >> (+c / 4)))).toString(16),
    );
  }
}

function randomByte(): number {
  try {
    return crypto.getRandomValues(new Uint8Array(1))[0]!;
  } catch {
    return Math.random() * 256;
  }
}
