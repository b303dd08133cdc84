"""Triggers: what automation systems subscribe to. CloudEvents 1.0, structured JSON, one topic a kind.

The record's key is the profile id, its header `content-type: application/cloudevents+json`. `id` is deterministic: the
same trigger has the same id however often it is delivered, so subscribers dedupe by it (delivery is at least once).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

CONTENT_TYPE: Final = b"application/cloudevents+json; charset=UTF-8"
HEADERS: Final[list[tuple[str, bytes]]] = [("content-type", CONTENT_TYPE)]


def _wire(name: str) -> str:
    """A field's name in JSON: camelCase, and `from`, which Python does not allow as a name."""
    head, *rest = name.rstrip("_").split("_")
    return head + "".join(part.capitalize() for part in rest)


class Channel(Struct, rename="camel", kw_only=True, omit_defaults=True, frozen=True):
    """One way to reach a profile."""

    channel: Annotated[str, Meta(description="email, sms, zns, zalo, viber or webpush.")]
    address: Annotated[str, Meta(description="E-mail address, E.164 number, id of the user at Zalo or Viber, token.")]
    consent: Annotated[str, Meta(description="What the person said to messages there: granted, denied or unknown.")]
    usable: Annotated[
        bool, Meta(description="By the site's policy (`triggers.consent`) a message may go there, and it can arrive.")
    ]
    account: Annotated[str | None, Meta(description="The official account or bot that the address belongs to.")] = None
    verified: Annotated[bool, Meta(description="Shown to be the person's own, not just typed somewhere.")] = False
    undeliverable: Annotated[bool, Meta(description="The last message there bounced for good.")] = False


class TriggerLinks(Struct, rename="camel", kw_only=True, omit_defaults=True, frozen=True):
    """Addresses of the site, as its settings name them; only those that are named."""

    site: str | None = None
    cart: str | None = None
    checkout: str | None = None
    unsubscribe: str | None = None


class Person(Struct, rename="camel", kw_only=True, omit_defaults=True):
    """Whom a trigger is about: in the data of every kind. A signal names the profile; the fold fills in the rest."""

    profile_id: str
    user_id: str | None = None
    anonymous_id: Annotated[str | None, Meta(description="The latest.")] = None
    traits: Annotated[dict[str, Any] | None, Meta(description="Traits of identify calls; none over 1 KB.")] = None
    channels: Annotated[list[Channel], Meta(description="Ways to reach the profile, the best known first.")] = []
    preferred_channel: Annotated[
        str | None,
        Meta(
            description="The channel with the highest (clicks + 1) / (delivered + 20) of the last 90 days; none when "
            "no message was delivered."
        ),
    ] = None
    links: TriggerLinks | None = None


class CartLine(Struct, rename="camel", kw_only=True, omit_defaults=True, frozen=True):
    """A product, in one variant where the shop says which."""

    product_id: str
    quantity: float = 1
    price: float | None = None
    name: str | None = None
    url: str | None = None
    image_url: str | None = None
    sku: str | None = None
    variant: str | None = None
    currency: Annotated[
        str | None, Meta(description="Of its price, where that is another than the cart's: it is not in its value.")
    ] = None


class CartAbandoned(Person):
    """A cart that was left: no cart event for the idle time of its stage."""

    stage: Annotated[str, Meta(description="How far it came: cart, checkout or payment.")]
    value: Annotated[float, Meta(description="Sum of price x quantity of its lines, in `currency`.")]
    items: list[CartLine]
    episode: Annotated[int, Meta(description="Counts this profile's carts; a cart after an order is a new episode.")]
    seq: Annotated[int, Meta(description="Counts the times this cart was abandoned.")]
    opened_at_ms: int
    last_activity_ms: int
    abandoned_at_ms: int
    reason: Annotated[
        str, Meta(description="Why, as far as events tell: coupon, shipping, payment, a survey's answer, or unknown.")
    ] = "unknown"
    currency: str | None = None
    cart_id: str | None = None
    checkout_id: str | None = None
    link: Annotated[str | None, Meta(description="Its checkout_url, else cart_url: where to go on.")] = None


