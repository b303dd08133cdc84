/* Delivery: a bounded queue of encoded messages that leaves in batches, is tried again until the endpoint has answered,
 * and survives the page. A message keeps its messageId over all tries, and the worker drops repeats, so sending once
 * more is always safe.
 *
 *   visible page   fetch, keepalive, one request at a time; 5xx, 408, 429 and network errors are tried again with backoff
 *   page hidden    what was never tried leaves by beacon; what failed before waits in localStorage for the next page
 *
 * Each page writes under a key of its own, so tabs never write over each other; taking over what a page has left behind
 * is done by one tab at a time.
 */
import { encode, hidden, listen, parse, safe, uuid, warn } from "./env";
import { local, PREFIX } from "./store";

interface Item {
  json_: string;
  bytes_: number;
  /** It was tried in vain: it is kept in localStorage until it has been delivered. */
  failed_: boolean;
}

/** Browsers allow 64 KiB for all keepalive requests and beacons together. */
const MAX_CHUNK_BYTES = 60_000;
const MAX_QUEUE = 20_000;
/** Of all pages of the site together. */
const MAX_STORED_CHARS = 1_000_000;
const BATCH_EVENTS = 100;
const DELAY_MS = 250;
const MAX_BACKOFF_MS = 30_000;
const MAX_RETRY_AFTER_MS = 600_000;
const MAX_ANSWER_MS = 30_000;
/** What was in flight when the page was left for a while is answered so soon, or not at all. */
const LATE_MS = 500;
/** The queue of a page that did not touch it for so long (longer than any wait above) belongs to a dead one. */
const ORPHAN_MS = 720_000;
/** Left behind for so long by a page with another write key, nobody wants it any more. */
const STALE_MS = 604_800_000;
const CLAIM_MS = 200;
const QUEUE = PREFIX + "q.";
const CLAIM = PREFIX + "claim";

let url: string;
let writeKey: string;
let queue: Item[] = [];
let inFlight: Item[] = [];
let tries = 0;
/** No request before this time, ms; `told`: by the endpoint's word (Retry-After), not by our own backoff. */
let notBefore = 0;
let told = false;
let timer: ReturnType<typeof setTimeout> | undefined;
let ownKey: string;
const newKey = (): string => QUEUE + uuid();
let stored = false;
let leaving = false;

/** Called before the page goes, when its last events can still leave. `gone`: it is left, not only hidden. */
export const beforeLeaving: ((gone: boolean) => void)[] = [];
/** Told (encoded messages, status of the answer; 0: none, it goes on trying). */
export const afterSending: ((messages: string[], status: number) => void)[] = [];

export function start(to: string, key: string): void {
  url = to;
  writeKey = key;
  ownKey = newKey();
  listen(window, "pagehide", leave);
  listen(document, "visibilitychange", () => (hidden() ? leave() : comeBack()));
  listen<PageTransitionEvent>(window, "pageshow", ({ persisted }) => {
    // Firefox never tells a page that was in the back/forward cache what became of a request; others do it at once.
    if (persisted && inFlight[0]) setTimeout(fail, LATE_MS, inFlight, 0, 0);
    comeBack();
  });
  listen(window, "online", () => {
    if (!told) notBefore = 0;
    comeBack();
  });
  adopt();
}

const item = (json: string, failed: boolean): Item => ({
  json_: json,
  bytes_: new TextEncoder().encode(json).length,
  failed_: failed,
});

export function push(json: string): void {
  const added = item(json, false);
  if (added.bytes_ > MAX_CHUNK_BYTES) return warn(`dropped: an event of ${added.bytes_} bytes`);
  queue.push(added);
  trim();
  if (leaving) return;
  // A page in the background may be ended without another word; a burst of calls leaves together.
  if (hidden()) void Promise.resolve().then(leave);
  else if (queue.length >= BATCH_EVENTS) flush();
  else schedule(DELAY_MS);
}

