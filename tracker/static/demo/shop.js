// The shop: pages by query (?p=product, ?view=cart), the cart in localStorage, and a call of the tracker for each thing that
// a visitor does, named and shaped as in the Segment Spec (ecommerce v2).
import { h, icon } from "./dom.js";
import { CURRENCY, FREE_SHIPPING_FROM, PRODUCTS, SHIPPING, productOf } from "./products.js";
import { language, money, speak, t } from "./words.js";
import { startLive } from "./live.js";
import { startPopup } from "./popup.js";

const $ = (selector) => document.querySelector(selector);
const main = $("#main");
const base = location.pathname;

// -- cart

const KEY = "shop.cart";
const emptyCart = () => ({ id: null, lines: {} });
let cart = emptyCart();

function loadCart() {
  try {
    const stored = JSON.parse(localStorage.getItem(KEY)) ?? emptyCart();
    const lines = Object.entries(stored.lines).filter(([id, quantity]) => productOf(id) && quantity > 0);
    cart = { ...emptyCart(), ...stored, lines: Object.fromEntries(lines) };
  } catch {
    cart = emptyCart();
  }
}

function saveCart() {
  try {
    localStorage.setItem(KEY, JSON.stringify(cart));
  } catch {}
  showHeader();
}

const newId = (prefix) => `${prefix}-${Date.now().toString(36)}${Math.random().toString(36).slice(2, 8)}`.toUpperCase();
const lines = () => Object.entries(cart.lines).map(([id, quantity]) => ({ product: productOf(id), quantity }));
const count = () => Object.values(cart.lines).reduce((sum, quantity) => sum + quantity, 0);
const subtotal = () => lines().reduce((sum, { product, quantity }) => sum + product.price * quantity, 0);
const shippingFee = () => (subtotal() >= FREE_SHIPPING_FROM ? 0 : SHIPPING);

// -- what the tracker is told

const link = (query) => base + (query ? `?${query}` : "");
const imageOf = (product) => new URL(`img/${product.id}.svg`, location.origin + base).href;

const shape = (product, quantity = 1, position) => ({
  product_id: product.id,
  sku: product.id,
  name: product.name.vi,
  category: product.category,
  brand: "Hiên",
  price: product.price,
  quantity,
  currency: CURRENCY,
  ...(position && { position }),
  url: location.origin + link(`p=${product.id}`),
  image_url: imageOf(product),
});
const products = () => lines().map(({ product, quantity }, i) => shape(product, quantity, i + 1));
const cartFacts = () => ({ cart_id: cart.id, currency: CURRENCY, products: products() });
const orderFacts = () => ({
  order_id: cart.order,
  checkout_id: cart.checkout,
  cart_id: cart.id,
  subtotal: subtotal(),
  value: subtotal() + shippingFee(),
  revenue: subtotal(),
  total: subtotal() + shippingFee(),
  shipping: shippingFee(),
  tax: 0,
  discount: 0,
  currency: CURRENCY,
  products: products(),
});

function change(product, by) {
  cart.id ??= newId("C");
  const quantity = (cart.lines[product.id] ?? 0) + by;
  if (quantity > 0) cart.lines[product.id] = quantity;
  else delete cart.lines[product.id];
  saveCart();
  tracker.track(by > 0 ? "Product Added" : "Product Removed", { cart_id: cart.id, ...shape(product, Math.abs(by)) });
}

// -- pages

const picture = (product, eager) => h("img", { src: `img/${product.id}.svg`, alt: "", width: 400, height: 400, loading: eager ? "eager" : "lazy" });
const go = (query) => (event) => {
  event?.preventDefault();
  history.pushState({}, "", link(query));
  show();
};
const anchor = (query, attributes, ...children) =>
  h("a", { href: link(query), onclick: (e) => !(e.metaKey || e.ctrlKey || e.shiftKey) && go(query)(e), ...attributes }, ...children);

function card(product, position, list) {
  const name = product.name[language];
  const item = h("li", { class: "card" },
    anchor(`p=${product.id}`, { class: "card-picture", tabindex: "-1", "aria-hidden": "true" }, picture(product, position < 5)),
    h("div", { class: "card-text" },
      h("p", { class: "from" }, product.from[language]),
      h("h3", {}, anchor(`p=${product.id}`, {}, name)),
      h("p", { class: "price" }, money(product.price), h("span", {}, ` · ${product.size}`)),
    ),
    h("button", { class: "round", type: "button", "aria-label": `${t("add")}: ${name}`, onclick: () => addToCart(product, 1) }, icon("plus")),
  );
  // In the capture phase: before the link takes the visitor to the product.
  item.addEventListener("click", (e) => e.target.closest("a") && tracker.track("Product Clicked", { list_id: list, ...shape(product, 1, position) }), true);
  return item;
}

