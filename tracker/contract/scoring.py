"""What engagement is worth, and when a lead is one: the indicators and their default weights, and what a site may set.

    [sites.shop.score]
    half_life_d = 7                  # a score halves in so many days without events
    daily_cap = 20                   # so many events of an indicator count a day
    weights = { review = 15, page = 0.5 }
    half_lives_d = { first_order = 30, repeat_order = 30 }
    floor = true                     # a score is never below 0

    [[sites.shop.score.indicators]]  # of its own: a name, the event, and the property whose number it adds up
    name = "watched_minutes"
    event = "Video Watched"
    amount = "minutes"
    weight = 0.2

    [sites.shop.lead]
    mql = 50
    sql = 80

    [[sites.shop.lead.fit]]          # points for what traits say; a rule has one condition
    trait = "employees"
    at_least = 50
    points = 15

docs/signals.md has the formulas.
"""

from __future__ import annotations

import re
from math import isfinite
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from tracker.contract import events as ev

FIRST_ORDER: Final = "first_order"
REPEAT_ORDER: Final = "repeat_order"
MAX_HALF_LIVES: Final = 3
MIN_HALF_LIFE_D: Final = 0.01
MAX_HALF_LIFE_D: Final = 3650
MAX_WEIGHT: Final = 1e6
MAX_FIT_RULES: Final = 50
MAX_OWN: Final = 20
MAX_TEXT: Final = 200
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}").fullmatch


class Indicator(Struct, frozen=True):
    """One row of the table of what counts. With the weight 0: it is counted, for whoever asks, and gives no points."""

    name: str
    weight: float
    events: tuple[str, ...] = ()
    """Track events; of orders it is decided by their time, see stream/core/score.py."""
    calls: tuple[str, ...] = ()
    """Types of other calls."""


def _told(action: str) -> tuple[str, ...]:
    """Names of the message events by which so much is told, on whatever channel."""
    return tuple(sorted(name for name, (_, told) in ev.MESSAGE_ACTIONS.items() if told == action))


INDICATORS: Final[tuple[Indicator, ...]] = (
    Indicator("page", 1, calls=("page", "screen")),
    Indicator("product_view", 2, (ev.PRODUCT_VIEWED,)),
    Indicator("search", 2, ("Products Searched",)),
    Indicator("promotion_click", 3, ("Promotion Clicked",)),
    Indicator("message_open", 1, ("Email Opened", "Message Seen")),
    Indicator("message_click", 4, _told("clicked")),
    Indicator("popup_submit", 8, ("Popup Submitted",)),
    Indicator("form", 10, ("Form Submitted",)),
    Indicator("cart", 6, (ev.PRODUCT_ADDED,)),
    Indicator("checkout", 10, (ev.CHECKOUT_STARTED,)),
    Indicator(FIRST_ORDER, 20, (ev.ORDER_COMPLETED,)),
    Indicator(REPEAT_ORDER, 30),
    Indicator("review", 12, ("Product Reviewed",)),
    Indicator("survey", 8, ("Survey Response Received",)),
    Indicator("social_like", 1, ("Social Liked",)),
    Indicator("social_comment", 3, ("Social Commented",)),
    Indicator("social_share", 5, ("Content Shared", "Product Shared", "Cart Shared")),
    Indicator("referral_converted", 30, ("Referral Converted",)),
    Indicator("referral_sent", 10, ("Invite Sent",)),
    Indicator("ticket", -2, ("Ticket Opened",)),
    Indicator("unsubscribe", -15, _told("unsubscribed")),
    Indicator("spam_complaint", -30, ("Email Marked as Spam",)),
    Indicator("refund", -10, (ev.ORDER_REFUNDED, ev.ORDER_CANCELLED)),
    Indicator("mention", 0, ("Brand Mentioned",)),
    Indicator("chat", 0, ("Live Chat Conversation Started",)),
    Indicator("call", 0, ("Call Logged",)),
    Indicator("post", 0, ("Content Posted",)),
    Indicator("reply", 0, ("Content Replied",)),
)
"""Machine opens and bots count for nothing. An order that was reported before counts for nothing."""

