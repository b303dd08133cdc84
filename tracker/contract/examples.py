"""Golden examples: one for every known event and every trigger. Tests, docs and SDKs use the same ones.

`MESSAGES` are what a client sends; `event` and `profile_event` make of one the records that stand in Kafka.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from tracker.contract import events
from tracker.contract.codec import emission_id, new_profile_id
from tracker.contract.durations import DAY_MS, HOUR_MS
from tracker.contract.models import Model, Value
from tracker.contract.topics import DeadLetter
from tracker.contract.triggers import (
    BROWSE_ABANDONED,
    CART_ABANDONED,
    CART_RECOVERED,
    CHURN_RISK,
    ENGAGEMENT_FALLING,
    JOURNEY_STAGE,
    JOURNEY_STEP,
    LEAD_STAGE,
    REORDER_DUE,
    REVIEW_REQUEST,
    RULE,
    SEGMENT_ENTERED,
    SEGMENT_EXITED,
    SURVEY,
    USAGE_FALLING,
    BrowseAbandoned,
    BrowseAbandonmentRetracted,
    CartAbandoned,
    CartAbandonmentRetracted,
    CartLine,
    CartRecovered,
    CartRecoveryRetracted,
    Channel,
    ChurnRisk,
    EngagementFalling,
    JourneyStage,
    JourneyStageName,
    JourneyStep,
    LeadStage,
    ReorderDue,
    ReviewRequest,
    RuleMet,
    SegmentEntered,
    SegmentExited,
    Survey,
    TriggerKind,
    TriggerLinks,
    UsageFalling,
    ViewedProduct,
    encode_trigger,
    rfc3339,
)

SITE: Final = "demo"
AT_MS: Final = 1_793_588_645_678
"""2026-11-02T03:04:05.678Z: when the first example happened. Each further one a second later."""

_ANONYMOUS_ID: Final = "0a7f3f9e-2f9e-4b5e-9d52-6f1d2c3b4a59"
_USER_ID: Final = "customer-1042"
_LINE: Final = {
    "product_id": "ca-phe-robusta-500",
    "name": "Cà phê Robusta 500 g",
    "price": 145000,
    "quantity": 2,
    "currency": "VND",
    "url": "https://shop.example/p/ca-phe-robusta-500",
    "image_url": "https://shop.example/i/ca-phe-robusta-500.webp",
    "category": "coffee",
}
_CART: Final = {"cart_id": "cart-77", "currency": "VND"}
_CHECKOUT: Final = {**_CART, "checkout_id": "checkout-31"}
_ORDER: Final = {
    **_CHECKOUT,
    "order_id": "order-5501",
    "revenue": 290000,
    "value": 290000,
    "products": [_LINE],
}
_POPUP: Final = {"popup_id": "welcome-10", "provider": "shop", "trigger": "exit-intent"}
_CAMPAIGN: Final = {"campaign_id": "cart-reminder", "campaign_name": "Cart reminder", "template_id": "cart-1"}

_TRACKS: Final[dict[str, dict[str, Any]]] = {
    events.PRODUCT_VIEWED: _LINE,
    events.PRODUCT_ADDED: {**_CART, **_LINE},
    events.PRODUCT_REMOVED: {**_CART, **_LINE, "quantity": 1},
    events.CART_VIEWED: {**_CART, "products": [_LINE]},
    events.CHECKOUT_STARTED: {**_CHECKOUT, "value": 290000, "products": [_LINE]},
    events.CHECKOUT_STEP_VIEWED: {**_CHECKOUT, "step": 1, "shipping_method": "GHN"},
    events.CHECKOUT_STEP_COMPLETED: {**_CHECKOUT, "step": 1, "shipping_method": "GHN"},
    events.PAYMENT_INFO_ENTERED: {**_CHECKOUT, "step": 2, "payment_method": "cod"},
    events.ORDER_COMPLETED: _ORDER,
    events.ORDER_CANCELLED: _ORDER,
    events.ORDER_REFUNDED: {**_ORDER, "total": 290000},
    **dict.fromkeys(events.POPUP_ACTIONS, _POPUP),
    "Popup Submitted": {**_POPUP, "fields": ["phone"]},
    **{
        name: {**_CAMPAIGN, "stage": "inform", "channel": channel or "zalo"}
        for name, (channel, _) in events.MESSAGE_ACTIONS.items()
    },
    events.CONSENT_UPDATED: {"channel": "zalo", "consent": "granted"},
    events.SUBSCRIBED: {"channel": "email", "email": "lan@example.com", "list": "newsletter"},
    events.ZALO_FOLLOWED: {"channel": "zalo"},
    events.SIGNED_UP: {"method": "email", "email": "lan@example.com"},
    events.TRIAL_STARTED: {"plan": "gold"},
    events.FORM_SUBMITTED: {"form_id": "newsletter", "stage": "nurture", "email": "lan@example.com"},
    events.PRODUCT_REVIEWED: {**_LINE, "order_id": "order-5501", "rating": 5, "review": "Thơm, đậm"},
    events.PRODUCT_SHARED: {**_LINE, "share_via": "zalo", "visits": 3},
    events.CART_SHARED: {**_CART, "share_via": "zalo", "visits": 1},
    events.CONTENT_SHARED: {"content_id": "pha-phin", "share_via": "facebook", "visits": 0},
    events.REFERRAL_CONVERTED: {"referral_id": "lan-1042", "order_id": "order-5502"},
    events.SESSION_ENDED: {"session_id": "s-9", "duration_s": 412},
    events.ORDER_DELIVERED: {"order_id": "order-5501"},
    events.SURVEY_RESPONSE_RECEIVED: {"survey_id": "after-order", "type": "nps", "score": 9, "text": "Giao nhanh"},
    events.TICKET_OPENED: {"ticket_id": "ticket-7", "subject": "Đổi hàng"},
    events.TICKET_RESOLVED: {"ticket_id": "ticket-7"},
    events.COUPON_DENIED: {**_CHECKOUT, "coupon_name": "TET", "reason": "expired"},
    events.PAYMENT_FAILED: {**_CHECKOUT, "reason": "card declined"},
    events.SURVEY_ANSWERED: {"survey_id": "why-left", "type": "abandonment", "reason": "price"},
    events.TICKET_ANSWERED: {"ticket_id": "ticket-7", "agent_id": "an"},
    events.CHAT_STARTED: {"conversation_id": "chat-3", "agent_id": "an"},
    events.CHAT_MESSAGE_RECEIVED: {"conversation_id": "chat-3", "agent_id": "an"},
    events.CHAT_ENDED: {"conversation_id": "chat-3", "conversation_duration": 240},
    events.CALL_LOGGED: {"channel": "call", "agent_id": "an", "duration_s": 180},
    events.AD_CLICKED: {"campaign_id": "tet", "channel": "ads"},
    events.PRODUCTS_COMPARED: {"products": [_LINE]},
    events.FEATURE_USED: {"feature": "subscription-pause"},
    events.SUBSCRIPTION_RENEWED: {"subscription_id": "s-1", "plan": "pro", "ends_at": "2026-12-24T00:00:00+07:00"},
}  # fmt: skip


def _messages() -> dict[str, dict[str, Any]]:
    calls: dict[str, dict[str, Any]] = {
        "page": {
            "type": "page",
            "name": "Home",
            "properties": {
                "url": "https://shop.example/",
                "path": "/",
                "title": "Cà phê Việt",
                "referrer": "",
            },
            "context": {
                "locale": "vi-VN",
                "page": {"url": "https://shop.example/?utm_source=zalo&utm_campaign=tet", "path": "/"},
                "campaign": {"source": "zalo", "name": "tet"},
            },
        },
        "screen": {"type": "screen", "name": "Cart", "properties": {"app": "shop-android"}},
        "identify": {
            "type": "identify",
            "userId": _USER_ID,
            "traits": {"name": "Nguyễn Thị Lan", "plan": "gold"},
        },
        "group": {
            "type": "group",
            "userId": _USER_ID,
            "groupId": "b2b-7",
            "traits": {"name": "Quán Cà Phê Số 7"},
        },
        "alias": {"type": "alias", "userId": _USER_ID, "previousId": _ANONYMOUS_ID},
        **{name: {"type": "track", "event": name, "properties": dict(p)} for name, p in _TRACKS.items()},
    }
    for n, (name, call) in enumerate(calls.items()):
        call.setdefault("anonymousId", _ANONYMOUS_ID)
        call["messageId"] = f"example-{n:02d}-{name.lower().replace(' ', '-')}"
        call["timestamp"] = rfc3339(AT_MS + 1000 * n)
    return calls


MESSAGES: Final[dict[str, dict[str, Any]]] = _messages()
"""Name of a track call, or the type of another call -> a Message as a client sends it."""

PROFILE_ID: Final = new_profile_id(SITE, "anonymous_id", _ANONYMOUS_ID)


_FOUND: Final[dict[str, dict[str, Any]]] = {
    "page": {"channel": "zalo", "campaign": {"source": "zalo", "name": "tet"}, "traffic": "zalo"},
    "screen": {"traffic": "direct"},
}
"""What the endpoint finds out about an example, besides its times and its channel."""


def event(name: str) -> bytes:
    """The record of tracker.events.v1 that becomes of MESSAGES[name], received 250 ms after it happened."""
    message = MESSAGES[name]
    at_ms = AT_MS + 1000 * list(MESSAGES).index(name)
    return msgspec.json.encode(
        {
            "site": SITE,
            "timestampMs": at_ms,
            "receivedAtMs": at_ms + 250,
            "channel": message.get("properties", {}).get("channel")
            or ("popup" if name in events.POPUP_ACTIONS else "form" if name.startswith("Form ") else "site"),
            **_FOUND.get(name, {}),
            **{k: v for k, v in message.items() if k != "timestamp"},
        }
    )


def profile_event(name: str) -> bytes:
    """The record of tracker.profile-events.v1 that becomes of it."""
    prefix = events.profile_prefix(PROFILE_ID.encode(), 7)
    return events.with_profile(event(name), prefix, 1000 + list(MESSAGES).index(name), 0)


CLOCK: Final = events.encode_clock(AT_MS)

MODEL: Final = Model(
    model_id=f"{SITE}/purchase/7",
    site=SITE,
    signal="purchase",
    version=7,
    fitted_at_ms=AT_MS,
    r=0.524838,
    alpha=6.182992,
    a=0.891356,
    b=1.614,
    customers=2357,
    confidence="ok",
    value=Value(p=6.248803, q=3.744588, v=2_317_000.0, currency="VND", high=1_250_000.0),
)
"""Parameters of a site's churn model: those of CDNOW (docs/signals.md)."""

