"""What the events of Segment's ecommerce spec say: their properties with types, for whoever writes such a call.

Nothing is checked against these: an event with other properties, or without these, is taken as it is. They become the
types of `tracker.ecommerce.*` and `tracker.track` in the browser SDK.
"""

from __future__ import annotations

from typing import Final

from msgspec import UNSET, Struct, UnsetType

Id = str | int | UnsetType
Text = str | UnsetType
Number = float | UnsetType
Count = int | UnsetType


class Product(Struct):
    """A product of a list, or the one that an event is about."""

    product_id: Id = UNSET
    sku: Id = UNSET
    category: Text = UNSET
    name: Text = UNSET
    brand: Text = UNSET
    variant: Text = UNSET
    price: Number = UNSET
    """Of one piece."""
    quantity: Number = UNSET
    coupon: Text = UNSET
    position: Count = UNSET
    """In a list, from 1."""
    url: Text = UNSET
    image_url: Text = UNSET


Products = list[Product] | UnsetType


class ProductOfPage(Product):
    """A product by itself, with what its price is in."""

    currency: Text = UNSET
    """ISO 4217: VND."""
    value: Number = UNSET
    """Price times quantity."""


class ProductOfCart(ProductOfPage):
    """A product, and the cart that it goes into or out of."""

    cart_id: Id = UNSET


class ProductOfList(ProductOfPage):
    """A product, and the list that it stood in."""

    list_id: Id = UNSET


class ProductOfWishlist(ProductOfPage):
    """A product, and the list of wishes that it goes into or out of."""

    wishlist_id: Id = UNSET
    wishlist_name: Text = UNSET


class WishlistProductOfCart(ProductOfWishlist):
    """A product that goes from a list of wishes into a cart."""

    cart_id: Id = UNSET


class Search(Struct):
    """What was looked for."""

    query: Text = UNSET
    results: Count = UNSET
    """How many were found."""


class ProductList(Struct):
    """A list of products that was looked at."""

    list_id: Id = UNSET
    category: Text = UNSET
    products: Products = UNSET
    currency: Text = UNSET


class Choice(Struct):
    """One of a list's filters or sorts: {type: "price", value: "under-100000"}."""

    type: str
    value: str


class FilteredList(ProductList):
    """A list of products, with what was chosen from it."""

    filters: list[Choice] | UnsetType = UNSET
    sorts: list[Choice] | UnsetType = UNSET


class Promotion(Struct):
    """A promotion in the site."""

    promotion_id: Id = UNSET
    creative: Text = UNSET
    name: Text = UNSET
    position: Text = UNSET


class Cart(Struct):
    """A cart with what is in it."""

    cart_id: Id = UNSET
    products: Products = UNSET
    currency: Text = UNSET
    value: Number = UNSET


class Checkout(Cart):
    """A cart on its way to an order."""

    checkout_id: Id = UNSET
    order_id: Id = UNSET
    affiliation: Text = UNSET
    revenue: Number = UNSET
    shipping: Number = UNSET
    tax: Number = UNSET
    discount: Number = UNSET
    coupon: Text = UNSET


class CheckoutStep(Struct):
    """A step of a checkout."""

    checkout_id: Id = UNSET
    cart_id: Id = UNSET
    order_id: Id = UNSET
    step: Count = UNSET
    shipping_method: Text = UNSET
    payment_method: Text = UNSET


class Order(Struct):
    """An order, with what it is worth."""

    order_id: Id = UNSET
    """One order is one order by this, whoever reports it."""
    checkout_id: Id = UNSET
    cart_id: Id = UNSET
    affiliation: Text = UNSET
    total: Number = UNSET
    """With shipping, tax and discount."""
    subtotal: Number = UNSET
    revenue: Number = UNSET
    """Without shipping and tax."""
    shipping: Number = UNSET
    tax: Number = UNSET
    discount: Number = UNSET
    coupon: Text = UNSET
    currency: Text = UNSET
    products: Products = UNSET


class OrderTakenBack(Order):
    """An order that is cancelled or refunded, or what of it is."""

    reason: Text = UNSET


class Coupon(Struct):
    """A coupon, and what it was tried on."""

    coupon_id: Id = UNSET
    coupon_name: Text = UNSET
    coupon: Text = UNSET
    order_id: Id = UNSET
    cart_id: Id = UNSET
    discount: Number = UNSET
    currency: Text = UNSET


class CouponDenied(Coupon):
    """A coupon that did not work."""

    reason: Text = UNSET


class ProductShared(ProductOfPage):
    """A product that somebody was told of."""

    share_via: Text = UNSET
    share_message: Text = UNSET
    recipient: Text = UNSET


class CartShared(Cart):
    """A cart that somebody was told of."""

    share_via: Text = UNSET
    share_message: Text = UNSET
    recipient: Text = UNSET


class Review(Struct):
    """What somebody thinks of a product."""

    product_id: Id = UNSET
    review_id: Id = UNSET
    review_body: Text = UNSET
    rating: Id = UNSET


PROPERTIES: Final[dict[str, type[Struct]]] = {
    "Products Searched": Search,
    "Product List Viewed": ProductList,
    "Product List Filtered": FilteredList,
    "Promotion Viewed": Promotion,
    "Promotion Clicked": Promotion,
    "Product Clicked": ProductOfList,
    "Product Viewed": ProductOfPage,
    "Product Added": ProductOfCart,
    "Product Removed": ProductOfCart,
    "Cart Viewed": Cart,
    "Checkout Started": Checkout,
    "Checkout Step Viewed": CheckoutStep,
    "Checkout Step Completed": CheckoutStep,
    "Payment Info Entered": CheckoutStep,
    "Order Updated": Order,
    "Order Completed": Order,
    "Order Refunded": OrderTakenBack,
    "Order Cancelled": OrderTakenBack,
    "Coupon Entered": Coupon,
    "Coupon Applied": Coupon,
    "Coupon Denied": CouponDenied,
    "Coupon Removed": Coupon,
    "Product Added to Wishlist": ProductOfWishlist,
    "Product Removed from Wishlist": ProductOfWishlist,
    "Wishlist Product Added to Cart": WishlistProductOfCart,
    "Product Shared": ProductShared,
    "Cart Shared": CartShared,
    "Product Reviewed": Review,
}
"""Event -> its properties: each of events.ECOMMERCE."""
