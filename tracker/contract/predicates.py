"""What a segment or a rule asks of a profile: conditions in tracker.toml, as tables. Nothing in them is ever run.

    [[sites.shop.segments]]
    name = "good_customers_gone_quiet"
    when = { all = [
        { field = "orders", op = ">=", value = 2 },
        { not = { field = "last", event = "Order Completed", op = "within", value = 30 } },
        { any = [
            { field = "trait", name = "plan", op = "in", value = ["gold", "silver"] },
            { field = "count", event = "Product Viewed", days = 7, op = ">=", value = 3 },
        ] },
    ] }

A condition is one of `all`, `any` (lists of conditions), `not` (a condition), or a `field` with `op` and `value`.
FIELDS says which fields there are, OPS what each kind of them is compared by; docs/signals.md tells what they mean.
"""

from __future__ import annotations

import re
from math import isfinite
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from tracker.contract.scoring import STAGES
from tracker.contract.stages import CART_STATES, CHANNEL_NAMES, STAGE_NAMES

Value = str | int | float | bool | tuple[str | int | float | bool, ...]

NUMBER: Final = ("=", "!=", "<", "<=", ">", ">=")
OPS: Final[dict[str, tuple[str, ...]]] = {
    "number": NUMBER,
    "amount": ("<", "<=", ">", ">="),
    "time": ("within", "older"),
    "level": (*NUMBER, "in"),
    "name": ("=", "!=", "in"),
    "flag": ("=",),
    "any": (*NUMBER, "in", "contains", "given"),
}
"""Kind of field -> its ops. A time is `within` so many days of now, or `older` (what never was is neither). A trait is
`given` (value true) or not (value false); `contains`: a text has it in it, without regard to case, or a list has it."""


class Field(Struct, frozen=True):
    """One row of the table of fields."""

    kind: str
    """One of OPS."""
    reads: str
    """The signal that knows it; `about`: the profile itself."""
    what: str
    needs: tuple[str, ...] = ()
    """What else the condition must say: `name`, `event`."""
    may: tuple[str, ...] = ()
    """What else it may say: `days`."""
    names: tuple[str, ...] = ()
    """Of a level or a name: the values that there are, a level's in their order."""
    named: tuple[str, ...] = ()
    """What `name` may be; (): anything."""
    most_days: int = 0
    also: tuple[str, ...] = ()
    """What else it looks at."""


BANDS: Final = ("low", "medium", "high")
"""Of churn risk: stream/core/churn.py."""
MAX_DAYS: Final = 90
MAX_ACTIVE_DAYS: Final = 60

FIELDS: Final[dict[str, Field]] = {
    "trait": Field("any", "about", "the trait `name` of identify calls", needs=("name",)),
    "count": Field(
        "number",
        "activity",
        "how many events called `event` (a track event's name, or page, screen, identify, group); with `days` those of "
        "so many local days, today among them, else all since the condition is in the configuration",
        needs=("event",),
        may=("days",),
        most_days=MAX_DAYS,
    ),
    "last": Field("time", "activity", "when the last event called `event` happened", needs=("event",)),
    "first_seen": Field("time", "activity", "when the first event happened"),
    "last_seen": Field("time", "activity", "when the person was last here: a page, a screen, or what is done in one"),
    "sessions": Field("number", "activity", "how many sessions; one ends with a pause of more than 30 minutes"),
    "active_days": Field(
        "number",
        "activity",
        "local days with a session, of so many `days`, today among them",
        needs=("days",),
        most_days=MAX_ACTIVE_DAYS,
    ),
    "orders": Field("number", "purchase", "how many orders"),
    "order_value": Field("number", "purchase", "the sum of the orders' values"),
    "at_risk": Field("flag", "purchase", "whether the churn signal is on"),
    "risk": Field("amount", "purchase", "the risk of losing the customer, 0 to 1: it rises as time passes"),
    "churn_band": Field("level", "purchase", "the same in three bands", names=BANDS),
    "likelihood": Field("amount", "purchase", "P(an order in the next 90 days)"),
    "clv": Field("amount", "purchase", "the predicted value of the orders to come"),
    "high_value": Field("flag", "purchase", "whether that is among the highest tenth of the site's"),
    "cart": Field("name", "cart", "what the cart is", names=CART_STATES),
    "cart_value": Field("number", "cart", "price x quantity of what is in the cart"),
    "stage": Field("level", "journey", "how far the journey has come", names=STAGE_NAMES),
    "score": Field("amount", "score", "the engagement score now: it falls as time passes"),
    "points": Field("amount", "score", "the points of a lead: the score and those for traits", also=("about",)),
    "lead": Field("level", "score", "the stage of the lead", names=STAGES),
    "nps": Field("number", "reviews", "the latest answer to an NPS survey, 0 to 10"),
    "consent": Field(
        "name",
        "contact",
        "what the person said to the channel `name`",
        needs=("name",),
        names=("granted", "denied", "unknown"),
        named=CHANNEL_NAMES,
    ),
    "reachable": Field(
        "flag",
        "contact",
        "whether the site may write to the person on the channel `name`, and it arrives there",
        needs=("name",),
        named=CHANNEL_NAMES,
    ),
}

