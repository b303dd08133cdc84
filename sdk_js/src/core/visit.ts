/* The visit: its id (a visit ends after 30 minutes without an event), and what brought the visitor, first and last. */
import { renewCookie } from "./cookies";
import { isOwn, read, storing, write } from "./store";
import { parse, safe, uuid, type Fields } from "./env";
import { CLICK_IDS } from "../contract.gen";

const IDLE_MS = 1_800_000;
/** How often at most the time of the last event is written down. */
const STEP_MS = 15_000;
const MAX_CHARS = 100;
/** What is to stay as long as the visitor comes back. */
const KEPT = ["anonymous_id", "user_id", "consent", "first", "last"];

/** The visit's id, and whether this is its first event. */
export function visit(nowMs: number): Fields {
  const [id, last = 0] = (read("visit") || "").split("~");
  const idleMs = Math.abs(nowMs - +last);
  const fresh = !id || idleMs > IDLE_MS;
  const now = fresh ? uuid() : id!;
  if (fresh || idleMs > STEP_MS) write("visit", now + "~" + nowMs);
  if (fresh && storing) KEPT.map(renewCookie);
  return { sessionId: now, sessionStart: fresh || undefined };
}

/** utm_source, utm_medium, utm_campaign, utm_term, utm_content, utm_id -> source, medium, name, term, content, id. */
export const campaign = (): Fields | undefined => parameters(/^utm_(source|medium|campaign|term|content|id)$/);

/** The parameters of this page's address that are `named` so, by what its group found. */
function parameters(named: RegExp): Fields | undefined {
  let found: Fields | undefined;
  safe(() =>
    new URLSearchParams(location.search).forEach((value, key) => {
      const hit = named.exec(key);
      if (hit && value) (found ||= {})[hit[1] === "campaign" ? "name" : hit[1]!] = value.slice(0, MAX_CHARS);
    }),
  );
  return found;
}

/** {first, last}: what brought the visitor at first, and at last unless directly. Once a page. */
export function touches(referrer: string): Fields {
  const from = safe(() => new URL(referrer).hostname) || "";
  const touch: Fields = { campaign: campaign(), clickIds: parameters(RegExp(`^(${CLICK_IDS.join("|")})$`)) };
  if (from && !isOwn(from)) touch["referrer"] = from;
  const told = JSON.stringify(touch) !== "{}";
  const now = JSON.stringify({ ...touch, path: location.pathname.slice(0, MAX_CHARS), at: new Date().toISOString() });
  const known = parse(read("first"));
  if (!known) write("first", now);
  if (!known || told) write("last", now);
  return { first: known || parse(now), last: parse(read("last")) || parse(now) };
}