class CartAbandonmentRetracted(Struct, rename="camel", kw_only=True, omit_defaults=True):
    """A late event showed that an abandonment told before was none. Same topic and key as what it retracts."""

    profile_id: str
    retracts: Annotated[str, Meta(description="The `id` of the trigger that is taken back.")]


class CartRecovered(Person):
    """An abandoned cart was bought: whatever its abandonment has set off is to stop. `episode`, `opened_at_ms` and
    `cart_id` are the abandonment's."""

    by: Annotated[str, Meta(description="Campaign of the last message click in the days before the order, or organic.")]
    order_id: Annotated[str | None, Meta(description="None: the order had none.")]
    revenue: Annotated[float, Meta(description="Of the order; 0 for a cart that the order closed beside its own.")]
    value: Annotated[float, Meta(description="Of the cart, as it was last seen.")]
    episode: int
    opened_at_ms: int
    abandoned_at_ms: int
    currency: str | None = None
    cart_id: str | None = None
    checkout_id: str | None = None


class CartRecoveryRetracted(Struct, rename="camel", kw_only=True, omit_defaults=True):
    """A recovery told before is none: its order was cancelled or given back, or a late event showed it otherwise."""

    profile_id: str
    retracts: Annotated[str, Meta(description="The `id` of the trigger that is taken back.")]
    reason: Annotated[str, Meta(description="reversed: the order was cancelled or refunded; late: a late event.")]


class ChurnRisk(Person):
    """The probability that a customer does not buy (or visit, or answer a message) again within the horizon rose over
    the threshold."""

    signal: Annotated[str, Meta(description="What is awaited: purchase, visit or message_engage.")]
    risk: Annotated[float, Meta(description="1 - P(at least one in the horizon), 0..1.")]
    p_alive: float
    band: Annotated[str, Meta(description="low (< .33), medium, high (> .66).")]
    x: Annotated[int, Meta(description="Repeat days so far: days with a purchase (visit, ...) after the first.")]
    t_x_days: Annotated[float, Meta(description="Age at the last of them, days.")]
    t_days: Annotated[float, Meta(description="Age at the crossing, days.")]
    horizon_days: float
    model: Annotated[str, Meta(description="Model and version of its parameters.")]
    confidence: Annotated[
        str, Meta(description="Of the parameters. cold: the prior alone; low: of few customers; ok: of 500 and more.")
    ]
    likelihood: Annotated[float, Meta(description="P(at least one in 90 days).", ge=0, le=1)] = 0.0
    version: Annotated[int, Meta(description="Of the parameters; 0: the prior.")] = 0
    value_total: Annotated[
        float, Meta(description="Sum of the orders' values so far, less what was given back, in `currency`.")
    ] = 0.0
    values: Annotated[dict[str, float], Meta(description="The same by currency ('': not said); not converted.")] = {}
    currency: Annotated[str | None, Meta(description="Of value_total, mean_value and clv.")] = None
    mean_value: Annotated[float | None, Meta(description="Expected value of a purchase to come.")] = None
    clv: Annotated[float | None, Meta(description="Expected value of the purchases in clv_weeks (52), discounted.")] = (
        None
    )
    high_value: Annotated[bool | None, Meta(description="clv is among the highest tenth of the site's.")] = None


INFORMING: Final = frozenset(
    ("cart_recovered", "lead_stage", "segment_entered", "segment_exited", "journey_stage")
)  # fmt: skip
"""Kinds that tell systems what has become of a profile; of all others a message to the person comes."""