MAX_CONDITIONS: Final = 100
MAX_DEPTH: Final = 8
MAX_LIST: Final = 100
MAX_VALUE_CHARS: Final = 200
MAX_SEGMENTS: Final = 200
MAX_EVENTS: Final = 50
"""Names of events that a site's segments and rules may count: each has a place in every profile that sends it."""
MAX_VALUE_DAYS: Final = 3650
MAX_AMOUNT: Final = 1e300

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}").fullmatch


class Condition(
    Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    omit_defaults=True,
    rename={"all_": "all", "any_": "any", "not_": "not"},
):
    """A condition on a profile, or, with `property`, on an event's properties."""

    all_: tuple[Condition, ...] | None = None
    any_: tuple[Condition, ...] | None = None
    not_: Condition | None = None
    field: str | None = None
    property: str | None = None
    op: str | None = None
    value: Value | None = None
    name: str | None = None
    event: str | None = None
    days: int | None = None


class Segment(Struct, frozen=True, forbid_unknown_fields=True):
    """`[[sites.NAME.segments]]`"""

    name: Annotated[str, Meta(description="Letters a to z, digits, - and _, 60 at most.")]
    when: Annotated[Condition, Meta(description="Who is in it.")]
    stay: Annotated[
        Condition | None, Meta(description="Who is in it stays while this holds, too: `leave` then does not apply.")
    ] = None
    leave: Annotated[
        float,
        Meta(
            description="Who is in it stays until an amount of `when` (score, ...) is below this part of its value: "
            "amounts fall by themselves, and one about the value would enter and leave again and again. 1: at the "
            "value itself.",
            gt=0,
            le=1,
        ),
    ] = 0.8

    @property
    def stays(self) -> Condition:
        """Under which a member stays one; `when` itself where that is no other."""
        if self.stay is not None:
            return Condition(any_=(self.when, self.stay))
        return relaxed(self.when, self.leave)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return (self.when,) if self.stay is None else (self.when, self.stay)


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    """`[[sites.NAME.rules]]`: an event that becomes a trigger."""

    name: Annotated[str, Meta(description="Letters a to z, digits, - and _, 60 at most.")]
    event: Annotated[str, Meta(description="Name of a track event, or page, screen, identify, group.")]
    where: Annotated[Condition | None, Meta(description="What its properties must be; with `property` as field.")] = (
        None
    )
    when: Annotated[Condition | None, Meta(description="What the profile must be, the event counted in.")] = None
    once: Annotated[
        Literal["message", "session", "day", "ever"],
        Meta(description="A person has one trigger of the rule for each event, session, local day, or at all."),
    ] = "message"
    most: Annotated[
        int, Meta(description="So many triggers of the rule a person in `per_d` days; 0: no limit.", ge=0, le=50)
    ] = 0
    per_d: Annotated[float, Meta(description="Days that `most` is for.", gt=0, le=365)] = 1.0


