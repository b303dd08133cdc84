/* What the types must take and what they must refuse; tsc checks it, nothing runs it. */
import type { Ecommerce, Tracker } from "./index";

export function check(tracker: Tracker): void {
  const added: Ecommerce["Product Added"] = { product_id: "p1", price: 45000, currency: "VND" };
  void tracker.ecommerce.productAdded(added);
  void tracker.ecommerce.productAdded({ ...added, cart_id: 7, gift_wrap: true }, { context: {} }, () => undefined);
  void tracker.ecommerce.productAddedToWishlist();
  void tracker.track("Order Completed", { order_id: "o1", total: 5, products: [{ product_id: "p1", quantity: 2 }] });
  void tracker.track("Order Completed", () => undefined);
  void tracker.track("Plan Chosen", { plan: "pro", seats: 3 });
  void tracker.track("Popup Viewed", { popup_id: "a" });
  void tracker.identify("u1", { email: "lan@example.vn" });
  void tracker.consent({ analytics: "granted" });
  const id: string | null = tracker.user().id() || tracker.group().id();
  void tracker.trackLink(document.querySelectorAll("a"), (link) => link.id, { id });
  // @ts-expect-error: a price is a number
  void tracker.ecommerce.productAdded({ price: "45000" });
  // @ts-expect-error: also here
  void tracker.track("Order Completed", { order_id: "o1", products: [{ price: "45000" }] });
  // @ts-expect-error: no event of the spec
  void tracker.ecommerce.productAdd({});
}