function addToCart(product, quantity) {
  change(product, quantity);
  toast(h("span", {}, icon("check"), ` ${t("added")}: ${product.name[language]}`), anchor("view=cart", {}, t("cart")));
}

let category = "all";

const shelf = () => PRODUCTS.filter((product) => category === "all" || product.category === category);
const tellShelf = () => tracker.track("Product List Viewed", { list_id: "home", category, products: shelf().map((p, i) => shape(p, 1, i + 1)) });

function homePage() {
  const promise = (name, title, text) => h("li", {}, icon(name), h("div", {}, h("h3", {}, title), h("p", {}, text)));
  return [
    h("section", { class: "hero" },
      h("div", {},
        h("p", { class: "eyebrow" }, t("eyebrow")),
        h("h1", {}, t("hero")),
        h("p", { class: "lead" }, t("lead")),
        h("a", { class: "button", href: "#shelf" }, t("shopNow")),
      ),
      h("div", { class: "hero-art", "aria-hidden": "true" }, ["am-tra-bat-trang", "tra-sen-tay-ho", "ca-phe-cau-dat"].map((id) => picture(productOf(id), true))),
    ),
    h("section", { id: "shelf", "aria-labelledby": "shelf-title" },
      h("div", { class: "shelf-head" },
        h("h2", { id: "shelf-title" }, t("shelf")),
        h("div", { class: "chips", role: "group" }, ["all", "coffee", "tea", "ceramics", "pantry"].map((name) =>
          h("button", { type: "button", "aria-pressed": String(name === category), onclick: () => { category = name; tellShelf(); render(); $(`.chips [aria-pressed="true"]`).focus(); } }, t(name)))),
      ),
      h("ul", { class: "grid" }, shelf().map((product, i) => card(product, i + 1, "home"))),
    ),
    h("section", { class: "story" }, h("h2", {}, t("story")), h("p", {}, t("storyText"))),
    h("ul", { class: "promises" },
      promise("leaf", t("promise1"), t("promise1text")), promise("truck", t("promise2"), t("promise2text")), promise("loop", t("promise3"), t("promise3text"))),
  ];
}

function stepper(value, less, plus) {
  return h("div", { class: "stepper", role: "group", "aria-label": t("quantity") },
    h("button", { type: "button", "aria-label": t("less"), onclick: less }, icon("minus")),
    h("output", {}, String(value)),
    h("button", { type: "button", "aria-label": t("plus"), onclick: plus }, icon("plus")));
}

function productPage(product) {
  let quantity = 1;
  const steps = h("div", {});
  const draw = () => steps.replaceChildren(stepper(quantity, () => { quantity = Math.max(1, quantity - 1); draw(); }, () => { quantity = Math.min(20, quantity + 1); draw(); }));
  draw();
  const others = PRODUCTS.filter((p) => p !== product).sort((a, b) => (b.category === product.category) - (a.category === product.category)).slice(0, 4);
  return [
    anchor("", { class: "back" }, icon("left"), t("back")),
    h("section", { class: "product" },
      h("div", { class: "product-picture" }, picture(product, true)),
      h("div", { class: "product-text" },
        h("p", { class: "eyebrow" }, t(product.category)),
        h("h1", {}, product.name[language]),
        h("p", { class: "price big" }, money(product.price)),
        h("p", { class: "lead" }, product.text[language]),
        h("dl", { class: "facts" }, h("dt", {}, t("origin")), h("dd", {}, product.from[language]), h("dt", {}, t("size")), h("dd", {}, product.size)),
        h("div", { class: "buy" }, steps, h("button", { class: "button", type: "button", id: "add", onclick: () => addToCart(product, quantity) }, icon("bag"), t("add"))),
      ),
    ),
    h("section", {}, h("h2", {}, t("more")), h("ul", { class: "grid" }, others.map((other, i) => card(other, i + 1, "more")))),
  ];
}

const sums = () =>
  h("dl", { class: "sums" },
    h("dt", {}, t("subtotal")), h("dd", {}, money(subtotal())),
    h("dt", {}, t("shipping")), h("dd", {}, shippingFee() ? money(shippingFee()) : t("free")),
    h("dt", { class: "sum" }, t("total")), h("dd", { class: "sum" }, money(subtotal() + shippingFee())));

const emptyCartPage = () => [
  h("section", { class: "center" }, h("img", { src: "img/tra-shan-tuyet.svg", alt: "", width: 200, height: 200 }), h("h1", {}, t("cartEmpty")), h("p", { class: "lead" }, t("cartEmptyText")), anchor("", { class: "button" }, t("back"))),
];

