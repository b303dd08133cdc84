/* Small values that outlive the page: a first-party cookie; localStorage where cookies are blocked; memory where both are, or
 * while nothing may be stored. */
import { dropStored, PREFIX, readCookie, writeCookie } from "./cookies";
import { safe } from "./env";

export { PREFIX, readCookie };
const MAX_COOKIE_CHARS = 1000;

const memory: Record<string, string> = {};
/** What this task has read: a burst of calls reads each cookie once, and the next task sees what other tabs wrote. */
let seen: Record<string, string | undefined> | undefined;
let storing = false;

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
  const inCookie = value.length < MAX_COOKIE_CHARS && writeCookie(key, value);
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
  dropStored();
}