ACTIVE_MINUTES: Final = "active_minutes"
MARKS: Final[dict[str, tuple[float, float]]] = {"nps": (0, 10), "csat": (1, 5), "ces": (1, 7)}
"""Types of surveys -> least and largest mark; that of CSAT on a scale to 5."""
AMOUNTS: Final[dict[str, str]] = {
    ACTIVE_MINUTES: "Page Engaged",
    **dict.fromkeys(MARKS, ev.SURVEY_RESPONSE_RECEIVED),
}
"""Indicators that add up amounts -> their event: minutes of reading, marks. They cost what an event costs, so they are
kept of sites only that give them a weight, from then on."""

SESSION: Final = "session"
"""Sessions, each when it began. To know them costs a look at each event, so they are kept of sites only that give them
a weight, from then on."""

WEIGHTS: Final[dict[str, float]] = {i.name: i.weight for i in INDICATORS} | dict.fromkeys((*AMOUNTS, SESSION), 0.0)
OF_EVENT: Final[dict[str, str]] = {event: i.name for i in INDICATORS for event in i.events}
OF_CALL: Final[dict[str, str]] = {call: i.name for i in INDICATORS for call in i.calls}

LEAD_EVENTS: Final[frozenset[str]] = frozenset(("Form Submitted", "Signed Up"))
"""They make a lead, as an identify call does that has an e-mail address or a phone number (domain: A202)."""

STAGES: Final = ("visitor", "lead", "mql", "sql", "customer")
"""The lifecycle, in order."""


class OwnIndicator(Struct, frozen=True, forbid_unknown_fields=True):
    """`[[sites.NAME.score.indicators]]`: one of the site's own."""

    name: Annotated[str, Meta(description="Letters a to z, digits and _, 40 at most; none of the table's.")]
    event: Annotated[str, Meta(description="Name of a track event, or page, screen, identify, group.")]
    amount: Annotated[
        str, Meta(description="The property whose number it adds up; empty: events are counted. Amounts have no cap.")
    ] = ""
    weight: Annotated[float, Meta(description="Of one event, or of 1 of the amount.")] = 1.0


class ScoreRules(Struct, frozen=True, forbid_unknown_fields=True):
    """`[sites.NAME.score]`"""

    half_life_d: Annotated[float, Meta(description="Days in which a score halves when nothing happens.", gt=0)] = 7.0
    indicators: Annotated[
        tuple[OwnIndicator, ...], Meta(description="Indicators of the site's own, counted from then on.")
    ] = ()
    floor: Annotated[bool, Meta(description="A score is never below 0, whatever counts against it.")] = False
    half_lives_d: Annotated[
        dict[str, float], Meta(description="Indicator -> its own half-life; three different ones at most.")
    ] = {}
    weights: Annotated[dict[str, float], Meta(description="Indicator -> its weight, where it is not the default.")] = {}
    daily_cap: Annotated[int, Meta(description="So many events of an indicator count a day.", ge=1)] = 20
    e50: Annotated[
        float, Meta(description="The score shown as 50 of 100; 0: the median of the active visitors.", ge=0)
    ] = 0.0
    active: Annotated[
        float, Meta(description="From this score on a visitor is active, and has a place in the ranking.", gt=0)
    ] = 0.0625


def weights_of(score: ScoreRules) -> dict[str, float]:
    """Indicator -> weight, of all that a site has."""
    return WEIGHTS | {own.name: own.weight for own in score.indicators} | score.weights


class Adds(Struct, frozen=True):
    """What an event adds besides the indicator that it counts for."""

    indicator: str
    property: str = ""
    """Where its amount is, of one of the site's own."""
    capped: bool = False
    """It counts events, at most `daily_cap` a day."""


def adds_of(score: ScoreRules) -> dict[str, tuple[Adds, ...]]:
    """Event or type of call -> what it adds, of the amounts that have a weight and the site's own indicators."""
    weights, found = weights_of(score), dict[str, tuple[Adds, ...]]()
    for name, event in AMOUNTS.items():
        if weights[name]:
            found[event] = (*found.get(event, ()), Adds(name))
    for own in score.indicators:
        found[own.event] = (*found.get(own.event, ()), Adds(own.name, own.amount, capped=not own.amount))
    return found


