/* Whether events may leave and whether anything may be stored.
 *
 *   what the person said          events      stored
 *   yes (consent(true))           leave       cookie, localStorage
 *   no (consent(false), optOut)   dropped     nothing; without `consent: required` a cookie that says no
 *   nothing, consent: required    held        nothing
 *   nothing, browser says GPC/DNT dropped     nothing
 *   nothing, storage: none        leave       nothing
 *   nothing                       leave       cookie, localStorage
 */
import { renewCookie } from "./cookies";
import { forget, readCookie, store, write } from "./store";
import { parse, type Fields } from "./env";
import type { Options } from "../types";

/** true or "granted" is a yes, anything else a no; by category, `{analytics: true, ads: false}`, `analytics` decides. */
export type Choice = boolean | string | Fields;

export const HELD = 1;
export const OPEN = 2;
const CLOSED = 0;
const KEY = "consent";

let choice: Choice | undefined;
/** The cookie as this page has left it. */
let kept: string | undefined;
let required = false;
/** GPC and DNT do not count. */
let ignored = false;

export function start({ consent, storage, dnt }: Options): void {
  required = consent === "required";
  ignored = dnt === "ignore";
  kept = readCookie(KEY);
  choice = parse(kept);
  if (choice != null && !state()) renewCookie(KEY);
  store(state() === OPEN && !(storage === "none" && choice == null));
}

/** CLOSED (0), HELD or OPEN. */
export function state(): number {
  if (choice != null) return says(choice) ? OPEN : CLOSED;
  if (required) return HELD;
  return !ignored && ((navigator as any).globalPrivacyControl || (navigator as any).doNotTrack == 1) ? CLOSED : OPEN;
}

/** What an event says about it: `context.consent`. */
export const said = (): unknown => (choice === true ? "granted" : choice);

export function say(value: Choice): void {
  choice = value || false;
  const open = state() === OPEN;
  if (!open) forget();
  if (open || !required) {
    store(true);
    write(KEY, JSON.stringify(open && choice));
  }
  store(open);
  kept = readCookie(KEY);
}

/** What was said in another tab since. Where consent is required a no leaves no cookie; elsewhere a cookie that is gone says
 * nothing (the browser has forgotten it). */
export function heard(): Choice | undefined {
  const now = readCookie(KEY);
  return now === kept || !(now || required) ? undefined : parse(now) || false;
}

const says = (value: Choice): boolean => /^(true|granted)$/.test((Object(value) === value ? (value as Fields)["analytics"] : value) as string);
