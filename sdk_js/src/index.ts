/* The snippet: `<script async src="https://HOST/t.js" data-write-key="..."></script>`, after the stub of stub.ts.
 *
 * Attributes: data-write-key (required), data-endpoint (default: the script's origin), data-global (name of the global,
 * default `tracker`; `analytics` lets a page written for Segment go on unchanged). Calls have Segment's signatures.
 * Nothing here throws into the page.
 */
import { context, page, turnPage, type Fields } from "./context";
import { Delivery, warn } from "./delivery";
import { read, uuid, write } from "./store";

const ANONYMOUS_ID = "trk_anonymous_id";
const USER_ID = "trk_user_id";

interface Options {
  timestamp?: string | number | Date;
  anonymousId?: string;
  context?: Fields;
  integrations?: Fields;
}
type Method = (...args: unknown[]) => unknown;
type Queue = Record<string, unknown>;
type Call = unknown[] & { t?: number };

function start(): void {
  const script = document.currentScript as HTMLScriptElement | null;
  const { writeKey, endpoint, global: name = "tracker" } = (script ?? document.querySelector<HTMLScriptElement>("script[data-write-key]"))?.dataset ?? {};
  if (!writeKey) return warn("the script has no data-write-key");
  const globals = window as unknown as Record<string, Queue | undefined>;
  const existing = globals[name];
  if (existing?.["loaded"]) return;

  const base = endpoint ? new URL(endpoint, document.baseURI).href : new URL(script?.src || location.href).origin;
  const delivery = new Delivery(base.replace(/\/$/, "") + "/v1/batch", writeKey);
  /** Time of the call that is taken from the stub's queue. */
  let calledAt: number | undefined;

  const anonymousId = (): string => {
    let id = read(ANONYMOUS_ID, true);
    if (!id) write(ANONYMOUS_ID, (id = uuid()), true);
    return id;
  };

  const send = (type: string, fields: Fields, options: Options = {}): void => {
    const time = options.timestamp ?? calledAt ?? Date.now();
    delivery.push(
      JSON.stringify({
        type,
        messageId: uuid(),
        timestamp: new Date(time).toISOString(),
        anonymousId: options.anonymousId || anonymousId(),
        userId: read(USER_ID, false),
        ...fields,
        context: { ...context(), ...options.context },
        integrations: options.integrations,
      }),
    );
  };

  /** Leading strings and numbers as strings, then the objects. null stands for one left out. */
  const split = (args: unknown[], most: number): [string[], Fields, Options | undefined] => {
    const ids: string[] = [];
    while (ids.length < most && (typeof args[0] === "string" || typeof args[0] === "number")) ids.push(String(args.shift()));
    if (!ids.length && args[0] == null) args.shift();
    return [ids, (args[0] ?? {}) as Fields, (args[1] ?? undefined) as Options | undefined];
  };

  const methods: Record<string, Method> = Object.assign(Object.create(null) as Record<string, Method>, {
    page(...args: unknown[]) {
      const [names, properties, options] = split(args, 2);
      const category = names.length > 1 ? names[0] : undefined;
      turnPage();
      send("page", { name: names[names.length - 1], category, properties: { ...page(), ...properties } }, options);
    },
    track(event: unknown, properties?: unknown, options?: unknown) {
      send("track", { event, properties: properties ?? {} }, (options ?? undefined) as Options);
    },
    identify(...args: unknown[]) {
      const [[id], traits, options] = split(args, 1);
      if (id) write(USER_ID, id, false);
      send("identify", { traits }, options);
    },
    group(...args: unknown[]) {
      const [[groupId], traits, options] = split(args, 1);
      send("group", { groupId, traits }, options);
    },
    alias(...args: unknown[]) {
      const [[userId, previousId], , options] = split(args, 2);
      send("alias", { userId, previousId: previousId ?? anonymousId() }, options);
    },
    reset() {
      write(USER_ID, "", false);
      write(ANONYMOUS_ID, "", true);
    },
    flush: () => delivery.flush(),
    ready() {
      // The callback is called below, as that of any call.
    },
  });

  const call = (method: string, args: unknown[]): void => {
    try {
      const callback = args.find((arg): arg is () => void => typeof arg === "function");
      methods[method]?.(...args.filter((arg) => typeof arg !== "function"));
      if (callback) setTimeout(callback);
    } catch (e) {
      warn(method + " failed", e);
    }
  };

  const take = (queued: unknown): void => {
    if (!Array.isArray(queued)) return;
    const [method, ...args] = queued as Call;
    calledAt = (queued as Call).t;
    // Segment's stub adds the page's context as a last argument marked __t.
    call(String(method), args.filter((arg) => (arg as { __t?: unknown } | null)?.__t !== "bpc"));
    calledAt = undefined;
  };

  // The stub's object stays: a page may hold a reference to it.
  const target = (globals[name] = existing && typeof existing === "object" ? existing : {});
  const waiting = Array.isArray(target) ? target.splice(0) : [];
  for (const method of Object.keys(methods)) target[method] = (...args: unknown[]) => call(method, args);
  target["user"] = () => ({ id: () => read(USER_ID, false), anonymousId });
  target["push"] = take;
  target["loaded"] = true;
  waiting.forEach(take);
}

try {
  start();
} catch (e) {
  warn("did not start", e);
}
