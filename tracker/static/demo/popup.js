// The newsletter popup. It never asks on arrival: it comes when the visitor has stayed, looked around and read (seconds on the
// site AND pages AND scroll, from <body data-popup-*>), once a day at most, not after it was answered, never in cart or checkout.
import { h, icon } from "./dom.js";
import { t } from "./words.js";

const KEY = "shop.popup";
const DAY_MS = 86_400_000;
const ID = "newsletter";

export function startPopup() {
  const gate = document.body.dataset;
  // The visit: this tab, over reloads.
  const visit = recall("session") ?? { since: Date.now(), pages: 0, scroll: 0 };
  let quiet = false;

  function told(action, more) {
    tracker.track(`Popup ${action}`, { popup_id: ID, provider: "demo-shop", trigger: "time+pages+scroll", ...more });
  }

  function due() {
    const past = recall("local") ?? {};
    return (
      !quiet && !past.submitted && !(Date.now() - past.shown < DAY_MS) &&
      Date.now() - visit.since >= gate.popupSeconds * 1000 && visit.pages >= gate.popupPages && visit.scroll >= gate.popupScroll
    );
  }

  function check() {
    if (due() && !document.querySelector("dialog[open]")) ask();
  }

  function ask() {
    keep("local", { shown: Date.now() });
    const dialog = h("dialog", { class: "popup", "aria-labelledby": "popup-title" });
    const shut = (action) => {
      if (action) told("Dismissed", { action });
      dialog.close();
      dialog.remove();
    };
    const form = h("form", {},
      h("label", { for: "popup-email", class: "hidden" }, t("email")),
      h("input", { id: "popup-email", name: "email", type: "email", required: true, autocomplete: "email", placeholder: "ban@example.com", maxlength: 120 }),
      h("button", { class: "button wide" }, t("popupSend")),
      h("button", { class: "text", type: "button", onclick: () => shut("later") }, t("popupNo")));
    form.addEventListener("submit", (e) => {
      e.preventDefault();
      const email = form.elements.email.value;
      keep("local", { shown: Date.now(), submitted: true });
      told("Submitted");
      tracker.identify(email, { email, newsletter: true });
      form.replaceChildren(h("p", { class: "lead", role: "status" }, t("popupThanks")));
      setTimeout(() => shut(), 1800);
    });
    dialog.append(
      h("button", { class: "popup-close", type: "button", "aria-label": t("close"), onclick: () => shut("close") }, icon("close")),
      h("img", { src: "img/tra-sen-tay-ho.svg", alt: "", width: 400, height: 220 }),
      h("div", {}, h("h2", { id: "popup-title" }, t("popupTitle")), h("p", {}, t("popupText")), form));
    dialog.addEventListener("cancel", (e) => { e.preventDefault(); shut("escape"); });
    dialog.addEventListener("click", (e) => e.target === dialog && shut("outside"));
    document.body.append(dialog);
    dialog.showModal();
    told("Viewed");
  }

  addEventListener("scroll", () => {
    const room = document.documentElement.scrollHeight - innerHeight;
    visit.scroll = Math.max(visit.scroll, room > 0 ? (scrollY / room) * 100 : 100);
  }, { passive: true });
  setInterval(check, 1000);

  return {
    pageViewed(name) {
      visit.pages += 1;
      quiet = name === "Cart" || name === "Checkout" || name === "Order Confirmed";
      keep("session", visit);
    },
  };
}

// Where storage is blocked, naming it throws.
const storage = (which) => (which === "local" ? localStorage : sessionStorage);

function recall(which) {
  try {
    return JSON.parse(storage(which).getItem(KEY));
  } catch {
    return null;
  }
}

function keep(which, value) {
  try {
    storage(which).setItem(KEY, JSON.stringify(value));
  } catch {}
}
