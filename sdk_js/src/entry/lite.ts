/* /t.lite.js: page, track, identify and what they need, for sites that count every byte. Against /t.js it lacks the queue
 * in localStorage, sessions, attribution, single-page applications and listeners; what leaves looks the same.
 *
 * With data-consent="required" it does nothing but wait for consent(true): the calls stay where the stub has put them.
 */
import { page, context, turnPage } from "../core/context";
import { hidden, listen, safe, uuid, warn, type Fields } from "../core/env";
import { split } from "../core/split";
import { read, readCookie, store, write } from "../core/store";

const BATCH_EVENTS = 50;
const MAX_QUEUE = 1000;
/** Browsers allow 64 KiB for all keepalive requests and beacons together; a character is at most 3 bytes. */
const MAX_CHARS = 20_000;
const DELAY_MS = 250;
const MAX_WAIT_MS = 600_000;

const script = document.currentScript as HTMLScriptElement;
const { writeKey, endpoint, path = "/v1/batch", global: name = "tracker", consent, dnt } = script.dataset;
const url = (endpoint || new URL(script.src).origin) + path;

let queue: string[] = [];
let sending = false;
let waitMs = 0;
let timer = 0;
let calledAt = 0;

function chunk(): string[] {
  let chars = 0;
  const n = queue.findIndex((json, i) => i >= BATCH_EVENTS || (chars += json.length) > MAX_CHARS);
  return queue.splice(0, n < 0 ? BATCH_EVENTS : n || 1);
}

const body = (batch: string[]): string =>
  JSON.stringify({ writeKey, sentAt: new Date() }).slice(0, -1) + `,"batch":[${batch}]}`;

async function flush(): Promise<void> {
  timer = 0;
  if (sending || !queue[0]) return;
  sending = true;
  const batch = chunk();
  const again = (afterMs: number): void => {
    waitMs = Math.min(MAX_WAIT_MS, afterMs || waitMs * 2 || 1000);
    queue = batch.concat(queue).slice(-MAX_QUEUE);
  };
  try {
    const response = await fetch(url, { method: "POST", body: body(batch), keepalive: true });
    await response.text();
    if (/5..|429|408/.test(`${response.status}`)) again(+response.headers.get("Retry-After")! * 1000);
    else waitMs = 0;
  } catch {
    again(0);
  }
  sending = false;
  schedule();
}

function schedule(): void {
  if (queue[0]) timer = timer || setTimeout(flush, waitMs || DELAY_MS);
}

function leave(): void {
  while (!waitMs && queue[0] && navigator.sendBeacon(url, body(chunk())));
}

function send(type: string, fields: Fields, options: Fields): void {
  let id = read("anonymous_id");
  if (!id) write("anonymous_id", (id = uuid()));
  if (sent) return;
  queue.push(
    JSON.stringify({
      type,
      messageId: uuid(),
      timestamp: new Date(calledAt || Date.now()),
      anonymousId: id,
      userId: read("user_id"),
      ...fields,
      ...options,
      context: { ...context(), consent: said && "granted", ...(options["context"] as Fields) },
    }),
  );
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
    if (id) write("user_id", id);
    send("identify", { traits }, options);
  },
  reset() {
    write("user_id", "");
    write("anonymous_id", uuid());
  },
  flush,
  ready() {
    // The callback is called below, as that of any call.
  },
  optOut: () => methods["consent"]!(false),
  consent(yes) {
    said = !!yes;
    queue = [];
    store(true);
    write("consent", "" + said);
    store(said);
    release();
  },
};

let said: boolean | undefined = safe(() => JSON.parse(readCookie("consent")!));
let held: unknown[] = [];
/** The stub has sent the call that is taken from it: it only says who is here. */
let sent: boolean;
const doc = document as any;
const { globalPrivacyControl, doNotTrack } = navigator as any;
const waits = (): boolean => doc.prerendering || (consent && said == null);
const open = (): boolean => said ?? !(dnt !== "ignore" && (globalPrivacyControl || doNotTrack == 1));

function call(method: string, args: unknown[]): void {
  try {
    if (/^[tpi]/.test(method)) {
      // Nobody saw a page that was being prerendered: its calls count from when it is shown.
      if (waits()) return void (held.length < MAX_QUEUE && held.push([doc.prerendering ? 0 : calledAt || Date.now(), method, ...args]));
      if (!open()) return;
    }
    methods[method]!(...args.filter((arg) => typeof arg !== "function"));
    const callback: any = args.find((arg) => typeof arg === "function");
    if (callback) setTimeout(callback);
  } catch (e) {
    warn(method, e);
  }
}

function take([at, method, ...args]: any): void {
  calledAt = at;
  call(method, args);
  calledAt = 0;
}

const release = (): void => held.splice(0).forEach(take);

const globals = window as any;
const target = (globals[name] = globals[name] || []);
if (!target.loaded) {
  store(!consent && open() || !!said);
  const waiting = target.splice ? target.splice(0) : [];
  for (const method in methods) target[method] = (...args: unknown[]) => call(method, args);
  target.push = take;
  target.loaded = true;
  listen(window, "pagehide", leave);
  listen(document, "visibilitychange", () => hidden() && leave());
  listen(document, "prerenderingchange", release);
  waiting.forEach((each: any, i: number) => {
    sent = i < target.sent;
    take(each);
  });
  sent = false;
}