def check(segments: tuple[Segment, ...], rules: tuple[Rule, ...]) -> None:
    """Raises ValueError: one line that says which condition can't be used, and what would do."""
    both: tuple[tuple[str, tuple[Segment | Rule, ...]], ...] = (("segments", segments), ("rules", rules))
    for kind, each in both:
        if len(each) > MAX_SEGMENTS:
            raise ValueError(f"{kind}: there are {len(each)}, at most {MAX_SEGMENTS} will do")
        names: set[str] = set()
        for i, one in enumerate(each):
            if not _NAME(one.name):
                raise ValueError(f"{kind}[{i}].name: '{one.name[:60]}'; a to z, digits, - and _ will do, 60 at most")
            if one.name in names:
                raise ValueError(f"{kind}: there are two called '{one.name}'")
            names.add(one.name)
    for segment in segments:
        _check(segment.when, f"segment '{segment.name}': when")
        if segment.stay is not None:
            _check(segment.stay, f"segment '{segment.name}': stay")
    for rule in rules:
        place = f"rule '{rule.name}'"
        if not rule.event or len(rule.event) > MAX_VALUE_CHARS:
            raise ValueError(f"{place}: event: a name of 1 to {MAX_VALUE_CHARS} characters is needed")
        if rule.where is not None:
            _check(rule.where, f"{place}: where", properties=True)
        if rule.when is not None:
            _check(rule.when, f"{place}: when")
    conditions = [c for s in segments for c in s.conditions] + [r.when for r in rules if r.when is not None]
    if len(events := counted(conditions)) > MAX_EVENTS:
        raise ValueError(f"segments and rules ask for {len(events)} names of events, {MAX_EVENTS} at most")


def leaves(condition: Condition) -> tuple[Condition, ...]:
    """The conditions on single fields in it."""
    if condition.not_ is not None:
        return leaves(condition.not_)
    inner = condition.all_ if condition.all_ is not None else condition.any_
    return (condition,) if inner is None else tuple(leaf for each in inner for leaf in leaves(each))


SHARES: Final = frozenset(("risk", "likelihood"))
"""Amounts from 0 to 1."""


def relaxed(c: Condition, leave: float, *, negated: bool = False) -> Condition:
    """The condition with its amounts so much further away: what holds `c` holds it, and something more. The same object
    where there is none."""
    if c.field is not None:
        if FIELDS[c.field].kind != "amount" or leave == 1:
            return c
        value = float(c.value)  # type: ignore[arg-type]  # checked: a number
        raised = (c.op in ("<", "<=")) is not negated
        if raised and c.field in SHARES:  # Towards 1, which is never reached: else it would always hold.
            value = 1 - (1 - value) * leave
        else:
            value = value / leave if raised is (value > 0) else value * leave
        return replace(c, value=min(max(value, -MAX_AMOUNT), MAX_AMOUNT))
    if c.not_ is not None:
        inner = relaxed(c.not_, leave, negated=not negated)
        return c if inner is c.not_ else replace(c, not_=inner)
    each = c.all_ if c.all_ is not None else c.any_ or ()
    others = tuple(relaxed(one, leave, negated=negated) for one in each)
    if all(a is b for a, b in zip(each, others, strict=True)):
        return c
    return replace(c, all_=others) if c.all_ is not None else replace(c, any_=others)


def counted(conditions: list[Condition]) -> dict[str, int]:
    """Name of an event -> of how many days back its counts are needed, of all that the conditions ask for."""
    out: dict[str, int] = {}
    for condition in conditions:
        for leaf in leaves(condition):
            if leaf.event is not None:
                out[leaf.event] = max(out.get(leaf.event, 0), leaf.days or 0)
    return out


