/* Popups by rule (A303): never on arrival. popup.register({id, when, cap, asks, show}) shows a popup when its conditions hold
 * and its caps allow it, and tells what became of it:
 *
 *   Popup Eligible -> Popup Triggered -> Popup Viewed -> Popup Clicked | Popup Dismissed | Popup Submitted
 *
 * `show(told)` draws it and calls told.clicked(), told.dismissed(), told.submitted() with properties; what is told after it was
 * dismissed or submitted does not count. One is open at a time. When show() returns false or throws, nothing was shown: that
 * costs nothing of the caps, and it is tried again at the next page. With a holdout (0 to 1) that share of visitors is eligible and sees nothing: they are who the harm of a
 * popup (A304) is compared with.
 */
import { encode, hidden, isFunction, listen, parse, safe, warn, type Fields } from "../core/env";
import { local, read, PREFIX } from "../core/store";
import { methods, on, track } from "../core/tracker";
import { lastSign, scrollPercent, watchSigns } from "./engagement";
import type { Popup, When } from "../types";

const HOUR_MS = 3_600_000;
const DEFAULT_WHEN = { secondsOnSite: 30, pages: 2, scrollPercent: 50 };
const CONDITIONS = ["secondsOnSite", "pages", "scrollPercent", "inactiveSeconds", "exitIntent"] as const;
/** Also the quickest exit is no arrival. */
const LEAST_SECONDS = 5;

/** This visit so far; kept in localStorage over its pages. */
interface Visit {
  id: string;
  secondsOnSite: number;
  pages: number;
  scrollPercent: number;
  /** Popup -> how often it was shown in this visit. */
  shown: Record<string, number>;
}
/** `triedAt_`: the page view at which nothing was shown. */
type Registered = Popup & { triedAt_?: number };
let popups: Registered[] = [];
let now: Visit;
/** Pages viewed since the script has started. */
let viewed = 0;

const recall = (key: string): any => safe(() => parse(local()!.getItem(PREFIX + key))) || memory[key];
const memory: Fields = Object.create(null);
function keep(key: string, value: unknown): void {
  memory[key] = value;
  safe(() => local()!.setItem(PREFIX + key, encode(value)));
}

/** The visit as it stands; a new one when its id has changed. */
function visit(): Visit {
  const id = (read("visit") || "").split("~")[0]!;
  if (!now) now = recall("visited") || { pages: 0, shown: {} };
  if (now.id !== id) now = { id, secondsOnSite: 0, pages: viewed, scrollPercent: 0, shown: {} };
  return now;
}

/** Whether `popup` may be shown now; `exits`: the visitor seems to go. */
function eligible({ id, when = {}, cap = {}, asks }: Popup, exits: boolean): boolean {
  const { shown, ...facts } = { ...visit(), inactiveSeconds: (Date.now() - lastSign) / 1000, exitIntent: exits };
  const conditions = (asked: When): boolean[] =>
    CONDITIONS.filter((name) => asked[name]).map((name) => facts[name] >= asked[name]!);
  const own = conditions(when);
  const all = own[0] == null ? conditions(DEFAULT_WHEN) : own;
  const { shownAt = 0, submittedAt = 0 } = recall("popup." + id) || {};
  const { perVisit = 1, hours = 24, daysAfterSubmit = 30 } = cap;
  return (
    (when.any ? all.includes(true) : !all.includes(false)) &&
    (when.onArrival || facts.secondsOnSite >= LEAST_SECONDS) &&
    (shown[id] || 0) < perVisit &&
    Date.now() - shownAt >= hours * HOUR_MS &&
    Date.now() - submittedAt >= daysAfterSubmit * 24 * HOUR_MS &&
    !(recall("known") || []).includes(asks)
  );
}

function check(exits: boolean): void {
  if (hidden()) return;
  for (const popup of popups) {
    if (popups.some(({ open }) => open)) return;
    if (popup.triedAt_ !== viewed && eligible(popup, exits)) trigger(popup, exits ? "exit" : "rule");
  }
}

function trigger(popup: Registered, trigger: string): void {
  const { id, holdout = 0 } = popup;
  const tell = (action: string, more?: Fields): void => track("Popup " + action, { popup_id: id, provider: "tracker", trigger, ...more });
  const remember = (what: Fields): void => keep("popup." + id, { ...recall("popup." + id), ...what });
  const spend = (): void => {
    remember({ shownAt: Date.now() });
    visit().shown[id] = (now.shown[id] || 0) + 1;
    keep("visited", now);
  };
  /** What ends it, or (clicked) is told while it is open. */
  const told =
    (action: string, open?: boolean): ((more?: Fields) => void) =>
    (more) => {
      if (!popup.open) return;
      popup.open = open;
      if (action === "Submitted") remember({ submittedAt: Date.now() });
      tell(action, more);
    };
  // The same visitor is always on the same side.
  const side = recall("side") || Math.random();
  keep("side", side);
  const out = side < holdout;
  tell("Eligible", { holdout: out || undefined });
  if (out) return spend();
  tell("Triggered");
  popup.open = true;
  const draws = (): boolean =>
    popup.show({ clicked: told("Clicked", true), dismissed: told("Dismissed"), submitted: told("Submitted") }) !== false;
  if (!safe(draws, id)) {
    popup.open = false;
    popup.triedAt_ = viewed;
  } else {
    tell("Viewed");
    spend();
  }
}

export function start(): void {
  methods["popup.register"] = (popup: Popup) => {
    if (!popup.id || !isFunction(popup.show)) return warn("popup?");
    // A component that is mounted again.
    const known = popups.find(({ id }) => id === popup.id);
    known ? Object.assign(known, popup) : popups.push({ ...popup });
  };
  methods["popup.show"] = (id: string) => popups.map((popup) => popup.id === id && trigger(popup, "call"));
  on("page", () => {
    visit().pages++;
    viewed++;
    keep("visited", now);
  });
  on("identify", (...args: unknown[]) => {
    const traits = args.find((arg) => arg && typeof arg === "object") as Fields | undefined;
    keep("known", [...(recall("known") || []), ...Object.keys(traits || {}).filter((name) => traits![name])].slice(-50));
  });
  watchSigns();
  // The pointer leaves over the top, where the tabs and the address are.
  listen<MouseEvent>(document, "mouseout", ({ relatedTarget, clientY }) => {
    if (!relatedTarget && clientY <= 0) check(true);
  });
  setInterval(() => {
    if (hidden()) return;
    visit().secondsOnSite++;
    now.scrollPercent = Math.max(now.scrollPercent, scrollPercent());
    keep("visited", now);
    check(false);
  }, 1000);
}
