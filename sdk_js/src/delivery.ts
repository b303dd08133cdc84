/* Delivery: a bounded queue of encoded messages that leaves in batches, is tried again until the endpoint has answered,
 * and survives the page. A message keeps its messageId over all tries, and the endpoint drops repeats, so sending once
 * more is always safe.
 *
 *   visible page   fetch, keepalive, one request at a time; 5xx, 408, 429 and network errors are tried again with backoff
 *   page hidden    what was never tried leaves by beacon; what failed before waits in localStorage for the next page
 */
import { local, uuid } from "./store";

interface Item {
  json: string;
  bytes: number;
  /** It was tried in vain: it is kept in localStorage until it has been delivered. */
  failed: boolean;
}

/** Browsers allow 64 KiB for all keepalive requests and beacons together. */
const MAX_CHUNK_BYTES = 60_000;
const MAX_QUEUE = 10_000;
const MAX_STORED_CHARS = 1_000_000;
const BATCH_EVENTS = 100;
const DELAY_MS = 250;
const MAX_BACKOFF_MS = 30_000;
const MAX_RETRY_AFTER_MS = 600_000;
/** The queue of a page that did not touch it for so long (longer than any wait above) belongs to a dead one. */
const ORPHAN_MS = 720_000;
const PREFIX = "trk_q.";

export function warn(text: string, reason?: unknown): void {
  try {
    console.warn("tracker: " + text, reason ?? "");
  } catch {
    // no console
  }
}

/** A handler that never throws into the page. */
function quietly(handler: () => void): () => void {
  return () => {
    try {
      handler();
    } catch (e) {
      warn("delivery", e);
    }
  };
}

export class Delivery {
  private queue: Item[] = [];
  private inFlight: Item[] = [];
  private tries = 0;
  private notBefore = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private readonly storeKey = PREFIX + uuid();
  private stored = false;

  constructor(
    private readonly url: string,
    private readonly writeKey: string,
  ) {
    quietly(() => this.adopt())();
    addEventListener("pagehide", quietly(() => this.leave()));
    document.addEventListener(
      "visibilitychange",
      quietly(() => (document.visibilityState === "hidden" ? this.leave() : this.comeBack())),
    );
    addEventListener("pageshow", quietly(() => this.comeBack()));
    addEventListener(
      "online",
      quietly(() => {
        this.notBefore = 0;
        this.flush();
      }),
    );
    if (this.queue.length) this.schedule(DELAY_MS);
  }

  push(json: string): void {
    const bytes = new Blob([json]).size;
    if (bytes > MAX_CHUNK_BYTES) return warn(`an event of ${bytes} bytes is too large and was dropped`);
    this.queue.push({ json, bytes, failed: false });
    this.trim();
    if (document.visibilityState === "hidden") this.leave();
    else if (this.queue.length >= BATCH_EVENTS) this.flush();
    else this.schedule(DELAY_MS);
  }

  flush(): void {
    if (this.inFlight.length || !this.queue.length) return;
    const wait = this.notBefore - Date.now();
    if (wait > 0) return this.schedule(wait);
    clearTimeout(this.timer);
    this.timer = undefined;
    this.inFlight = this.take(this.queue);
    const body = this.body(this.inFlight);
    // In a promise, so that a fetch that throws (blocked, replaced) counts as one that failed.
    new Promise<Response>((resolve) => resolve(fetch(this.url, { method: "POST", body, keepalive: true, credentials: "omit" })))
      .then((response) => {
        if (response.ok) return this.done();
        if (response.status >= 500 || response.status === 429 || response.status === 408) {
          return this.fail(Number(response.headers.get("Retry-After")) * 1000 || 0);
        }
        // Any other answer means "never again".
        warn(`${this.inFlight.length} events were refused with status ${response.status}`);
        this.done();
      })
      .catch(() => this.fail(0));
  }

  private done(): void {
    this.inFlight = [];
    this.tries = this.notBefore = 0;
    if (this.stored) this.persist();
    if (this.queue.length) this.schedule(this.queue.length >= BATCH_EVENTS || this.queue[0]!.failed ? 0 : DELAY_MS);
  }