export async function flush(): Promise<void> {
  timer = void clearTimeout(timer);
  if (inFlight[0] || !queue[0]) return;
  const wait = notBefore - Date.now();
  if (wait > 0) return schedule(wait);
  const batch = (inFlight = take(queue));
  try {
    const { ok, status, headers } = await request(batch);
    if (/5..|429|408/.test(status as never)) {
      const after = headers.get("Retry-After")!;
      return fail(batch, +after * 1000 || Date.parse(after) - Date.now() || 0, status);
    }
    if (inFlight !== batch) return;
    // Any other refusal means "never again".
    if (!ok) warn(`dropped: ${batch.length} events, status ${status}`);
    tell(batch, status);
    inFlight = [];
    tries = notBefore = 0;
    if (stored) persist();
    if (queue[0]) schedule(queue[BATCH_EVENTS - 1] || queue[0].failed_ ? 0 : DELAY_MS);
  } catch {
    fail(batch, 0, 0);
  }
}

/** Asks the endpoint to set the visitor's cookie, which Safari keeps longer than one of a script. `then`: it has answered. */
export const keepId = (id: string, then: () => void): unknown =>
  safe(() => {
    const how: RequestInit = { method: "POST", keepalive: true, credentials: "include", mode: "no-cors" };
    return fetch(`${url}/id?writeKey=${writeKey}&id=${encodeURIComponent(id)}`, how).then(then, then);
  });

/** Whatever waits is given up, and what is on its way is not tried again: the person does not want it sent. */
export function discard(): void {
  queue = [];
  inFlight = [];
  stored = false;
}

/** Throws at once where fetch does (blocked, replaced): beacon() must know. */
const request = (items: Item[]): Promise<Response> =>
  // What has failed is in localStorage and needs no keepalive, whose 64 KiB other scripts of the page may have taken.
  fetch(url, {
    method: "POST",
    body: body(items),
    keepalive: !items[0]!.failed_,
    credentials: "omit",
    signal: safe(() => AbortSignal.timeout(MAX_ANSWER_MS)),
  }).then((response) =>
    // Unread, an answer goes on taking its request's part of the 64 KiB. A fetch that was replaced may have read it.
    response.text().then(() => response, () => response),
  );

const tell = (items: Item[], status: number): unknown =>
  afterSending.map((told) => told(items.map((each) => each.json_), status));

function fail(batch: Item[], retryAfterMs: number, status: number): void {
  // discard() has been called.
  if (inFlight !== batch) return;
  tell(batch, status);
  for (const each of batch) each.failed_ = true;
  queue = batch.concat(queue);
  inFlight = [];
  trim();
  const backoffMs = Math.min(MAX_BACKOFF_MS, 1000 * 2 ** tries++) * (0.5 + Math.random() / 2);
  told = retryAfterMs > 0;
  const waitMs = Math.max(backoffMs, Math.min(retryAfterMs, MAX_RETRY_AFTER_MS));
  notBefore = Date.now() + waitMs;
  if (hidden()) leave();
  else {
    persist();
    schedule(waitMs);
  }
}

/** The page may be gone after this. */
function leave(event?: Event | void): void {
  if (leaving) return;
  leaving = true;
  for (const last of beforeLeaving) safe(() => last(!!event && event.type === "pagehide"));
  if (navigator.onLine !== false && notBefore <= Date.now()) {
    // A fetch without keepalive dies with the page.
    if (!safe(() => "keepalive" in Request.prototype)) {
      queue = inFlight.concat(queue);
      inFlight = [];
    }
    const fresh = queue.filter((each) => !each.failed_);
    while (fresh[0]) {
      const chunk = take(fresh);
      if (!beacon(chunk)) break;
      tell(chunk, 200);
      queue = queue.filter((each) => !chunk.includes(each));
    }
  }
  // What is stored is not sent by this page as well: whichever is there next takes it over, this one or another.
  if (queue[0] || stored) {
    const kept = persist(true);
    if (kept != null) {
      // The oldest, where there was no room for all, stay: the page may come back.
      queue.splice(Math.max(0, queue.length - kept));
      stored = false;
      ownKey = newKey();
    }
  }
  leaving = false;
}