class LeadStage(Person):
    """A person came a stage further. Of stages entered at once each is told, in their order."""

    stage: Annotated[str, Meta(description="Entered now: lead, mql, sql or customer.")]
    previous: Annotated[str, Meta(description="The stage before: visitor, lead, mql or sql.")]
    points: Annotated[float, Meta(description="score + fit, what the thresholds are for.")]
    score: Annotated[float, Meta(description="Engagement score at the time.")]
    fit: Annotated[float, Meta(description="Points for traits.")]
    grade: Annotated[str, Meta(description="A, B, C or D, by the points.")]
    times: Annotated[int, Meta(description="Counts the times this stage was entered.")]
    contributions: Annotated[
        dict[str, float], Meta(description="Indicator -> its part of the score, the five largest; all together are 1.")
    ]


class SegmentEntered(Person):
    """A profile is now in a segment."""

    segment: Annotated[str, Meta(description="Its name in tracker.toml.")]
    reason: Annotated[
        str, Meta(description="event; time: nothing happened; merge: of two profiles; config: the segment was changed.")
    ]


class SegmentExited(Person):
    """A profile is no longer in a segment."""

    segment: Annotated[str, Meta(description="Its name in tracker.toml.")]
    reason: Annotated[
        str,
        Meta(
            description="event, time, merge or config; moved: the profile is no more, and `movedTo` is in the segment "
            "in its place, which is no end."
        ),
    ]
    entered_at_ms: int
    moved_to: Annotated[str | None, Meta(description="The profile that this one was merged into.")] = None


class JourneyStageName(Struct, rename="camel", kw_only=True, frozen=True):
    number: Annotated[int, Meta(description="1 to 6.")]
    en: str
    vi: str


class JourneyStage(Person, rename=_wire):
    """A person's journey came to another stage."""

    from_: JourneyStageName
    to: JourneyStageName
    at_risk: Annotated[bool, Meta(description="The churn signal is on.")] = False


class JourneyStep(Person, rename=_wire):
    """A person engaged with a level of a drip series: the next one may be sent."""

    from_: Annotated[int, Meta(description="The level engaged with, from 1 on.")]
    to: Annotated[int | None, Meta(description="The next level; null after `convert`, the last one.")]
    event: Annotated[str, Meta(description="What the person did.")]
    level: Annotated[str | None, Meta(description="inform, nurture or convert, where the message said so.")] = None
    next_level: str | None = None
    campaign: str | None = None


class Survey(Person):
    """It is time to ask a person how it was."""

    cause: Annotated[str, Meta(description="order, goal, session, churn or falling.")]
    order_id: str | None = None
    event: Annotated[str | None, Meta(description="Name of the goal's event.")] = None


class ReviewRequest(Person):
    """It is time to ask a happy person for a review of an order."""

    order_id: str
    delivered_at_ms: int
    nps: Annotated[int | None, Meta(description="The latest answer.")] = None
    csat: Annotated[float | None, Meta(description="The latest answer, on a scale to 5.")] = None


class RuleMet(Person):
    """An event met a rule of tracker.toml."""

    rule: Annotated[str, Meta(description="Its name in tracker.toml.")]
    event: str
    message_id: Annotated[str, Meta(description="Of the event.")]
    properties: Annotated[dict[str, Any] | None, Meta(description="Of the event; missing when over 4 KB.")] = None


class ViewedProduct(Struct, rename="camel", kw_only=True, omit_defaults=True, frozen=True):
    product_id: str | None = None
    views: Annotated[int, Meta(description="In the visit.")] = 1
    name: str | None = None
    price: float | None = None
    currency: str | None = None
    url: str | None = None
    image_url: str | None = None


class BrowseAbandoned(Person):
    """A visit ended in which products of one category were looked at, and no cart was there."""

    views: Annotated[int, Meta(description="Of that category, among the last six of the visit.")]
    products: Annotated[list[ViewedProduct], Meta(description="Those looked at, the latest first; six at most.")]
    started_at_ms: Annotated[int, Meta(description="The first sign of the visit.")]
    last_activity_ms: Annotated[int, Meta(description="Its last sign of the visitor.")]
    category: Annotated[str | None, Meta(description="None: the events named none; it is one product.")] = None


