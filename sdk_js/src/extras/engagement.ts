/* How long and how far a page is read: `Page Engaged` when a page view begins, every 15 s while it is visible and somebody
 * does something, and a last one when it is left. The time on a page is the sum of min(gap, 30 s) of these (A107);
 * `engaged_ms` is the exact time since the last one, `scroll_percent` how far down the page was seen. */
import { beforeLeaving } from "../core/delivery";
import { hidden, listen } from "../core/env";
import { on, track, viewed } from "../core/tracker";

const BEAT_MS = 15_000;
/** Without a sign of the visitor for so long nobody reads. */
const IDLE_MS = 30_000;
const TICK_MS = 1000;
/** Less than this is no news. */
const LEAST_MS = 1000;

let engagedMs = 0;
let lastTick = 0;
export let lastSign = 0;
let scrolled = 0;
let told = 0;

/** How far down the page has been seen, 0 to 100. */
export function scrollPercent(): number {
  const { scrollHeight } = document.documentElement;
  return Math.min(100, Math.round(((scrollY + innerHeight) / Math.max(scrollHeight, 1)) * 100));
}

const sign = (): void => {
  lastSign = Date.now();
};

/** Popups count the inactive seconds with it. */
export function watchSigns(): void {
  sign();
  listen(window, "scroll pointerdown pointermove keydown touchstart", sign);
}

export function start(): void {
  /** Adds the time since the last look, unless nobody was there; a machine that slept makes no long step. */
  const look = (): void => {
    const now = Date.now();
    if (Math.abs(now - lastSign) < IDLE_MS) engagedMs += Math.max(0, Math.min(now - lastTick, 2 * TICK_MS));
    lastTick = now;
    scrolled = Math.max(scrolled, scrollPercent());
  };
  const beat = (): void => {
    track("Page Engaged", { engaged_ms: engagedMs, scroll_percent: scrolled }, { context: { page: viewed } });
    engagedMs = 0;
    told = scrolled;
  };
  const leave = (): void => {
    if (!lastTick) return;
    look();
    if (engagedMs >= LEAST_MS || scrolled > told) beat();
  };
  beforeLeaving.push(leave);
  on("pageend", leave);
  on("page", () => {
    sign();
    lastTick = lastSign;
    engagedMs = scrolled = 0;
    look();
    beat();
    // Opened behind another page: nobody reads it yet.
    if (hidden()) lastTick = 0;
  });
  watchSigns();
  listen(document, "visibilitychange", () => {
    lastTick = hidden() ? 0 : Date.now();
    if (lastTick) sign();
  });
  setInterval(() => {
    if (hidden() || !lastTick) return;
    look();
    if (engagedMs >= BEAT_MS) beat();
  }, TICK_MS);
}