DEAD_LETTER: Final = DeadLetter(
    reason="not_an_event",
    detail="Input data was truncated",
    stage="signals",
    at_ms=AT_MS,
    original=b'{"site":"demo","type":',
    site=SITE,
    topic="tracker.profile-events.v1",
    partition=7,
    offset=1234,
)

_OPENED: Final = str(MESSAGES[events.PRODUCT_ADDED]["messageId"])
_ABANDONED_ID: Final = emission_id(SITE, _OPENED, CART_ABANDONED.name, 1)
_RECOVERED_ID: Final = emission_id(SITE, _OPENED, CART_RECOVERED.name, 1)
_ABANDONED_MS: Final = AT_MS + HOUR_MS
_ORDERED_MS: Final = AT_MS + 1000 * list(MESSAGES).index(events.ORDER_COMPLETED)
_QUIET_MS: Final = _ORDERED_MS + 30 * DAY_MS

_BROWSED: Final = f"{PROFILE_ID}/{AT_MS}"
_BROWSED_ID: Final = emission_id(SITE, _BROWSED, BROWSE_ABANDONED.name, 1)
_DAY: Final = (AT_MS + 7 * HOUR_MS) // DAY_MS
_MIDNIGHT_MS: Final = (_DAY + 1) * DAY_MS - 7 * HOUR_MS