class FitRule(Struct, frozen=True, forbid_unknown_fields=True, rename={"equals": "is"}):
    """`[[sites.NAME.lead.fit]]`: points for what a trait says."""

    trait: str
    points: float
    equals: Annotated[str | int | float | bool | None, Meta(description="It is exactly this.")] = None
    one_of: Annotated[tuple[str | int | float | bool, ...], Meta(description="It is one of these.")] = ()
    contains: Annotated[str, Meta(description="It is a text with this in it, or a list that has it.")] = ""
    at_least: Annotated[float | None, Meta(description="It is a number from here on.")] = None
    at_most: Annotated[float | None, Meta(description="It is a number up to here.")] = None
    given: Annotated[bool | None, Meta(description="It has a value (true), or has none (false).")] = None


class LeadRules(Struct, frozen=True, forbid_unknown_fields=True):
    """`[sites.NAME.lead]`"""

    mql: Annotated[float, Meta(description="Points from which a lead is marketing qualified.", gt=0)] = 50.0
    sql: Annotated[float, Meta(description="Points from which it is sales qualified.", gt=0)] = 80.0
    leave: Annotated[
        float, Meta(description="A stage is left below this part of the points that it took.", gt=0, le=1)
    ] = 0.8
    grades: Annotated[tuple[float, float, float], Meta(description="Least points of grade A, B and C.")] = (80, 50, 20)
    fit: Annotated[tuple[FitRule, ...], Meta(description="Points for traits, see below.")] = ()


def check(score: ScoreRules, lead: LeadRules) -> None:
    """Raises ValueError with one line on what can't be used."""
    known = set(WEIGHTS)
    if len(score.indicators) > MAX_OWN:
        raise ValueError(f"score.indicators: there are {len(score.indicators)}, {MAX_OWN} at most")
    for own in score.indicators:
        place = f"score.indicators: '{own.name[:60]}'"
        if not _NAME(own.name) or own.name in known:
            raise ValueError(f"{place}: a name of a to z, digits and _, 40 at most, that no other has is needed")
        if not 0 < len(own.event) <= MAX_TEXT or len(own.amount) > MAX_TEXT:
            raise ValueError(f"{place}: event: a name of 1 to {MAX_TEXT} characters is needed")
        if not abs(own.weight) <= MAX_WEIGHT:
            raise ValueError(f"{place}: weight: {own.weight} is beyond {MAX_WEIGHT:g}")
        known.add(own.name)
    for table, given in (("weights", score.weights), ("half_lives_d", score.half_lives_d)):
        for name, value in given.items():
            if name not in known:
                names = ", ".join((*WEIGHTS, *(own.name for own in score.indicators)))
                raise ValueError(f"score.{table}: unknown indicator '{name}'; there are {names}")
            if table == "weights" and not abs(value) <= MAX_WEIGHT:
                raise ValueError(f"score.weights.{name}: {value} is beyond {MAX_WEIGHT:g}")
    for half_life_d in (score.half_life_d, *score.half_lives_d.values()):
        if not MIN_HALF_LIFE_D <= half_life_d <= MAX_HALF_LIFE_D:
            raise ValueError(f"score: a half-life of {half_life_d} days is not {MIN_HALF_LIFE_D} to {MAX_HALF_LIFE_D}")
    different = {score.half_lives_d.get(name, score.half_life_d) for name in known}
    if len(different) > MAX_HALF_LIVES:
        raise ValueError(f"score.half_lives_d: {len(different)} different half-lives, {MAX_HALF_LIVES} at most")
    if lead.sql <= lead.mql:
        raise ValueError("lead.sql must be above lead.mql")
    if not lead.grades[0] > lead.grades[1] > lead.grades[2]:
        raise ValueError("lead.grades: the points of A, B and C must fall")
    if len(lead.fit) > MAX_FIT_RULES:
        raise ValueError(f"lead.fit: {len(lead.fit)} rules, {MAX_FIT_RULES} at most")
    for rule in lead.fit:
        conditions: tuple[Any, ...] = (
            rule.equals is not None,
            bool(rule.one_of),
            bool(rule.contains),
            rule.at_least is not None or rule.at_most is not None,
            rule.given is not None,
        )
        if sum(conditions) != 1:
            raise ValueError(
                f"lead.fit: the rule on trait '{rule.trait}' needs one condition: "
                "is, one_of, contains, at_least and at_most, or given"
            )
        if not isfinite(rule.points):
            raise ValueError(f"lead.fit: the points of trait '{rule.trait}' can't be used")
