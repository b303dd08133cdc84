/* Popups by rule (A303): never on arrival. popup.register({id, when, cap, asks, show}) shows a popup when its conditions hold
 * and its caps allow it, and tells what became of it:
 *
 *   Popup Eligible -> Popup Triggered -> Popup Viewed -> Popup Clicked | Popup Dismissed | Popup Submitted
 *
 * `show(told)` draws it and calls told.clicked(), told.dismissed(), told.submitted() with properties. When it returns false
 * nothing was shown. With a holdout (0 to 1) that share of visitors is eligible and sees nothing: they are who the harm of a
 * popup (A304) is compared with.
 */
import { hidden, listen, safe, SIGNS, warn, type Fields } from "../core/env";
import { local, read, PREFIX } from "../core/store";
import { methods, on, track } from "../core/tracker";
import { scrollPercent } from "./engagement";
import type { Popup, When } from "../types";

const HOUR_MS = 3_600_000;
const DEFAULT_WHEN = { secondsOnSite: 30, pages: 2, scrollPercent: 50 };
/** Also the quickest exit is no arrival. */
const LEAST_SECONDS = 5;

/** This visit so far; kept in localStorage over its pages. */
interface Visit {
  id: string;
  seconds: number;
  pages: number;
  scroll: number;
  /** Popup -> how often it was shown in this visit. */
  shown: Record<string, number>;
}
const popups: Popup[] = [];
let now: Visit;
let lastSign = 0;
/** Pages viewed since the script has started. */
let viewed = 0;

const recall = (key: string): any => safe(() => JSON.parse(local()!.getItem(PREFIX + key)!)) || memory[key];
const memory: Fields = Object.create(null);
function keep(key: string, value: unknown): void {
  memory[key] = value;
  safe(() => local()!.setItem(PREFIX + key, JSON.stringify(value)));
}

/** The visit as it stands; a new one when its id has changed. */
function visit(): Visit {
  const id = (read("visit") || "").split("~")[0]!;
  if (!now) now = recall("visited") || { pages: 0, shown: {} };
  if (now.id !== id) now = { id, seconds: 0, pages: viewed, scroll: 0, shown: {} };
  return now;
}

/** Whether `popup` may be shown now; `exits`: the visitor seems to go. */
function eligible({ id, when = {}, cap = {}, asks }: Popup, exits: boolean): boolean {
  const { seconds, pages, scroll, shown } = visit();
  const conditions = (asked: When): boolean[] =>
    [
      [asked.secondsOnSite, seconds],
      [asked.pages, pages],
      [asked.scrollPercent, scroll],
      [asked.inactiveSeconds, (Date.now() - lastSign) / 1000],
      [asked.exitIntent, exits],
    ]
      .filter(([least]) => least)
      .map(([least, is]) => is! >= least!);
  const own = conditions(when);
  const all = own[0] == null ? conditions(DEFAULT_WHEN) : own;
  const { shownAt = 0, submittedAt = 0 } = recall("popup." + id) || {};
  const { perVisit = 1, hours = 24, daysAfterSubmit = 30 } = cap;
  return (
    (when.any ? all.includes(true) : !all.includes(false)) &&
    (when.onArrival || seconds >= LEAST_SECONDS) &&
    (shown[id] || 0) < perVisit &&
    Date.now() - shownAt >= hours * HOUR_MS &&
    Date.now() - submittedAt >= daysAfterSubmit * 24 * HOUR_MS &&
    !(recall("known") || []).includes(asks)
  );
}

function check(exits: boolean): void {
  if (hidden()) return;
  for (const popup of popups) if (!popup.open && eligible(popup, exits)) trigger(popup, exits ? "exit" : "rule");
}

function trigger(popup: Popup, trigger: string): void {
  const { id, holdout = 0 } = popup;
  const tell = (action: string, more?: Fields): void => track("Popup " + action, { popup_id: id, provider: "tracker", trigger, ...more });
  const end =
    (action: string): ((more?: Fields) => void) =>
    (more) => {
      popup.open = false;
      tell(action, more);
    };
  const past = { ...recall("popup." + id), shownAt: Date.now() };
  keep("popup." + id, past);
  visit().shown[id] = (now.shown[id] || 0) + 1;
  keep("visited", now);
  // The same visitor is always on the same side.
  const side = recall("side") || Math.random();
  keep("side", side);
  const out = side < holdout;
  tell("Eligible", { holdout: out || undefined });
  if (out) return;
  tell("Triggered");
  popup.open = true;
  try {
    const shown = popup.show({
      clicked: (more) => tell("Clicked", more),
      dismissed: end("Dismissed"),
      submitted(more) {
        keep("popup." + id, { ...past, submittedAt: Date.now() });
        end("Submitted")(more);
      },
    });
    if (shown === false) popup.open = false;
    else tell("Viewed");
  } catch (e) {
    warn("popup " + id, e);
  }
}

export function start(): void {
  methods["popup.register"] = (popup: Popup) => popups.push({ ...popup });
  methods["popup.show"] = (id: string) => popups.forEach((popup) => popup.id === id && trigger(popup, "call"));
  on("page", () => {
    visit().pages++;
    viewed++;
    keep("visited", now);
  });
  on("identify", (...args: unknown[]) => {
    const traits = args.find((arg) => arg && typeof arg === "object") as Fields | undefined;
    keep("known", [...(recall("known") || []), ...Object.keys(traits || {}).filter((name) => traits![name])].slice(-50));
  });
  const sign = (): void => {
    lastSign = Date.now();
  };
  sign();
  listen(window, SIGNS, sign);
  // The pointer leaves over the top, where the tabs and the address are.
  listen<MouseEvent>(document, "mouseout", ({ relatedTarget, clientY }) => {
    if (!relatedTarget && clientY <= 0) check(true);
  });
  setInterval(() => {
    if (hidden()) return;
    const { scroll } = visit();
    now.seconds++;
    now.scroll = Math.max(scroll, scrollPercent());
    keep("visited", now);
    check(false);
  }, 1000);
}