  private fail(retryAfterMs: number): void {
    for (const item of this.inFlight) item.failed = true;
    this.queue = this.inFlight.concat(this.queue);
    this.inFlight = [];
    this.trim();
    const backoffMs = Math.min(MAX_BACKOFF_MS, 1000 * 2 ** this.tries++) * (0.5 + Math.random() / 2);
    const waitMs = Math.max(backoffMs, Math.min(retryAfterMs, MAX_RETRY_AFTER_MS));
    this.notBefore = Date.now() + waitMs;
    this.persist();
    this.schedule(waitMs);
  }

  /** The page may be gone after this. */
  private leave(): void {
    if (navigator.onLine !== false) {
      let fresh = this.queue.filter((item) => !item.failed);
      // A fetch without keepalive dies with the page.
      if (!("keepalive" in Request.prototype)) fresh = this.inFlight.concat(fresh);
      while (fresh.length) {
        const chunk = this.take(fresh);
        if (!this.beacon(chunk)) break;
        this.queue = this.queue.filter((item) => !chunk.includes(item));
      }
    }
    if (this.queue.length || this.stored) this.persist(true);
  }

  private beacon(chunk: Item[]): boolean {
    try {
      return navigator.sendBeacon(this.url, this.body(chunk));
    } catch {
      return false;
    }
  }

  private comeBack(): void {
    // While this page was away, another one has taken its queue over and sends it.
    if (this.stored && !this.inFlight.length && local()?.getItem(this.storeKey) == null) {
      this.queue = this.queue.filter((item) => !item.failed);
      this.stored = false;
    }
    this.flush();
  }

  /** Removes and returns the first items of `from` that fit in one request. */
  private take(from: Item[]): Item[] {
    let bytes = this.body([]).length;
    let n = 0;
    while (n < from.length && n < 500 && (bytes += from[n]!.bytes + 1) <= MAX_CHUNK_BYTES) n++;
    return from.splice(0, n || 1);
  }

  private body(items: Item[]): string {
    const head = JSON.stringify({ writeKey: this.writeKey, sentAt: new Date().toISOString() });
    return `${head.slice(0, -1)},"batch":[${items.map((item) => item.json).join()}]}`;
  }

  private schedule(ms: number): void {
    if (ms > DELAY_MS || ms === 0) {
      clearTimeout(this.timer);
      this.timer = undefined;
    }
    this.timer ??= setTimeout(() => {
      this.timer = undefined;
      this.flush();
    }, ms);
  }

  private trim(): void {
    const over = this.queue.length - MAX_QUEUE;
    if (over > 0) {
      this.queue.splice(0, over);
      warn(`the queue is full: ${over} oldest events were dropped`);
    }
  }

  /** Writes what is not delivered under this page's own key. `released`: any page may take it over at once. */
  private persist(released = false): void {
    const items = this.inFlight.filter((item) => item.failed).concat(this.queue);
    let chars = 0;
    const kept = items.map((item) => item.json).reverse().filter((json) => (chars += json.length) < MAX_STORED_CHARS).reverse();
    try {
      if (kept.length) local()?.setItem(this.storeKey, JSON.stringify({ t: released ? 0 : Date.now(), k: this.writeKey, q: kept }));
      else local()?.removeItem(this.storeKey);
      this.stored = kept.length > 0;
    } catch {
      // blocked or full: the queue lives in memory alone
    }
    // What is stored is not sent by beacon as well: it would come again when its messageId is long forgotten.
    if (this.stored) for (const item of items) item.failed = true;
  }

  /** Takes over what pages before this one could not deliver. */
  private adopt(): void {
    const storage = local();
    if (!storage) return;
    for (const key of Object.keys(storage).filter((k) => k.startsWith(PREFIX))) {
      try {
        const { t, k, q } = JSON.parse(storage.getItem(key) ?? "{}");
        if (k !== this.writeKey || Date.now() - t < ORPHAN_MS) continue;
        storage.removeItem(key);
        for (const json of q) this.queue.push({ json: String(json), bytes: new Blob([json]).size, failed: true });
      } catch {
        storage.removeItem(key);
      }
    }
    this.trim();
    if (this.queue.length) this.persist();
  }
}
