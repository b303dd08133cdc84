// The live panel: what the visitor's own events have become on the other side of Kafka (server-sent events of /demo/live).
// Names and values in it come from clients, so everything is set as text.
import { h, icon } from "./dom.js";
import { language, money, t } from "./words.js";

const MAX_LINES = 60;
const MAX_SEEN = 1000;
const CART_STAGE = {
  "Product Added": "cart", "Product Removed": "cart", "Cart Viewed": "cart",
  "Checkout Started": "checkout", "Checkout Step Viewed": "checkout", "Checkout Step Completed": "checkout", "Payment Info Entered": "payment",
};
const STAGES = ["cart", "checkout", "payment"];
const KEY = "shop.live";

export function startLive(panel) {
  let source;
  let anonymousId = "";
  let state = "connecting";
  let hello = null;
  /** Server's clock - ours, ms. */
  let skew = 0;
  let events = [];
  let counters = [];
  const seen = new Set();
  /** {stage, at} while a cart is open; reported: when its abandonment was told; trigger: the last one. */
  let cart = recall();

  // -- drawing

  const dot = h("span", { class: "dot", "aria-hidden": "true" });
  const stateText = h("span", { role: "status" });
  const signal = h("section", { class: "signal" });
  const clock = h("b", { class: "clock" });
  const bar = h("i", {});
  const list = h("ol", { class: "events", role: "log", "aria-live": "polite", "aria-relevant": "additions" });
  const counts = h("ul", { class: "counts" });
  const handle = h("button", { class: "handle", type: "button", "aria-controls": "live-body", onclick: () => fold(panel.classList.contains("open")) });
  const body = h("div", { class: "live-body", id: "live-body" });

  function fold(shut) {
    panel.classList.toggle("open", !shut);
    drawHandle();
  }

  const time = (ms) => new Date(ms).toLocaleTimeString(language === "vi" ? "vi-VN" : "en-GB");
  const span = (s) => (s >= 5400 ? t("hours", Math.round(s / 3600)) : s >= 90 ? t("minutes", Math.round(s / 60)) : `${Math.ceil(s)} s`);
  const stateWord = () => ({ connecting: t("connecting"), live: t("connected"), waiting: t("waiting"), offline: t("offline"), blocked: t("blocked") })[state];

  function drawHandle() {
    const open = panel.classList.contains("open");
    handle.setAttribute("aria-expanded", String(open));
    handle.setAttribute("aria-label", open ? t("fold") : t("open"));
    const last = events[0];
    const left = remaining();
    const news = left == null ? (cart.trigger && !cart.reopened ? t("abandoned") : "") : left > 0 ? span(left) : t("due");
    handle.replaceChildren(
      h("span", { class: "dot", "aria-hidden": "true" }),
      h("span", { class: "handle-text" }, open ? t("live") : last ? last.name : stateWord()),
      h("b", {}, news),
      icon(open ? "down" : "up"));
  }

  function drawState() {
    panel.dataset.state = state;
    stateText.textContent = stateWord();
    drawHandle();
  }

  const line = (event, fresh) =>
    h("li", { class: fresh ? "fresh" : null, dataset: { type: event.type, id: event.id } },
      h("span", { class: "event-name" }, event.name),
      h("span", { class: "event-facts" }, h("time", {}, time(event.ts - skew)), h("span", { class: "latency", title: t("latency") }, `${event.latency_ms} ms`)));

  function drawEvents() {
    list.replaceChildren(...(events.length ? events.map((event) => line(event)) : [h("li", { class: "none" }, t("noEvents"))]));
  }

  function drawCounters() {
    const most = Math.max(1, ...counters.map((group) => group.count));
    counts.replaceChildren(...(counters.length
      ? counters.map((group) => {
          const fill = h("i", {});
          fill.style.width = `${(group.count / most) * 100}%`;
          return h("li", {}, h("span", {}, group.key), h("b", {}, group.count.toLocaleString(language)), fill);
        })
      : [h("li", { class: "none" }, t("noCounters"))]));
  }

  const idleS = () => (hello ? hello[`${cart.stage}_idle_s`] : null);
  /** Seconds until the cart counts as abandoned; null when nothing is awaited. */
  const remaining = () => (cart.stage && !cart.told && idleS() != null ? (cart.at + idleS() * 1000 - (Date.now() + skew)) / 1000 : null);

  function told(kind, title, text, ...more) {
    return [h("div", { class: `told ${kind}` }, h("h3", {}, title), h("p", {}, text), ...more)];
  }

  function abandonment({ kind, id, data }) {
    const currency = data.currency ?? "VND";
    return told("alarm", t("abandoned"), t("abandonedText"),
      h("code", {}, `tracker.triggers.${kind}.v1`),
      h("ul", {}, (data.items ?? []).map((item) => h("li", {}, h("span", {}, item.name ?? item.productId ?? "?"), h("span", {}, `× ${item.quantity ?? 1}`)))),
      h("dl", {}, h("dt", {}, t("value")), h("dd", {}, money(data.value ?? 0, currency)), h("dt", {}, t("stage")), h("dd", {}, t("stages")[data.stage] ?? data.stage)),
      h("details", {}, h("summary", {}, t("json")), h("pre", { tabindex: "0" }, JSON.stringify({ id, ...data }, null, 2))));
  }

  function drawSignal() {
    const left = remaining();
    let parts;
    if (cart.trigger && !cart.reopened) parts = abandonment(cart.trigger);
    else if (cart.retracted) parts = told("good", t("retracted"), t("retractedText"));
    else if (cart.bought) parts = told("good", t("bought"), t(cart.bought === "late" ? "recoveredText" : "boughtText"));
    else if (cart.stage && cart.told) parts = told("calm", t("repeated"), t("repeatedText", span(hello?.cart_repeat_s ?? 86400)));
    else if (left == null) parts = told("calm", t("noCart"), t("noCartText"));
    else if (left > 0) parts = [h("div", { class: "told wait" }, h("h3", {}, clock), h("p", {}, t("countdownText")[cart.stage]), h("div", { class: "bar", "aria-hidden": "true" }, bar))];
    else parts = told("wait", t("due"), t("dueText"));
    signal.replaceChildren(h("h2", {}, t("cartSignal")), h("div", { role: "status" }, parts));
    tick();
    drawHandle();
  }

  let wasLeft = null;
  function tick() {
    const left = remaining();
    if (left != null && left > 0) {
      clock.textContent = t("countdown", span(left));
      bar.style.width = `${Math.min(100, (left / idleS()) * 100)}%`;
    }
    const due = left != null && left <= 0;
    if (due !== wasLeft) {
      wasLeft = due;
      if (due) drawSignal();
    }
    if (left != null) drawHandle();
  }

  function redraw() {
    panel.setAttribute("aria-label", t("live"));
    body.replaceChildren(
      h("header", {}, h("div", {}, h("h2", { class: "live-title" }, dot, t("live")), stateText), h("p", {}, t("liveText"))),
      signal,
      h("section", {}, h("h2", {}, t("yourEvents")), list),
      h("section", {}, h("h2", {}, t("counters")), counts),
      h("footer", {}, h("p", {}, `${t("visitor")} `, h("code", {}, anonymousId.slice(0, 8) || "…")), h("button", { class: "text", type: "button", id: "new-visitor", onclick: newVisitor }, t("newVisitor"))));
    drawState();
    drawEvents();
    drawCounters();
    drawSignal();
  }

  // -- what arrives

  function takeEvent(event) {
    const none = list.querySelector(".none");
    if (none) none.remove();
    events.unshift(event);
    list.prepend(line(event, true));
    while (events.length > MAX_LINES) {
      events.pop();
      list.lastElementChild.remove();
    }
    followCart(event);
    drawHandle();
  }

  function followCart(event) {
    const stage = CART_STAGE[event.name];
    // Messages of the past come again after a reload; they tell nothing new about the cart.
    if (event.ts < (cart.at ?? 0)) return;
    if (event.name === "Order Completed") cart = { at: event.ts, bought: cart.told ? "late" : "in time" };
    else if (event.name === "Product Removed" && ourCart() === 0) cart = { at: event.ts };
    else if (stage) {
      const further = STAGES.indexOf(stage) > STAGES.indexOf(cart.stage) ? stage : cart.stage;
      cart = { ...cart, stage: cart.bought ? stage : further, at: event.ts, bought: false, reopened: Boolean(cart.trigger), retracted: false };
    } else return;
    remember();
    drawSignal();
  }

  function takeTrigger(trigger) {
    if (trigger.type.includes("_retracted")) cart = { ...cart, trigger: null, told: false, retracted: true };
    else if (trigger.kind === "cart_abandoned") cart = { ...cart, stage: trigger.data.stage, trigger, told: true, reopened: false, at: Math.max(cart.at ?? 0, trigger.data.lastActivityMs) };
    else {
      takeEvent({ id: trigger.id, name: t("churn"), type: "trigger", ts: Date.parse(trigger.ts), latency_ms: 0 });
      return;
    }
    remember();
    drawSignal();
  }

  function once(handler) {
    return (message) => {
      if (seen.has(message.lastEventId)) return;
      seen.add(message.lastEventId);
      if (seen.size > MAX_SEEN) seen.delete(seen.values().next().value);
      handler(JSON.parse(message.data));
    };
  }

  // -- connection

  function setState(next) {
    state = next;
    drawState();
  }

  function connect() {
    source?.close();
    source = new EventSource(`live?anonymousId=${encodeURIComponent(anonymousId)}`);
    source.addEventListener("hello", (m) => {
      hello = JSON.parse(m.data);
      skew = hello.now_ms - Date.now();
      drawSignal();
    });
    source.addEventListener("status", (m) => setState(JSON.parse(m.data).stream));
    source.addEventListener("event", once(takeEvent));
    source.addEventListener("trigger", once(takeTrigger));
    source.addEventListener("counters", (m) => {
      counters = JSON.parse(m.data).groups;
      drawCounters();
    });
    source.onerror = () => {
      setState("offline");
      // The browser comes back by itself unless it was refused.
      if (source.readyState === EventSource.CLOSED) setTimeout(connect, 5000);
    };
  }

  function newVisitor() {
    tracker.reset();
    try {
      for (const key of ["shop.cart", "shop.popup"]) localStorage.removeItem(key);
      sessionStorage.clear();
    } catch {}
    location.href = location.pathname;
  }

  function ourCart() {
    try {
      return Object.keys(JSON.parse(localStorage.getItem("shop.cart"))?.lines ?? {}).length;
    } catch {
      return null;
    }
  }

  function recall() {
    try {
      return JSON.parse(sessionStorage.getItem(KEY)) ?? {};
    } catch {
      return {};
    }
  }

  function remember() {
    try {
      sessionStorage.setItem(KEY, JSON.stringify(cart));
    } catch {}
  }

  panel.append(handle, body);
  redraw();
  const blocked = setTimeout(() => setState("blocked"), 8000);
  tracker.ready(() => {
    clearTimeout(blocked);
    anonymousId = tracker.user().anonymousId();
    redraw();
    connect();
  });
  setInterval(tick, 250);
  return { redraw };
}