class BrowseAbandonmentRetracted(Struct, rename="camel", kw_only=True, omit_defaults=True):
    """A late event showed that there was a cart or an order, or that two visits were one."""

    profile_id: str
    retracts: Annotated[str, Meta(description="The `id` of the trigger that is taken back.")]


class ReorderDue(Person):
    """A customer is due to buy again, or a subscription ends."""

    basis: Annotated[
        str,
        Meta(
            description="own: the customer's median time between orders; product: that of a product in the last order "
            "by the site's settings; site: the site's; subscription: its end."
        ),
    ]
    last_order_ms: Annotated[int | None, Meta(description="None: there was none.")] = None
    orders: Annotated[int, Meta(description="Days with an order, of the latest orders.")] = 0
    gap_days: Annotated[float | None, Meta(description="From the last order to now; none of a subscription.")] = None
    items: Annotated[list[CartLine], Meta(description="Of the last order; 20 at most.")] = []
    product_id: Annotated[str | None, Meta(description="With basis product: which.")] = None
    subscription_id: str | None = None


class UsageFalling(Person):
    """A person uses less of what the site offers than before."""

    ratio: Annotated[float, Meta(description="minutes / mean_minutes.")]
    minutes: Annotated[float, Meta(description="Active minutes of the last 7 days.")]
    mean_minutes: Annotated[float, Meta(description="Of a week, over the 4 weeks before.")]
    days_before: Annotated[int, Meta(description="Days with usage in these 4 weeks.")]
    times: Annotated[int, Meta(description="Counts the times it has fallen.")]


class EngagementFalling(Person):
    """A person comes, or opens messages, at less of the rate than before."""

    signal: Annotated[str, Meta(description="What has fallen: visit or message.")]
    ratio: Annotated[float, Meta(description="rate / rate_before.")]
    rate: Annotated[
        float, Meta(description="Of the last 14 days: days with a visit by day; messages opened by message delivered.")
    ]
    rate_before: Annotated[float, Meta(description="Of the 56 days before.")]
    n_before: Annotated[int, Meta(description="Days with a visit, or messages delivered, in these.")]
    times: Annotated[int, Meta(description="Counts the times it has fallen.")]


class TriggerKind(Struct, frozen=True, kw_only=True):
    name: str
    data: type[Struct]
    what: str
    retraction: type[Struct] | None = None

    @property
    def topic(self) -> str:
        return f"tracker.triggers.{self.name}.v1"

    @property
    def marketing(self) -> bool:
        """Somebody is going to be written to because of it: consent, caps and quiet hours apply."""
        return self.name not in INFORMING

    @property
    def ce_type(self) -> str:
        return f"tracker.{self.name}.v1"