_PERSON: Final[dict[str, Any]] = {
    "user_id": _USER_ID,
    "anonymous_id": _ANONYMOUS_ID,
    "traits": {"name": "Nguyễn Thị Lan"},
    "channels": [
        Channel(channel="email", address="lan@example.com", consent="unknown", usable=True, verified=True),
        Channel(channel="sms", address="+84901234567", consent="denied", usable=False, verified=True),
        Channel(channel="zns", address="+84901234567", consent="granted", usable=True, verified=True),
    ],
    "preferred_channel": "email",
    "links": TriggerLinks(cart="https://shop.example/cart"),
}

TRIGGERS: Final[tuple[tuple[TriggerKind, str, int, Struct], ...]] = (
    (
        CART_ABANDONED,
        _ABANDONED_ID,
        _ABANDONED_MS,
        CartAbandoned(
            profile_id=PROFILE_ID,
            stage="cart",
            value=290000,
            items=[
                CartLine(
                    product_id="ca-phe-robusta-500",
                    quantity=2,
                    price=145000,
                    name="Cà phê Robusta 500 g",
                    url="https://shop.example/p/ca-phe-robusta-500",
                )
            ],
            episode=1,
            seq=1,
            opened_at_ms=AT_MS,
            last_activity_ms=AT_MS,
            abandoned_at_ms=_ABANDONED_MS,
            reason="shipping",
            currency="VND",
            cart_id="cart-77",
            **_PERSON,
        ),
    ),
    (
        CART_ABANDONED,
        emission_id(SITE, _OPENED, "cart_abandonment_retracted", 1),
        _ABANDONED_MS,
        CartAbandonmentRetracted(profile_id=PROFILE_ID, retracts=_ABANDONED_ID),
    ),
    (
        CART_RECOVERED,
        _RECOVERED_ID,
        _ABANDONED_MS + 7_200_000,
        CartRecovered(
            profile_id=PROFILE_ID,
            by="cart-reminder",
            order_id="order-5501",
            revenue=290000,
            value=290000,
            episode=1,
            opened_at_ms=AT_MS,
            abandoned_at_ms=_ABANDONED_MS,
            currency="VND",
            cart_id="cart-77",
            **_PERSON,
        ),
    ),
    (
        CART_RECOVERED,
        emission_id(SITE, _OPENED, "cart_recovery_retracted", 1),
        _ABANDONED_MS + DAY_MS,
        CartRecoveryRetracted(profile_id=PROFILE_ID, retracts=_RECOVERED_ID, reason="reversed"),
    ),
    (
        CHURN_RISK,
        emission_id(SITE, str(MESSAGES[events.ORDER_COMPLETED]["messageId"]), CHURN_RISK.name, 1),
        AT_MS + 16_994_918_000,
        # MBG/NBD with the cold prior; tests/unit/test_generated.py computes the same figures.
        ChurnRisk(
            profile_id=PROFILE_ID,
            signal="purchase",
            risk=0.9,
            p_alive=0.1868,
            band="high",
            x=2,
            t_x_days=60.0,
            t_days=256.69,
            horizon_days=91.0,
            value_total=870000,
            likelihood=0.0994,
            model="mbg_nbd:prior-1",
            confidence="cold",
            values={"VND": 870000.0},
            currency="VND",
            **_PERSON,
        ),
    ),
    (
        LEAD_STAGE,
        emission_id(SITE, f"{PROFILE_ID}/mql", LEAD_STAGE.name, 1),
        AT_MS + 5_000,
        LeadStage(
            profile_id=PROFILE_ID,
            stage="mql",
            previous="lead",
            points=54.0,
            score=39.0,
            fit=15.0,
            grade="B",
            times=1,
            contributions={"form": 0.513, "message_click": 0.308, "page": 0.179},
            user_id=_USER_ID,
            traits={"name": "Nguyễn Thị Lan", "employees": 120},
        ),
    ),
    (
        SEGMENT_ENTERED,
        emission_id(SITE, f"{PROFILE_ID}/gone_quiet/{_QUIET_MS}", "segment_in", 1),
        _QUIET_MS,
        SegmentEntered(profile_id=PROFILE_ID, segment="gone_quiet", reason="time", **_PERSON),
    ),
    (
        SEGMENT_EXITED,
        emission_id(SITE, f"{PROFILE_ID}/gone_quiet/{_QUIET_MS + DAY_MS}", "segment_out", 2),
        _QUIET_MS + DAY_MS,
        SegmentExited(profile_id=PROFILE_ID, segment="gone_quiet", reason="event", entered_at_ms=_QUIET_MS, **_PERSON),
    ),
    (
        JOURNEY_STAGE,
        emission_id(SITE, f"{PROFILE_ID}/onboard/{_ORDERED_MS}", JOURNEY_STAGE.name, 2),
        _ORDERED_MS,
        JourneyStage(
            profile_id=PROFILE_ID,
            from_=JourneyStageName(number=2, en="reached", vi="Tiếp cận"),
            to=JourneyStageName(number=3, en="onboard", vi="Onboard"),
            **_PERSON,
        ),
    ),
    (
        JOURNEY_STEP,
        emission_id(SITE, f"{PROFILE_ID}/cart-reminder", JOURNEY_STEP.name, 1),
        AT_MS,
        JourneyStep(
            profile_id=PROFILE_ID,
            from_=1,
            to=2,
            level="inform",
            next_level="nurture",
            campaign="cart-reminder",
            event="Email Link Clicked",
            **_PERSON,
        ),
    ),
    (
        SURVEY,
        emission_id(SITE, f"{PROFILE_ID}/order/order-5501", SURVEY.name, 1),
        _ORDERED_MS + 3 * DAY_MS,
        Survey(profile_id=PROFILE_ID, cause="order", order_id="order-5501", **_PERSON),
    ),
    (
        REVIEW_REQUEST,
        emission_id(SITE, f"{PROFILE_ID}/order-5501", REVIEW_REQUEST.name, 1),
        _ORDERED_MS + 9 * DAY_MS,
        ReviewRequest(
            profile_id=PROFILE_ID,
            order_id="order-5501",
            delivered_at_ms=_ORDERED_MS + 2 * DAY_MS,
            nps=9,
            **_PERSON,
        ),
    ),
    (
        RULE,
        emission_id(SITE, f"big-basket/{PROFILE_ID}/{_OPENED}", RULE.name, 1),
        AT_MS + 1000 * list(MESSAGES).index(events.PRODUCT_ADDED),
        RuleMet(
            profile_id=PROFILE_ID,
            rule="big-basket",
            event=events.PRODUCT_ADDED,
            message_id=_OPENED,
            properties={**_CART, **_LINE},
            **_PERSON,
        ),
    ),
    (
        BROWSE_ABANDONED,
        _BROWSED_ID,
        AT_MS + 420_000 + 1_800_000,
        BrowseAbandoned(
            profile_id=PROFILE_ID,
            category="coffee",
            views=3,
            products=[
                ViewedProduct(
                    product_id="ca-phe-robusta-500",
                    views=2,
                    name="Cà phê Robusta 500 g",
                    price=145000,
                    currency="VND",
                    url="https://shop.example/p/ca-phe-robusta-500",
                    image_url="https://shop.example/i/ca-phe-robusta-500.webp",
                ),
                ViewedProduct(product_id="ca-phe-arabica-250", price=120000, currency="VND"),
            ],
            started_at_ms=AT_MS,
            last_activity_ms=AT_MS + 420_000,
            **_PERSON,
        ),
    ),
    (
        BROWSE_ABANDONED,
        emission_id(SITE, _BROWSED, "browse_abandonment_retracted", 1),
        AT_MS + 3_000_000,
        BrowseAbandonmentRetracted(profile_id=PROFILE_ID, retracts=_BROWSED_ID),
    ),
    (
        REORDER_DUE,
        emission_id(SITE, f"{PROFILE_ID}/{AT_MS}", REORDER_DUE.name, 1),
        AT_MS + 30 * DAY_MS,
        ReorderDue(
            profile_id=PROFILE_ID,
            basis="own",
            last_order_ms=AT_MS,
            orders=4,
            gap_days=30.0,
            items=[
                CartLine(
                    product_id="ca-phe-robusta-500",
                    quantity=2,
                    price=145000,
                    name="Cà phê Robusta 500 g",
                    url="https://shop.example/p/ca-phe-robusta-500",
                )
            ],
            **_PERSON,
        ),
    ),
    (
        USAGE_FALLING,
        emission_id(SITE, f"{PROFILE_ID}/{_DAY}", USAGE_FALLING.name, 1),
        _MIDNIGHT_MS,
        UsageFalling(
            profile_id=PROFILE_ID,
            ratio=0.45,
            minutes=54.0,
            mean_minutes=120.0,
            days_before=22,
            times=1,
            **_PERSON,
        ),
    ),
    (
        ENGAGEMENT_FALLING,
        emission_id(SITE, f"{PROFILE_ID}/message/{_MIDNIGHT_MS}", ENGAGEMENT_FALLING.name, 1),
        _MIDNIGHT_MS,
        EngagementFalling(
            profile_id=PROFILE_ID,
            signal="message",
            ratio=0.25,
            rate=0.1,
            rate_before=0.4,
            n_before=40,
            times=1,
            **_PERSON,
        ),
    ),
)
"""(kind, id, time in ms, data) of a trigger; `trigger` encodes one."""


def trigger(kind: TriggerKind, id: str, at_ms: int, data: Struct) -> bytes:
    """The value of its record in the kind's topic: a CloudEvent in structured JSON."""
    return encode_trigger(kind, id=id, site=SITE, profile_id=PROFILE_ID, at_ms=at_ms, data=data)
