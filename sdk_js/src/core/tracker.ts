/* The calls: Segment's signatures in, encoded messages out. One instance a page, however often a build is loaded. */
import * as consent from "./consent";
import { context, page, timezone, turnPage } from "./context";
import * as delivery from "./delivery";
import { encode, isFunction, listen, listenAgain, safe, uuid, warn, type Fields } from "./env";
import * as spa from "./spa";
import { split } from "./split";
import { read, settle, storing, write } from "./store";
import { touches, visit } from "./visit";
import type { CallOptions, Options } from "../types";

export type Method = (...args: any[]) => unknown;

const ANONYMOUS_ID = "anonymous_id";
const USER_ID = "user_id";
/** Calls or messages that wait to be allowed to leave. */
const MAX_HELD = 1000;

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
/** What this page has said of the person and the group: what user() and group() give. It is not stored. */
let traitsOfPage: Fields = {};
let groupOfPage: [id: string | null, traits: Fields] = [null, {}];

export function on(event: string, listener: Method): void {
  (listeners[event] ||= []).push(listener);
}

export function emit(event: string, ...args: unknown[]): void {
  for (const listener of [...(listeners[event] || [])]) safe(() => listener(...args), event);
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
    timestamp: time.toISOString(),
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
  // Later: what the page says at once, of the person or of consent, comes first.
  if (storing && (message["context"] as Fields)["sessionStart"]) setTimeout(keep);
  const json = encode(message);
  emit("message", message);
  if (state === consent.OPEN) delivery.push(json);
  else if (held.push(json) > MAX_HELD) held.shift();
}

/** Once a visit: when it begins, or when something may be stored. */
const keep = (): unknown => options.cookie && storing && delivery.keepId(anonymousId(), () => settle(ANONYMOUS_ID));

function sendPlace(type: string, args: unknown[], facts?: Fields): void {
  const [names, properties, given] = split(args, 2);
  send(type, { name: names.pop(), category: names[0], properties: { ...facts, ...properties } }, given);
}

const nothing = (): void => undefined;

/** Segment's trackLink and trackForm: an event when `type` happens to an element, or to each of a list. The event's name and
 * properties may be functions of the element. The page needs not wait: what is told leaves with it. */
const telling = (type: string): Method => (elements, event, properties) => {
  for (const each of elements.addEventListener ? [elements] : Array.from(elements)) {
    const given = (what: unknown): any => (isFunction(what) ? what(each) : what);
    each.addEventListener(type, () => safe(() => track(given(event), given(properties)), type), true);
  }
};

/** The calls by name; `popup.register` is called as such, `ecommerce.` with any name behind the dot, which is its `this`.
 * Extras add theirs. */
export const methods: Record<string, Method> = {
  __proto__: null as never,
  page(...args) {
    if (lastPage) emit("pageend");
    lastPage = [...args];
    turnPage();
    spa.seen();
    sendPlace("page", args, (viewed = page()));
  },
  track(...args) {
    const [[event], properties, given] = split(args);
    if (!event) return warn("track: no name");
    send("track", { event, properties }, given);
  },
  identify(...args) {
    const [[id], traits, given] = split(args);
    const before = read(USER_ID);
    if (id) {
      // Another person at the same browser.
      if (before && before !== id) {
        write(ANONYMOUS_ID, uuid());
        traitsOfPage = {};
      }
      write(USER_ID, id);
    }
    traitsOfPage = { ...traitsOfPage, ...traits };
    send("identify", { traits }, given);
  },
  reset() {
    write(USER_ID, "");
    write(ANONYMOUS_ID, uuid());
    write("visit", "");
    traitsOfPage = {};
    groupOfPage = [null, {}];
  },
  flush: delivery.flush,
  /** The callback is called as that of any call. */
  ready: nothing,
  /** The tag's attributes have said it all; pages written for Segment call it. */
  load: nothing,
  consent(choice: consent.Choice) {
    if (!storing) setTimeout(keep);
    consent.say(choice);
    if (consent.state()) {
      // What waited says now that it may leave.
      for (const json of held.splice(0)) {
        const message = JSON.parse(json);
        message.context.consent = consent.said();
        delivery.push(encode(message));
      }
    } else {
      held = [];
      delivery.discard();
    }
  },
  optOut: () => call("consent", [false]),
  screen(...args) {
    sendPlace("screen", args);
  },
  group(...args) {
    const [[groupId = groupOfPage[0]], traits, given] = split(args);
    if (!groupId) return;
    groupOfPage = [groupId, traits];
    send("group", { groupId, traits }, given);
  },
  alias(...args) {
    const [[userId, previousId], given] = split(args, 2);
    if (userId) send("alias", { userId, previousId: previousId || read(USER_ID) || anonymousId() }, given);
  },
  setAnonymousId: (id) => id && write(ANONYMOUS_ID, "" + id),
  trackLink: telling("click"),
  trackClick: telling("click"),
  trackForm: telling("submit"),
  trackSubmit: telling("submit"),
  pageview: (url) => call("page", [url && { path: url }]),
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
};

