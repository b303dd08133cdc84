/* The calls: Segment's signatures in, encoded messages out. One instance a page, however often a build is loaded. */
import * as consent from "./consent";
import { context, page, timezone, turnPage } from "./context";
import * as delivery from "./delivery";
import { listen, uuid, warn, type Fields } from "./env";
import * as spa from "./spa";
import { split } from "./split";
import { read, write } from "./store";
import { touches, visit } from "./visit";
import type { CallOptions, Options } from "../types";

export type Method = (...args: any[]) => unknown;

const ANONYMOUS_ID = "anonymous_id";
const USER_ID = "user_id";
const MAX_HELD = 1000;

/** The calls by name; a name with a dot (`popup.register`) is called as such. Extras add theirs. */
export const methods: Record<string, Method> = /* @__PURE__ */ Object.create(null);
const listeners: Record<string, Method[]> = /* @__PURE__ */ Object.create(null);
export let options: Options = {};
/** Calls made while the page is being prerendered: nobody sees it yet. */
let early: (() => void)[] | undefined;
/** Messages that wait for consent. */
let held: string[] = [];
/** The page that was viewed last: what is told of it when the address has changed already. */
export let viewed: Fields | undefined;
let muted = false;
/** Time of the call that is taken from the stub's queue. */
let calledAt: number | undefined;
let lastPage: unknown[] | undefined;
let touched: Fields | undefined;
let traitsOfPage: Fields = {};

export function on(event: string, listener: Method): void {
  (listeners[event] ||= []).push(listener);
}

export function emit(event: string, ...args: unknown[]): void {
  for (const listener of [...(listeners[event] || [])]) {
    try {
      listener(...args);
    } catch (e) {
      warn("on " + event, e);
    }
  }
}

export function anonymousId(): string {
  let id = read(ANONYMOUS_ID);
  if (!id) write(ANONYMOUS_ID, (id = uuid()));
  return id;
}

export function track(event: string, properties?: Fields, given?: CallOptions): void {
  call("track", [event, properties, given]);
}

function send(type: string, fields: Fields, { timestamp, context: more, ...given }: CallOptions = {}): void {
  const state = consent.state();
  if (!state || muted) return;
  let time = new Date(timestamp || calledAt || Date.now());
  if (isNaN(+time)) time = new Date();
  const message: Fields = {
    type,
    messageId: given.messageId || uuid(),
    timestamp: time,
    anonymousId: given.anonymousId || anonymousId(),
    userId: read(USER_ID),
    ...fields,
    integrations: given.integrations,
    context: {
      ...context(),
      timezone: timezone(),
      consent: consent.said(),
      ...visit(Date.now()),
      attribution: type === "track" ? undefined : (touched ||= touches(document.referrer)),
      ...more,
    },
  };
  const json = JSON.stringify(message);
  emit("message", message);
  if (state === consent.OPEN) delivery.push(json);
  else if (held.push(json) > MAX_HELD) held.shift();
}

Object.assign(methods, {
  page(...args) {
    if (lastPage) emit("pageend");
    lastPage = [...args];
    const [names, properties, given] = split(args, 2);
    turnPage();
    spa.seen();
    viewed = page();
    send("page", { name: names.pop(), category: names[0], properties: { ...viewed, ...properties } }, given);
  },
  track(...args) {
    const [[event], properties, given] = split(args);
    if (!event) return warn("track without the event's name");
    send("track", { event, properties }, given);
  },
  identify(...args) {
    const [[id], traits, given] = split(args);
    const before = read(USER_ID);
    if (id) {
      // Another person at the same browser.
      if (before && before !== id) write(ANONYMOUS_ID, uuid());
      write(USER_ID, id);
    }
    traitsOfPage = traits;
    send("identify", { traits }, given);
  },
  reset() {
    write(USER_ID, "");
    write(ANONYMOUS_ID, uuid());
    write("visit", "");
    traitsOfPage = {};
  },
  flush: delivery.flush,
  /** The callback is called as that of any call. */
  ready: () => undefined,
  /** The tag's attributes have said it all; pages written for Segment call it. */
  load: () => undefined,
  consent(choice: consent.Choice) {
    consent.say(choice);
    if (consent.state()) {
      // What waited says now that it may leave.
      for (const json of held.splice(0)) {
        const message = JSON.parse(json);
        message.context.consent = consent.said();
        delivery.push(JSON.stringify(message));
      }
    } else {
      held = [];
      delivery.discard();
    }
  },
  optOut: () => call("consent", [false]),
  screen(...args) {
    const [names, properties, given] = split(args, 2);
    send("screen", { name: names.pop(), category: names[0], properties }, given);
  },
  group(...args) {
    const [[groupId], traits, given] = split(args);
    if (groupId) send("group", { groupId, traits }, given);
  },
  alias(...args) {
    const [[userId, previousId], given] = split(args, 2);
    if (userId) send("alias", { userId, previousId: previousId || read(USER_ID) || anonymousId() }, given);
  },
  setAnonymousId: (id) => write(ANONYMOUS_ID, String(id)),
  on,
  once(event: string, listener: Method) {
    const first: Method = (...args) => {
      methods["off"]!(event, first);
      listener(...args);
    };
    on(event, first);
  },
  off(event: string, listener: Method) {
    listeners[event] = (listeners[event] || []).filter((each) => each !== listener);
  },
} as Record<string, Method>);

