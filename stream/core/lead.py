"""How far is a person on the way to a purchase? visitor -> lead -> MQL -> SQL -> customer.

Points = engagement score (it decays) + fit (what traits say). A lead is whom one can write to; a customer who has
bought. MQL and SQL are entered at their points and left below `leave` times them, so that points which move about a
threshold tell once.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import fsum, isfinite
from typing import Any, Final

from tracker.contract.ids import names_somebody
from tracker.contract.scoring import STAGES, FitRule, LeadRules

VISITOR, LEAD, MQL, SQL, CUSTOMER = STAGES
CONTACTS: Final = ("email", "phone")
GRADES: Final = "ABCD"
DIGITS: Final = 1e-10
"""Part of a threshold by which points may be short of it: they are sums of powers, and 20 points may be 19.99...9."""


def entered(stage: str, points: float, rules: LeadRules, *, lead: bool, customer: bool) -> tuple[str, ...]:
    """The stages that are entered now, in their order. `lead`, `customer`: something shows that it is one."""
    if stage == CUSTOMER:
        return ()
    if customer:
        return (CUSTOMER,)
    at = STAGES.index(stage)
    if at == 0 and not lead:
        return ()
    reached = 3 if reach(points, rules.sql) else 2 if reach(points, rules.mql) else 1
    return STAGES[at + 1 : reached + 1]


def left(stage: str, points: float, rules: LeadRules) -> str:
    """The stage after those were left that the points no longer hold."""
    if stage == SQL and not reach(points, rules.leave * rules.sql):
        stage = MQL
    if stage == MQL and not reach(points, rules.leave * rules.mql):
        stage = LEAD
    return stage


def least_points(stage: str, rules: LeadRules) -> float | None:
    """Below it the stage is left; None: never by points."""
    if stage not in (MQL, SQL):
        return None
    return rules.leave * (rules.sql if stage == SQL else rules.mql) * (1 - 2 * DIGITS)


def grade(points: float, rules: LeadRules) -> str:
    """A, B, C, D."""
    return GRADES[sum(not reach(points, least) for least in rules.grades)]


def reach(points: float, least: float) -> bool:
    return points >= least - DIGITS * abs(least)


def has_contact(traits: Mapping[str, Any] | None) -> bool:
    """Whether traits say how to write to a person."""
    return traits is not None and any(names_somebody(traits.get(name)) for name in CONTACTS)


def fit(rules: tuple[FitRule, ...], traits: Mapping[str, Any] | None) -> float:
    """Points for what traits say."""
    known = traits or {}
    return fsum(rule.points for rule in rules if _fits(rule, known.get(rule.trait)))


def _fits(rule: FitRule, value: Any) -> bool:
    if rule.given is not None:
        return rule.given == (value is not None and value not in ("", [], {}))
    if rule.equals is not None:
        return _same(value, rule.equals)
    if rule.one_of:
        return any(_same(value, each) for each in rule.one_of)
    if rule.contains:
        if isinstance(value, list):
            return any(_same(each, rule.contains) for each in value)
        return isinstance(value, str) and rule.contains.casefold() in value.casefold()
    number = _number(value)
    if number is None:
        return False
    return (rule.at_least is None or number >= rule.at_least) and (rule.at_most is None or number <= rule.at_most)


def _same(a: Any, b: Any) -> bool:
    """Texts without regard to case; true is not 1."""
    if isinstance(a, str) and isinstance(b, str):
        return a.casefold() == b.casefold()
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if isfinite(number) else None