// Segment's stubs of these would call themselves.
for (const name of "addSourceMiddleware addIntegrationMiddleware addDestinationMiddleware register".split(" ")) {
  methods[name] = () => warn(name + ": ignored");
}

/** Calls whose functions are arguments, not callbacks. */
const TAKES_FUNCTIONS = /^(on|once|off|popup.*|track.+|add.+)$/;

export function call(method: string, args: unknown[]): void {
  if (early) {
    if (early.length < MAX_HELD) early.push(() => call(method, args));
    return;
  }
  safe(() => {
    const run = methods[method] || methods[method.split(".")[0] + "."]!;
    if (TAKES_FUNCTIONS.test(method)) return run(...args);
    const plain = args.filter((arg) => !isFunction(arg));
    run.apply(method, plain);
    emit(method, ...plain);
    const callback = args.find(isFunction);
    if (callback) setTimeout(callback);
  }, method);
}

/** A call of our stub, [time, method, ...arguments] ([time, "popup", "show", ...arguments]), or of Segment's, [method, ...arguments]. */
function take(queued: unknown): void {
  if (!Array.isArray(queued)) return;
  const args = [...queued];
  // Nobody saw a page that was being prerendered: its calls count from when it is shown.
  const at = args[0] as number > 0 ? args.shift() : undefined;
  calledAt = early ? undefined : at;
  let method = String(args.shift());
  if (!methods[method] && typeof args[0] === "string") method += "." + args.shift();
  // Segment's stub adds the page's context as a last argument marked __t.
  call(method, args.filter((arg) => !Object(arg).__t));
  calledAt = undefined;
}

/** Makes `target` answer to the calls. The stub's object stays: a page may hold a reference to it. */
function serve(target: Fields): void {
  const waiting = Array.isArray(target) ? target.splice(0) : [];
  const act =
    (name: string): Method =>
    (...args) => {
      if (name === "group" && args[0] == null) return { id: () => groupOfPage[0], traits: () => groupOfPage[1] };
      call(name, args);
      return Promise.resolve();
    };
  for (const name in methods) target[name] = act(name);
  // Also where the build has none of it, a call does not throw.
  for (const space of ["popup", "ecommerce"]) {
    target[space] = new Proxy({}, { get: (_, name) => act(space + "." + String(name)) });
  }
  target["user"] = () => ({
    id(id?: unknown) {
      if (id !== undefined) write(USER_ID, "" + (id || ""));
      return read(USER_ID) || null;
    },
    anonymousId(id?: unknown) {
      methods["setAnonymousId"]!(id);
      return anonymousId();
    },
    traits: () => traitsOfPage,
  });
  target["push"] = take;
  target["loaded"] = target["initialized"] = true;
  waiting.map((each, index) => {
    // What the stub has sent itself only says who is here.
    muted = index < (target["then"] as number);
    take(each);
  });
  muted = false;
}

/** Starts the instance of this page, and makes it `window[name]`. Where one has started, it answers to `name`, too. */
export function start(writeKey: string, given: Options, name: string, extras: (() => void)[] = []): Fields {
  const globals = window as unknown as Record<string, unknown>;
  const target: Fields = Object(globals[name]);
  globals[name] = target;
  // Another write key with another name is an instance of its own.
  const one = "__trk." + writeKey;
  const first = globals[one] as typeof serve | undefined;
  if (first) first(target);
  if (target["loaded"]) return target;
  globals[one] = (other: Fields) => {
    listenAgain();
    if (!other["loaded"]) serve(other);
  };
  options = given;

  const run = (): void => {
    const { endpoint = location.origin, path = "/v1/batch", spa: single } = options;
    consent.start(options);
    listen(window, "visibilitychange pageshow", () => {
      const answer = consent.heard();
      if (answer != null) call("consent", [answer]);
    });
    delivery.start(endpoint.replace(/\/$/, "") + path, writeKey);
    for (const extra of extras) safe(extra, "an extra");
    const calls = early;
    early = undefined;
    serve(target);
    if (calls) for (const each of calls) each();
    if (single != null) {
      delivery.beforeLeaving.push(spa.look);
      spa.watch(single === "hash", () => call("page", []));
    }
    // A page that comes back as it was left is viewed again, by what was said of it; id and time are the view's own.
    listen<PageTransitionEvent>(window, "pageshow", ({ persisted }) => {
      if (!persisted || !lastPage) return;
      const [names, properties, { messageId, timestamp, ...given }] = split(lastPage, 2);
      call("page", [...names, properties, given]);
    });
  };
  if ((document as { prerendering?: boolean }).prerendering) {
    early = [];
    serve(target);
    listen(document, "prerenderingchange", run);
  } else run();
  return target;
}