def _check(condition: Condition, place: str, depth: int = 0, *, properties: bool = False) -> int:
    """-> how many conditions are in it."""
    given = [n for n, v in (("all", condition.all_), ("any", condition.any_), ("not", condition.not_)) if v is not None]
    said = [n for n in ("field", "property") if getattr(condition, n) is not None]
    if len(given) + len(said) != 1:
        raise ValueError(f"{place}: a condition is one of all, any, not, {'property' if properties else 'field'}")
    if depth > MAX_DEPTH:
        raise ValueError(f"{place}: conditions in conditions, {MAX_DEPTH} deep at most")
    if not given:
        _check_leaf(condition, place, properties)
        return 1
    rest = [n for n in ("op", "value", "name", "event", "days") if getattr(condition, n) is not None]
    if rest:
        raise ValueError(f"{place}: '{rest[0]}' goes with a field, not with '{given[0]}'")
    if condition.not_ is not None:
        return _check(condition.not_, f"{place}.not", depth + 1, properties=properties)
    inner = condition.all_ if condition.all_ is not None else condition.any_
    assert inner is not None
    if not inner:
        raise ValueError(f"{place}.{given[0]}: the list is empty")
    n = sum(_check(c, f"{place}.{given[0]}[{i}]", depth + 1, properties=properties) for i, c in enumerate(inner))
    if n > MAX_CONDITIONS:
        raise ValueError(f"{place}: {n} conditions, {MAX_CONDITIONS} at most")
    return n


def _check_leaf(c: Condition, place: str, properties: bool) -> None:
    if properties != (c.property is not None):
        raise ValueError(f"{place}: {'ask for a `property` of the event' if properties else 'ask for a `field`'} here")
    if c.property is not None:
        if not 0 < len(c.property) <= MAX_VALUE_CHARS:
            raise ValueError(f"{place}: property: a name of 1 to {MAX_VALUE_CHARS} characters is needed")
        field = Field("any", "event", "")
    else:
        known = FIELDS.get(c.field or "")
        if known is None:
            raise ValueError(f"{place}: unknown field '{c.field}'; there are {', '.join(FIELDS)}")
        field = known
    for name in ("name", "event", "days"):
        value = getattr(c, name)
        if name in field.needs and value in (None, ""):
            raise ValueError(f"{place}: the field '{c.field}' needs '{name}'")
        if value is not None and name not in field.needs + field.may:
            raise ValueError(f"{place}: '{name}' says nothing of '{c.field or c.property}'")
        if isinstance(value, str) and len(value) > MAX_VALUE_CHARS:
            raise ValueError(f"{place}: {name}: longer than {MAX_VALUE_CHARS} characters")
        if name == "name" and field.named and value not in field.named:
            raise ValueError(f"{place}: name: '{value}'; there are {', '.join(field.named)}")
    if c.days is not None and not 1 <= c.days <= field.most_days:
        raise ValueError(f"{place}: days: 1 to {field.most_days} will do")
    ops = OPS[field.kind]
    if c.op not in ops:
        raise ValueError(f"{place}: op: '{c.op or ''}'; of '{c.field or c.property}' there are {', '.join(ops)}")
    _check_value(c, field, place)


def _check_value(c: Condition, field: Field, place: str) -> None:
    value = c.value
    if value is None:
        raise ValueError(f"{place}: there is no value")
    wanted: str | None = None
    if c.op == "in":
        if not isinstance(value, tuple) or not 0 < len(value) <= MAX_LIST:
            wanted = f"a list of 1 to {MAX_LIST}"
    elif isinstance(value, tuple):
        wanted = "a single one"
    if wanted is None:
        each = value if isinstance(value, tuple) else (value,)
        if any(not isfinite(v) if isinstance(v, float) else len(str(v)) > MAX_VALUE_CHARS for v in each):
            wanted = f"a finite number, or a text of at most {MAX_VALUE_CHARS} characters"
        elif field.kind in ("number", "amount") and not _is_number(value):
            wanted = "a number"
        elif field.kind == "time" and not (_is_number(value) and 0 < value <= MAX_VALUE_DAYS):  # type: ignore[operator]
            wanted = f"a number of days up to {MAX_VALUE_DAYS}"
        elif (field.kind == "flag" or c.op == "given") and not isinstance(value, bool):
            wanted = "true or false"
        elif c.op in ("<", "<=", ">", ">=") and field.kind == "any" and not _is_number(value):
            wanted = "a number"
        elif c.op == "contains" and isinstance(value, bool | int | float):
            wanted = "a text"
        elif field.names and not all(v in field.names for v in each):
            wanted = "of " + ", ".join(field.names)
    if wanted is not None:
        raise ValueError(f"{place}: value: {wanted} is needed")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
