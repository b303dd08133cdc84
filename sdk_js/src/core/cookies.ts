/* First-party cookies on the widest domain that the browser allows, so that a site's subdomains share them. Each look at
 * document.cookie asks another process, so a task looks once. Nothing throws where they are denied. */
import { safe } from "./env";

export const PREFIX = "trk_";

/** document.cookie as this task has seen it; the next one sees what other tabs wrote. */
let jar: string | undefined;
/** The domain that took a cookie of this page; '': this host alone. */
let domain: string | undefined;

function look(): string {
  if (jar == null) {
    jar = document.cookie;
    void Promise.resolve().then(() => (jar = undefined));
  }
  return jar;
}

export const readCookie = (key: string): string | undefined =>
  safe(() => decodeURIComponent(RegExp(`(?:^|; )trk_${key}=([^;]*)`).exec(look())![1]!));

/** Whether the browser has it. One that says the same is left as it is: it would not show which domain takes cookies. */
export const writeCookie = (key: string, value: string): boolean | undefined =>
  safe(
    () =>
      readCookie(key) === value ||
      (domain != null ? [domain] : domains()).some((on) => {
        put(`trk_${key}=${encodeURIComponent(value)}; Max-Age=31536000`, on);
        // The first one of a page is looked for, the others go where that was found.
        if (domain == null && readCookie(key) === value) domain = on;
        return domain === on;
      }),
  );

export const dropCookie = (name: string): void => domains().forEach((on) => put(name + "=; Max-Age=0", on));

/** Writes it once more as it is, where it is: Safari keeps a script's cookie for 7 days after it was written. */
export function renewCookie(key: string): void {
  safe(() => {
    const value = readCookie(key);
    if (value) put(`trk_${key}=${encodeURIComponent(value)}; Max-Age=31536000`, ownDomain());
  });
}

/** The widest domain that takes a cookie of this page; '': this host alone. */
export function ownDomain(): string {
  if (domain == null) {
    writeCookie("try", "1");
    dropCookie("trk_try");
  }
  return domain || "";
}

/** Takes away all of ours, wherever they stand, and what /t.js has put into localStorage. */
export function dropStored(): void {
  safe(() => {
    look().match(/trk_[^=;]+/g)!.map(dropCookie);
  });
  safe(() => {
    for (const key in localStorage) if (key.startsWith("trk_")) delete localStorage[key];
  });
}

/** From the widest to this host alone, which is what is left for addresses and localhost. */
function domains(): string[] {
  const parts = location.hostname.split(".");
  return parts.slice(1).map((_, i) => parts.slice(-2 - i).join(".")).concat("");
}

function put(cookie: string, on: string): void {
  jar = undefined;
  // An empty domain counts as none; of `http:` there is no sixth character.
  document.cookie = cookie + "; Path=/; SameSite=Lax; Domain=" + on + (location.protocol[5] ? "; Secure" : "");
}
