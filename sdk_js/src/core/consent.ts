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
import { forget, readCookie, store, write } from "./store";
import { safe, type Fields } from "./env";

/** true, false, or by category: `{analytics: true, ads: false}`; `analytics` decides about events. */
export type Choice = boolean | Fields;

export const HELD = 1;
export const OPEN = 2;
const CLOSED = 0;
const KEY = "consent";

let choice: Choice | undefined;
let required = false;
let dnt = true;

/** `honoured`: whether GPC and DNT count. */
export function start(isRequired: boolean, isCookieless: boolean, honoured: boolean): void {
  required = isRequired;
  dnt = honoured;
  choice = safe(() => JSON.parse(readCookie(KEY)!) as Choice);
  store(state() === OPEN && !(isCookieless && choice == null));
}

/** CLOSED (0), HELD or OPEN. */
export function state(): number {
  if (choice != null) return says(choice) ? OPEN : CLOSED;
  if (required) return HELD;
  const { globalPrivacyControl, doNotTrack } = navigator as unknown as Fields;
  return dnt && (globalPrivacyControl || doNotTrack == 1) ? CLOSED : OPEN;
}

/** What an event says about it: `context.consent`. */
export const said = (): unknown => (choice === true ? "granted" : choice);

export function say(value: Choice): void {
  choice = value;
  const open = state() === OPEN;
  if (!open) forget();
  if (open || !required) {
    store(true);
    write(KEY, JSON.stringify(open && value));
  }
  store(open);
}

const says = (value: Choice): boolean => !!(typeof value === "object" ? value["analytics"] : value);