/** Calls whose functions are arguments, not callbacks. */
const TAKES_FUNCTIONS = /^(on|once|off|popup.*)$/;

export function call(method: string, args: unknown[]): void {
  if (early) {
    early.push(() => call(method, args));
    return;
  }
  try {
    const run = methods[method];
    if (!run) return warn("there is no " + method);
    if (TAKES_FUNCTIONS.test(method)) {
      run(...args);
      return;
    }
    const callback = args.find((arg): arg is Method => typeof arg === "function");
    const plain = args.filter((arg) => typeof arg !== "function");
    run(...plain);
    emit(method, ...plain);
    if (callback) setTimeout(callback);
  } catch (e) {
    warn(method + " failed", e);
  }
}

/** A call of our stub, [time, method, ...arguments] ([time, "popup", "show", ...arguments]), or of Segment's, [method, ...arguments]. */
function take(queued: unknown): void {
  if (!Array.isArray(queued)) return;
  const args = [...queued];
  // Nobody saw a page that was being prerendered: its calls count from when it is shown.
  const at = typeof args[0] === "number" ? args.shift() : undefined;
  calledAt = early ? undefined : at;
  let method = String(args.shift());
  if (!methods[method] && typeof args[0] === "string") method += "." + args.shift();
  // Segment's stub adds the page's context as a last argument marked __t.
  call(method, args.filter((arg) => Object(arg).__t !== "bpc"));
  calledAt = undefined;
}

/** Makes `target` answer to the calls. The stub's object stays: a page may hold a reference to it. */
function serve(target: Fields): void {
  const waiting = Array.isArray(target) ? target.splice(0) : [];
  for (const name in methods) {
    const [first, second] = name.split(".");
    const act = (...args: unknown[]): Promise<void> => {
      call(name, args);
      return Promise.resolve();
    };
    // The stub answers to every name, with nothing that lasts.
    if (second) ((first! in target ? target[first!] : (target[first!] = {})) as Fields)[second] = act;
    else target[first!] = Object.assign(act, target[first!]);
  }
  target["user"] = () => ({ id: () => read(USER_ID), anonymousId, traits: () => traitsOfPage });
  target["push"] = take;
  target["loaded"] = target["initialized"] = true;
  waiting.forEach((each, index) => {
    // What the stub has sent itself only says who is here.
    muted = index < (target["then"] as number);
    take(each);
  });
  muted = false;
}

const ONE = "__trk";

/** Starts the instance of this page, and makes it `window[name]`. Where one has started, it answers to `name`, too. */
export function start(writeKey: string, given: Options, name: string, extras: (() => void)[] = []): Fields {
  const globals = window as unknown as Record<string, unknown>;
  const existing = globals[name];
  const target = (existing && typeof existing === "object" ? existing : {}) as Fields;
  globals[name] = target;
  if (target["loaded"]) return target;
  const first = globals[ONE] as typeof serve | undefined;
  if (first) {
    first(target);
    return target;
  }
  Object.defineProperty(globals, ONE, { value: serve });
  options = given;

  const run = (): void => {
    const { endpoint = location.origin, path = "/v1/batch", consent: mode, storage, dnt, spa: single } = options;
    consent.start(mode === "required", storage === "none", dnt !== "ignore");
    delivery.start(endpoint.replace(/\/$/, "") + path, writeKey);
    for (const extra of extras) extra();
    const calls = early;
    early = undefined;
    serve(target);
    if (calls) for (const each of calls) each();
    if (single != null) {
      delivery.beforeLeaving.push(spa.look);
      spa.watch(single === "hash", () => call("page", []));
    }
    // A page that comes back as it was left is viewed again.
    listen<PageTransitionEvent>(window, "pageshow", ({ persisted }) => persisted && lastPage && call("page", lastPage));
  };
  if ((document as { prerendering?: boolean }).prerendering) {
    early = [];
    serve(target);
    listen(document, "prerenderingchange", run);
  } else run();
  return target;
}