/** false: there is no room for it now. */
function beacon(items: Item[]): unknown {
  const sent = safe(() => navigator.sendBeacon(url, body(items)));
  return sent == null ? safe(() => request(items).catch(() => 0)) : sent;
}

function comeBack(): void {
  adopt();
  flush();
}

/** Removes and returns the first items of `from` that fit in one request. */
function take(from: Item[]): Item[] {
  let bytes = body([]).length;
  let n = 0;
  while (n < from.length && (bytes += from[n]!.bytes_ + 1) <= MAX_CHUNK_BYTES) n++;
  return from.splice(0, n || 1);
}

/** The write key and the time by this clock, which corrects the events' times, stand in the body: no preflight. */
const body = (items: Item[]): string =>
  JSON.stringify({ writeKey, sentAt: new Date().toISOString() }).slice(0, -1) + `,"batch":[${items.map((each) => each.json_)}]}`;

function schedule(ms: number): void {
  if (ms > DELAY_MS || !ms) timer = void clearTimeout(timer);
  timer ||= setTimeout(() => {
    // A wait is over also where the clock was set back meanwhile.
    if (ms !== DELAY_MS) notBefore = 0;
    void flush();
  }, ms);
}

/** Drops the oldest where there are too many. */
const trim = (): unknown => queue.splice(0, queue.length - MAX_QUEUE);

const queues = (storage: Storage): string[] => Object.keys(storage).filter((key) => key.startsWith(QUEUE));

/** Writes what is not delivered under this page's own key, the newest where it is too much; how many that are, undefined
 * where it can't. `released`: any page may take it over at once. */
function persist(released?: boolean): number | undefined {
  const items = inFlight.filter((each) => each.failed_).concat(queue);
  return safe(() => {
    const storage = local()!;
    let chars = 0;
    for (const key of queues(storage)) if (key !== ownKey) chars += storage[key].length;
    const kept = items.reverse().filter((each) => (chars += each.json_.length) < MAX_STORED_CHARS).reverse();
    if (kept[0]) {
      const record = { t: Date.now() - (released ? ORPHAN_MS : 0), k: writeKey, n: told ? notBefore : 0, q: kept.map((each) => each.json_) };
      storage.setItem(ownKey, encode(record));
      // It is not sent by beacon as well: it would come again when its messageId is long forgotten.
      for (const each of kept) each.failed_ = true;
    } else storage.removeItem(ownKey);
    stored = !!kept[0];
    return kept.length;
  });
}

/** Takes over what pages before this one could not deliver, and what this one has stored when it was left. */
function adopt(): void {
  const left = (): string[] =>
    safe(() => {
      const storage = local()!;
      return queues(storage).filter((key) => {
        const { k, t } = parse(storage[key]) || {};
        // A time that has not come was written by a clock that was wrong.
        return !(Math.abs(Date.now() - t) < (k === writeKey ? ORPHAN_MS : STALE_MS));
      });
    }) || [];
  if (!left()[0]) return;
  const takeOver = (): void => {
    for (const key of left()) {
      safe(() => {
        const { k, n, q } = parse(local()![key]);
        if (k !== writeKey) return;
        for (const json of q) queue.push(item(json, true));
        // A clock that was set back must not stop it for long.
        notBefore = Math.max(notBefore, Math.min(n || 0, Date.now() + MAX_RETRY_AFTER_MS));
        told ||= n > 0;
      });
      safe(() => local()!.removeItem(key));
    }
    trim();
    persist();
    flush();
  };
  // Other tabs learn late of what this one removed, so the lock is kept for a moment.
  const moment = (then?: () => void): Promise<void> =>
    new Promise((resolve) => setTimeout(() => (then && safe(then), resolve()), CLAIM_MS));
  const locks = safe(() => navigator.locks);
  if (locks) {
    locks.request(CLAIM, { ifAvailable: true }, (lock) => lock && (takeOver(), moment())).catch(takeOver);
  } else {
    safe(() => local()!.setItem(CLAIM, ownKey));
    void moment(() => local()!.getItem(CLAIM) === ownKey && takeOver());
  }
}