function cartPage() {
  if (!count()) return emptyCartPage();
  const line = ({ product, quantity }) => h("li", { class: "line" },
    anchor(`p=${product.id}`, { tabindex: "-1", "aria-hidden": "true" }, picture(product, true)),
    h("div", {},
      h("h2", {}, anchor(`p=${product.id}`, {}, product.name[language])),
      h("p", { class: "price" }, money(product.price), h("span", {}, ` · ${product.size}`)),
      h("div", { class: "line-tools" },
        stepper(quantity, () => { change(product, -1); render(true); }, () => { change(product, 1); render(true); }),
        h("button", { class: "text", type: "button", onclick: () => { change(product, -quantity); render(true); } }, t("remove")))),
    h("p", { class: "price line-sum" }, money(product.price * quantity)));
  return [
    h("h1", {}, t("cart")),
    h("div", { class: "two" },
      h("ul", { class: "lines" }, lines().map(line)),
      h("div", { class: "box" }, sums(), anchor("view=checkout", { class: "button wide", id: "checkout" }, t("checkout")), anchor("", { class: "text center-text" }, t("keepShopping")))),
  ];
}

/** A form field with its message; the browser's own validation decides. */
function field(name, type, autocomplete, more = {}) {
  const note = h("p", { class: "note", id: `${name}-note` });
  const input = h("input", { id: name, name, type, autocomplete, required: true, maxlength: 120, "aria-describedby": note.id, ...more });
  const check = () => {
    note.textContent = input.validity.valid ? "" : t(input.value && type === "email" ? "invalidEmail" : "invalid");
    input.toggleAttribute("aria-invalid", !input.validity.valid);
  };
  input.addEventListener("invalid", (e) => { e.preventDefault(); check(); });
  input.addEventListener("change", check);
  return h("div", { class: "field" }, h("label", { for: name }, t(name)), input, note);
}

function submit(form, then) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    then(Object.fromEntries(new FormData(form)));
  });
  return form;
}

let contact = null;
const stepFacts = (step, more) => ({ checkout_id: cart.checkout, order_id: cart.order, cart_id: cart.id, step, ...more });

function checkoutPage() {
  if (!count()) return emptyCartPage();
  const summary = h("div", { class: "box" },
    h("h2", {}, t("order")),
    h("ul", { class: "small-lines" }, lines().map(({ product, quantity }) => h("li", {}, picture(product, true), h("span", {}, product.name[language], h("small", {}, ` × ${quantity}`)), h("span", {}, money(product.price * quantity))))),
    sums());
  const head = (n, title) => [h("p", { class: "eyebrow" }, t("step", n)), h("h1", {}, title)];
  const form = contact
    ? payStep(h("form", {},
        head(2, t("payment")),
        h("div", { class: "choices", role: "radiogroup", "aria-label": t("payment") }, ["cod", "bank", "card"].map((way, i) =>
          h("label", { class: "choice" }, h("input", { type: "radio", name: "way", value: way, checked: i === 0 }), h("span", {}, h("b", {}, t(way)), h("small", {}, t(`${way}Text`)))))),
        h("p", { class: "demo-note" }, t("demoNote")),
        h("button", { class: "button wide", id: "pay", disabled: true, hidden: true }, t("pay"))))
    : submit(h("form", {},
        head(1, t("contact")),
        field("name", "text", "name"), field("email", "email", "email"), field("phone", "tel", "tel", { required: false, inputmode: "tel" }), field("address", "text", "street-address"),
        h("p", { class: "demo-note" }, t("demoNote")),
        h("button", { class: "button wide", id: "continue" }, t("toPayment"))),
      (filled) => {
        contact = filled;
        tracker.identify(filled.email, { email: filled.email, name: filled.name, ...(filled.phone && { phone: filled.phone }), locale: language });
        tracker.track("Checkout Step Completed", stepFacts(1, { shipping_method: "standard" }));
        tracker.track("Checkout Step Viewed", stepFacts(2));
        render();
      });
  return [h("div", { class: "two" }, h("div", { class: "box plain" }, form), summary)];
}

/** Choosing a way to pay is one act (Payment Info Entered), ordering the next: between them a payment can be abandoned. */
function payStep(form) {
  const pay = form.querySelector("#pay");
  const choose = h("button", { class: "button wide quiet", type: "button", id: "choose" }, t("choosePay"));
  choose.addEventListener("click", () => {
    const way = new FormData(form).get("way");
    tracker.track("Payment Info Entered", stepFacts(2, { payment_method: way, shipping_method: "standard" }));
    choose.hidden = true;
    pay.hidden = pay.disabled = false;
    pay.focus();
  });
  form.addEventListener("change", () => {
    choose.hidden = false;
    pay.hidden = pay.disabled = true;
  });
  pay.before(choose);
  return submit(form, ({ way }) => complete(way));
}

