"""The 14 steps of a customer (domain: A401, 002:L37-50), and which events show that somebody is at one.

Steps 1 to 6 lead to the first order, 7 to 9 are its use, and 11 to 14 lead to the next one: what a person looks for
and compares before an order is one step, and another one after it.
"""

from __future__ import annotations

from typing import Final

from tracker.contract import events as ev

STEPS: Final[tuple[tuple[str, str], ...]] = (
    ("need", "Xác định nhu cầu"),
    ("search", "Tìm kiếm thông tin"),
    ("visit", "Truy cập trang web"),
    ("learn", "Tìm hiểu tính năng và lợi ích"),
    ("compare", "So sánh nhãn hàng và giá"),
    ("buy", "Quyết định mua hàng"),
    ("unbox", "Đập hộp"),
    ("first_use", "Lần đầu tiên sử dụng"),
    ("use", "Tiếp tục sử dụng"),
    ("problem", "Gặp vấn đề"),
    ("upgrade_need", "Nhu cầu nâng cấp"),
    ("upgrade_research", "Nghiên cứu lựa chọn nâng cấp"),
    ("upgrade_compare", "So sánh lại nhãn hàng và giá"),
    ("decide", "Quyết định dùng tiếp hay thôi"),
)
"""(name in English, in Vietnamese), in their order; numbers are from 1 on."""
NEED, SEARCH, VISIT, LEARN, COMPARE, BUY, UNBOX, FIRST_USE, USE, PROBLEM, AGAIN, RESEARCH, RECOMPARE, DECIDE = range(
    1, 15
)

KINDS: Final[dict[str, tuple[int, int]]] = {
    "interest": (NEED, AGAIN),
    "search": (SEARCH, RESEARCH),
    "visit": (VISIT, 0),
    "learn": (LEARN, RESEARCH),
    "compare": (COMPARE, RECOMPARE),
    "order": (BUY, DECIDE),
    "delivery": (UNBOX, UNBOX),
    "use": (FIRST_USE, USE),
    "problem": (PROBLEM, PROBLEM),
    "renewal": (DECIDE, DECIDE),
}
"""Kind of events -> (step before the first order, step after it; 0: none). Of use: the first time, and again."""

EVENTS: Final[dict[str, str]] = {
    ev.AD_CLICKED: "interest",
    "Promotion Clicked": "interest",
    "Popup Clicked": "interest",
    **dict.fromkeys(sorted(ev.MESSAGE_CLICKS), "interest"),
    "Products Searched": "search",
    ev.PRODUCT_VIEWED: "learn",
    "Product List Filtered": "compare",
    ev.PRODUCTS_COMPARED: "compare",
    "Product Added to Wishlist": "compare",
    ev.ORDER_COMPLETED: "order",
    ev.ORDER_DELIVERED: "delivery",
    ev.FEATURE_USED: "use",
    ev.TICKET_OPENED: "problem",
    ev.CHAT_STARTED: "problem",
    "Subscription Renewed": "renewal",
    "Subscription Cancelled": "renewal",
}
"""Track event -> its kind. Besides, the first page or screen of a local day is a `visit`, and a `search` before it
where a search engine led there."""