CART_ABANDONED: Final = TriggerKind(
    name="cart_abandoned",
    data=CartAbandoned,
    what="a visitor left a cart, a checkout or a payment",
    retraction=CartAbandonmentRetracted,
)
CART_RECOVERED: Final = TriggerKind(
    name="cart_recovered",
    data=CartRecovered,
    what="an abandoned cart was bought",
    retraction=CartRecoveryRetracted,
)
CHURN_RISK: Final = TriggerKind(name="churn_risk", data=ChurnRisk, what="a customer is about to be lost")
LEAD_STAGE: Final = TriggerKind(name="lead_stage", data=LeadStage, what="a lead came a stage further")
SEGMENT_ENTERED: Final = TriggerKind(
    name="segment_entered", data=SegmentEntered, what="a profile is now in a segment of tracker.toml"
)
SEGMENT_EXITED: Final = TriggerKind(
    name="segment_exited", data=SegmentExited, what="a profile is no longer in a segment of tracker.toml"
)
JOURNEY_STAGE: Final = TriggerKind(
    name="journey_stage", data=JourneyStage, what="a person's journey came to another of its six stages"
)
JOURNEY_STEP: Final = TriggerKind(
    name="journey_step", data=JourneyStep, what="a person engaged with a level of a drip series, the next may follow"
)
SURVEY: Final = TriggerKind(name="survey", data=Survey, what="it is time to ask a person how it was")
REVIEW_REQUEST: Final = TriggerKind(
    name="review_request", data=ReviewRequest, what="it is time to ask a happy person for a review of an order"
)
RULE: Final = TriggerKind(name="rule", data=RuleMet, what="an event met a rule of tracker.toml")
BROWSE_ABANDONED: Final = TriggerKind(
    name="browse_abandoned",
    data=BrowseAbandoned,
    what="a visitor looked at products of a category and left",
    retraction=BrowseAbandonmentRetracted,
)
REORDER_DUE: Final = TriggerKind(name="reorder_due", data=ReorderDue, what="a customer is due to buy again")
USAGE_FALLING: Final = TriggerKind(name="usage_falling", data=UsageFalling, what="a person uses less than before")
ENGAGEMENT_FALLING: Final = TriggerKind(
    name="engagement_falling", data=EngagementFalling, what="a person comes or opens messages less than before"
)

TRIGGER_KINDS: Final[tuple[TriggerKind, ...]] = (
    CART_ABANDONED,
    CART_RECOVERED,
    CHURN_RISK,
    LEAD_STAGE,
    SEGMENT_ENTERED,
    SEGMENT_EXITED,
    JOURNEY_STAGE,
    JOURNEY_STEP,
    SURVEY,
    REVIEW_REQUEST,
    RULE,
    BROWSE_ABANDONED,
    REORDER_DUE,
    USAGE_FALLING,
    ENGAGEMENT_FALLING,
)


class CloudEvent(Struct, kw_only=True, omit_defaults=True):
    """CloudEvents 1.0 context attributes and the extension `site`; `data` is the struct of its kind."""

    id: Annotated[str, Meta(description="Always the same for the same trigger: drop one that you have seen.")]
    source: Annotated[str, Meta(description="/sites/ and the site.")]
    type: Annotated[str, Meta(description="tracker.KIND.v1; a retraction is tracker.KIND_retracted.v1.")]
    subject: Annotated[str, Meta(description="The profile id.")]
    time: Annotated[str, Meta(description="When it became true, RFC 3339: the timer's due time, or the event's.")]
    data: Annotated[msgspec.Raw, Meta(description="What it is about, by kind: see below.")]
    site: Annotated[str, Meta(description="The site, as an extension attribute.")]
    specversion: str = "1.0"
    datacontenttype: str = "application/json"

    def __post_init__(self) -> None:
        if self.specversion != "1.0":
            raise ValueError("specversion must be 1.0")


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(CloudEvent)


def rfc3339(ms: int) -> str:
    """Milliseconds since the epoch -> '2026-01-02T03:04:05.678Z'."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def encode_trigger(kind: TriggerKind, *, id: str, site: str, profile_id: str, at_ms: int, data: Struct) -> bytes:
    """A trigger as the bytes of its record. `at_ms`: when it became true (the timer's due time)."""
    suffix = "_retracted" if kind.retraction is not None and isinstance(data, kind.retraction) else ""
    return (
        b'{"specversion":"1.0","datacontenttype":"application/json",'
        + _encoder.encode(
            {
                "id": id,
                "source": f"/sites/{site}",
                "type": kind.ce_type.replace(".v1", f"{suffix}.v1"),
                "subject": profile_id,
                "time": rfc3339(at_ms),
                "site": site,
                "data": data,
            }
        )[1:]
    )


def decode_trigger(value: bytes) -> CloudEvent:
    """Raises msgspec.DecodeError."""
    return _decoder.decode(value)