let ordered = "";

function complete(way) {
  tracker.track("Checkout Step Completed", stepFacts(2, { payment_method: way, shipping_method: "standard" }));
  tracker.track("Order Completed", { ...orderFacts(), payment_method: way });
  ordered = cart.order;
  contact = null;
  cart = emptyCart();
  saveCart();
  go("view=thanks")();
}

const thanksPage = () => [
  h("section", { class: "center" }, h("div", { class: "seal" }, icon("check")), h("h1", {}, t("thanks")), h("p", { class: "lead" }, t("thanksText", ordered)), anchor("", { class: "button" }, t("back"))),
];
const missingPage = () => [h("section", { class: "center" }, h("h1", {}, t("notFound")), anchor("", { class: "button" }, t("back")))];

function route() {
  const query = new URLSearchParams(location.search);
  const product = query.has("p") ? productOf(query.get("p")) : undefined;
  const view = query.get("view");
  if (product) return { name: "Product", title: product.name[language], page: () => productPage(product), tell: () => tracker.track("Product Viewed", shape(product)) };
  if (view === "cart") return { name: "Cart", title: t("cart"), page: cartPage, tell: () => tracker.track("Cart Viewed", cartFacts()) };
  if (view === "checkout") return { name: "Checkout", title: t("checkout"), page: checkoutPage, tell: tellCheckout };
  if (view === "thanks" && ordered) return { name: "Order Confirmed", title: t("thanks"), page: thanksPage };
  if (query.has("p") || view) return { name: "Not Found", title: t("notFound"), page: missingPage };
  return { name: "Home", page: homePage, tell: tellShelf };
}

function tellCheckout() {
  if (!count()) return;
  contact = null;
  cart.id ??= newId("C");
  cart.order ??= newId("DH");
  cart.checkout ??= newId("K");
  saveCart();
  tracker.track("Checkout Started", orderFacts());
  tracker.track("Checkout Step Viewed", stepFacts(1));
}

/** Draw the page of the address. `still`: the same page after a change; keep the place. */
function render(still = false) {
  const { page } = route();
  const focused = still && document.activeElement?.getAttribute("aria-label");
  main.replaceChildren(...page());
  if (focused) main.querySelector(`[aria-label="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

/** A visit of a page: tell the tracker, draw it, start at its top. */
function show(first = false) {
  const { name, title, tell } = route();
  document.title = title ? `${title} · Hiên` : t("title");
  tracker.page(name);
  tell?.();
  popup.pageViewed(name);
  render();
  if (!first) {
    scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
}

function showHeader() {
  const n = count();
  const tongue = (code, name) => h("button", { type: "button", lang: code, "aria-pressed": String(language === code), "aria-label": name, onclick: () => changeLanguage(code) }, code.toUpperCase());
  $(".top").replaceChildren(
    anchor("", { class: "logo", "aria-label": `Hiên · ${t("home")}` }, h("img", { src: "img/hien.svg", alt: "", width: 36, height: 36 }), h("span", {}, "Hiên")),
    h("nav", {},
      h("div", { class: "tongues", role: "group", "aria-label": t("language") }, tongue("vi", "Tiếng Việt"), tongue("en", "English")),
      anchor("view=cart", { class: "cart-link", "aria-label": `${t("cart")}: ${t("items", n)}` }, icon("bag"), h("span", { class: "cart-word" }, t("cart")), h("b", { class: n ? "badge" : "badge none" }, String(n)))));
}

/** What stands on every page, in the language. */
function showFrame() {
  document.documentElement.lang = language;
  $(".skip").textContent = t("skip");
  $(".foot").replaceChildren(h("p", {}, t("footer")), h("p", {}, t("demoNote")));
  showHeader();
}

function changeLanguage(code) {
  speak(code);
  document.title = route().title ? `${route().title} · Hiên` : t("title");
  showFrame();
  render();
  live.redraw();
  $(`.tongues [lang="${code}"]`).focus();
}

let toastTimer;
function toast(...children) {
  const box = $(".toast");
  box.replaceChildren(...children);
  box.classList.add("shown");
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => box.classList.remove("shown"), 3500);
}

loadCart();
const popup = startPopup();
const live = startLive($("#live"));
addEventListener("popstate", () => show());
addEventListener("storage", (e) => e.key === KEY && (loadCart(), showHeader()));
showFrame();
show(true);
