/* /t.lite.js: page, track, identify and what they need, for sites that count every byte. Against /t.js it lacks the queue that
 * outlives the page, localStorage, sessions, attribution, single-page applications, listeners, the time zone and the other
 * calls; what leaves looks the same. docs/snippet.md has the whole list.
 */
import { page, context, turnPage } from "../core/context";
import { dropStored, readCookie, writeCookie } from "../core/cookies";
import { encode, safe, type Fields } from "../core/env";
import { split } from "../core/split";

/** Smaller than the one of /t.js: where the browser has none, not of its best randomness. */
const uuid = (): string =>
  safe(() => crypto.randomUUID()) ||
  "10000000-1000-4000-8000-100000000000".replace(/[018]/g, (c: any) => (c ^ ((Math.random() * 16) >> (c / 4))).toString(16));

function start(): void {
  const BATCH_EVENTS = 50;
  const MAX_QUEUE = 20_000;
  const MAX_HELD = 1000;
  /** Browsers allow 64 KiB for all keepalive requests and beacons together; a character is at most 3 bytes. */
  const MAX_CHARS = 20_000;
  const DELAY_MS = 250;
  const MAX_WAIT_MS = 600_000;
  const MAX_ANSWER_MS = 30_000;

  const doc = document as any;
  const script: HTMLScriptElement = doc.currentScript || doc.querySelector("[data-write-key]");
  const { writeKey, endpoint, path = "/v1/batch", global: name = "tracker", consent, storage, dnt } = script.dataset;
  // Not by URL: pages have variables of this name. Without an address it throws.
  const url = (endpoint || /.+?\w\//.exec(script.src)![0]).replace(/\/$/, "") + path;

  /* Whether anything may leave, and who is here. */

  /** What the person said: a yes (true, or by category), false, nothing. */
  let said: any = safe(() => JSON.parse(readCookie("consent")!));
  /** Where nothing is said, does it leave? undefined: it waits. */
  const otherwise = consent === "required" ? undefined : dnt === "ignore" || !((navigator as any).globalPrivacyControl || (navigator as any).doNotTrack > 0);
  let storing = said ?? (storage !== "none" && otherwise);
  /** What is not in cookies. */
  let memory: Record<string, string> = {};

  const read = (key: string): string | undefined => (storing && readCookie(key)) || memory[key];

  function write(key: string, value: string): void {
    memory[key] = value;
    if (storing && writeCookie(key, value)) delete memory[key];
  }

  const renew = (): void => write("anonymous_id", uuid());

  /* Delivery: one request at a time; what fails is tried again as long as the page is there. */

  let queue: string[] = [];
  let inFlight: string[] = [];
  let backoffMs = 0;
  /** Until when the endpoint wants nothing (Retry-After). */
  let notBefore = 0;
  let timer = 0;

  /** How many events the next request takes. */
  function fitting(): number {
    let chars = 0;
    let n = 0;
    while (n < BATCH_EVENTS && queue[n] && (chars += queue[n]!.length) < MAX_CHARS) n++;
    return n || 1;
  }

  const body = (batch: string[]): string =>
    JSON.stringify({ writeKey, sentAt: new Date() }).slice(0, -1) + `,"batch":[${batch}]}`;

  async function flush(): Promise<void> {
    clearTimeout(timer);
    timer = 0;
    if (inFlight[0]) return;
    if (queue[0] && notBefore <= performance.now()) {
      let status: unknown = 500;
      try {
        const text = body((inFlight = queue.splice(0, fitting())));
        // Without keepalive where one event is too large for it.
        const response = await fetch(url, { method: "POST", body: text, keepalive: !text[MAX_CHARS + 1000], signal: safe(() => AbortSignal.timeout(MAX_ANSWER_MS)) });
        const after: any = response.headers.get("Retry-After");
        notBefore = performance.now() + Math.min(MAX_WAIT_MS, after * 1000 || Date.parse(after) - Date.now() || 0);
        status = response.status;
        await response.text();
      } catch {}
      if (/5..|429|408/.test(status as string)) {
        // A no has emptied it.
        queue = inFlight.concat(queue);
        backoffMs = Math.min(MAX_WAIT_MS, backoffMs * 2 || 1000);
      } else backoffMs = 0;
      inFlight = [];
    }
    schedule();
  }

  function schedule(): void {
    queue.splice(0, queue.length - MAX_QUEUE);
    if (queue[0]) {
      timer = timer || setTimeout(flush, Math.max(backoffMs || (queue[BATCH_EVENTS] ? 0 : DELAY_MS), notBefore - performance.now()));
    }
  }

  function leave(): void {
    // A request without keepalive dies with the page.
    if (!safe(() => "keepalive" in Request.prototype)) {
      queue = inFlight.concat(queue);
      inFlight = [];
    }
    while (queue[0] && notBefore <= performance.now() && safe(() => navigator.sendBeacon(url, body(queue.slice(0, fitting()))))) {
      queue.splice(0, fitting());
    }
    flush();
  }

  /** A page in the background may be ended without another word. While the endpoint fails, it is rather tried again. */
  const hide = (): void => {
    if (doc.hidden && !backoffMs) leave();
  };

  /* Calls */

  let calledAt = 0;
  /** How many calls of the stub's queue have been taken. */
  let taken = 0;
  const held: unknown[] = [];

  function send(type: string, fields: Fields, { context: more, timestamp, ...options }: any): void {
    if (!read("anonymous_id")) renew();
    // A call that the stub has sent only says who is here.
    if (taken < target.then) return;
    queue.push(
      encode({
        type,
        messageId: uuid(),
        timestamp: new Date(timestamp || calledAt || Date.now()),
        anonymousId: read("anonymous_id"),
        userId: read("user_id") || undefined,
        ...fields,
        ...options,
        context: { ...context(), consent: said === true ? "granted" : said, ...more },
      }),
    );
    void Promise.resolve().then(hide);
    schedule();
  }

  const methods: Record<string, (...args: any[]) => void> = {
    page(...args) {
      const [names, properties, options] = split(args, 2);
      turnPage();
      send("page", { name: names.pop(), category: names[0], properties: { ...page(), ...properties } }, options);
    },
    track(...args) {
      const [[event], properties, options] = split(args);
      send("track", { event, properties }, options);
    },
    identify(...args) {
      const [[id], traits, options] = split(args);
      const before = read("user_id");
      if (id) {
        // Another person at the same browser.
        if (before && before !== id) renew();
        write("user_id", id);
      }
      send("identify", { traits }, options);
    },
    reset() {
      write("user_id", "");
      renew();
    },
    flush,
    /** The attributes of the script have said it all. */
    load() {},
    /** The callback is called as that of any call. */
    ready() {},
    optOut: () => say(false),
    consent: say,
  };

  function say(choice: any): void {
    // By category, `analytics` decides. What is no yes is a no.
    storing = said = /^(true|granted)$/.test(Object(choice).analytics || choice) && choice;
    if (!said) {
      queue = [];
      inFlight = [];
      memory = {};
      dropStored();
    }
    if (said || consent !== "required") writeCookie("consent", JSON.stringify(said));
    // A page may have put things into Object.prototype.
    Object.keys(memory).map((key) => write(key, memory[key]!));
    release();
  }

  /** [time or 0, method, ...arguments] */
  function call(queued: any): void {
    safe(() => {
      const [at, method, ...args] = queued;
      let callback: any;
      const plain = args.filter((arg: unknown) => typeof arg !== "function" || !(callback = arg));
      const { prerendering } = doc;
      const may = prerendering ? undefined : said ?? otherwise;
      calledAt = at;
      if (may || !/^[tpi]|set/.test(method)) methods[method]!(...plain);
      // Nobody saw a page that was being prerendered: its calls count from when it is shown.
      else if (may == null && held.length < MAX_HELD) held.push([prerendering ? 0 : at || Date.now(), method, ...plain]);
      if (callback) setTimeout(callback);
    }, queued && queued[1]);
  }

  const release = (): unknown => held.splice(0).map(call);

  const target = ((window as any)[name] ||= []);
  if (target.loaded) return;
  const waiting: unknown[] = ([] as any).splice.call(target, 0);
  for (const method in methods) target[method] = async (...args: unknown[]) => call([0, method, ...args]);
  target.push = call;
  target.loaded = true;
  addEventListener("pagehide", leave);
  addEventListener("online", flush);
  doc.addEventListener("visibilitychange", hide);
  doc.addEventListener("prerenderingchange", release);
  for (; waiting[taken]; taken++) call(waiting[taken]);
}

safe(start, "start");
