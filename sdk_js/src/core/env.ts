/* The page's ground, which may be broken or missing in any part: nothing here throws. */

export type Fields = Record<string, unknown>;

export function warn(text: string, reason?: unknown): void {
  safe(() => console.warn("tracker: " + text, reason || ""));
}

/** What `action` returns; undefined where it throws, with a word in the console about `what`. */
export function safe<T>(action: () => T, what?: string): T | undefined {
  try {
    return action();
  } catch (e) {
    if (what) warn(what, e);
  }
}

export const isFunction = (value: unknown): value is (...args: any[]) => any => typeof value === "function";

/** What stands in `json`; undefined where that is broken or missing. */
export const parse = (json: string | null | undefined): any => safe(() => JSON.parse(json!));

/** JSON of `value`, whose lists stay lists where the page gave Array.prototype a toJSON (Prototype.js 1.6: it makes texts). */
export const encode = (value: unknown): string =>
  JSON.stringify(value, function (this: any, key, coded) {
    const given = this[key];
    return Array.isArray(given) ? given : coded;
  });

/** Each adds one listener of ours, which changes nothing where it is there. */
const listening: (() => void)[] = [];

/** `types`: names, separated by spaces. A handler that throws says so in the console, not to the page. */
export function listen<E extends Event = Event>(target: EventTarget, types: string, handler: (event: E) => void): void {
  for (const type of types.split(" ")) {
    const hear = (event: Event): unknown => safe(() => handler(event as E), type);
    // On the window and the document touches are passive without a word.
    const add = (): void => target.addEventListener(type, hear, true);
    add();
    listening.push(add);
  }
}

/** document.open() takes all listeners of the document and the window away. */
export const listenAgain = (): unknown => listening.map((add) => add());

export const hidden = (): boolean => document.hidden;

/** A random uuid (version 4). crypto.randomUUID exists in secure contexts only. */
export function uuid(): string {
  return (
    safe(() => crypto.randomUUID()) ||
    "10000000-1000-4000-8000-100000000000".replace(/[018]/g, (c) => (+c ^ (randomByte() & (15 >> (+c / 4)))).toString(16))
  );
}

const randomByte = (): number => safe(() => crypto.getRandomValues(new Uint8Array(1))[0]) || Math.random() * 256;
