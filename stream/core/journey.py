"""How far a person has come, of six stages (domain: A477). A pure function of facts, which are times and counts that
come out the same in whatever order the events come.

| # | Stage    | holds when                                                            | until              |
|---|----------|-----------------------------------------------------------------------|--------------------|
| 1 | aware    | always: there was a first touch                                       | for ever           |
| 2 | reached  | two sessions, a product viewed or a message clicked                   | 90 days of silence |
| 3 | onboard  | signed up, ordered, began a trial or gave an address                  | for ever           |
| 4 | engaged  | 3, and active on two of the 30 days after it                          | for ever           |
| 5 | retained | two orders that stand, or the churn signal has been on                | one is given back  |
| 6 | advocate | NPS >= 9, a referral that converted, a review >= 4, two shares visited | an NPS <= 6 later  |

The stage is the highest that holds. Whoever has been an advocate is retained.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from tracker.contract.durations import DAY_MS

SILENT_MS: Final = 90 * DAY_MS
ENGAGED_WITHIN_D: Final = 30
ENGAGED_DAYS: Final = 2
RETAINED_ORDERS: Final = 2
REACHED_SESSIONS: Final = 2
PROMOTER: Final = 9
DETRACTOR: Final = 6
GOOD_REVIEW: Final = 4
SHARES: Final = 2

AWARE, REACHED, ONBOARD, ENGAGED, RETAINED, ADVOCATE = range(6)


class Facts(Struct, frozen=True, omit_defaults=True):
    """What the stage follows from, besides what other signals know. Times in ms; None: never."""

    looked_ms: int | None = None
    """Latest product viewed or message clicked; 0 where only on visits (a product there, or a second session for sure),
    whose time is known elsewhere."""
    sessions: tuple[tuple[int, int], ...] = ()
    """(first event, last event), as in stream/core/activity.py, as long as they decide (see `decided`)."""
    day: int = 0
    """The latest active local day, and"""
    bits: int = 0
    """bit k: day - k was active."""
    onboard_ms: int | None = None
    """Earliest."""
    onboard_day: int | None = None
    """The local day of it."""
    engaged_days: tuple[int, ...] = ()
    """The first active local days after that one, two at most."""
    retained: bool = False
    """The churn signal has been on."""
    praised_ms: int | None = None
    """Latest sign of an advocate."""
    shares_ms: tuple[int, ...] = ()
    """The latest shares that were visited, two at most."""
    detracted_ms: int | None = None
    """Latest NPS <= 6."""

    @property
    def decided(self) -> bool:
        """Sessions decide no more: there is for ever something that shows as much."""
        return self.looked_ms is not None or self.onboard_ms is not None or self.praised_ms is not None


def stage_of(
    facts: Facts, sessions: int, last_visit_ms: int | None, orders: int, now_ms: int
) -> tuple[int, int | None]:
    """(stage, when it is left by time alone, or None)."""
    praised = [] if facts.praised_ms is None else [facts.praised_ms]
    if len(facts.shares_ms) >= SHARES:
        praised.append(facts.shares_ms[-1])
    if praised:
        detracted = facts.detracted_ms is not None and facts.detracted_ms > max(praised)
        return (RETAINED if detracted else ADVOCATE), None
    if orders >= RETAINED_ORDERS or facts.retained:
        return RETAINED, None
    if facts.onboard_ms is not None:
        return (ENGAGED if len(facts.engaged_days) >= ENGAGED_DAYS else ONBOARD), None
    if facts.looked_ms is not None or sessions >= REACHED_SESSIONS:
        silent_from = max(t for t in (facts.looked_ms, last_visit_ms, 0) if t is not None) + SILENT_MS
        if now_ms < silent_from:
            return REACHED, silent_from
    return AWARE, None


def why(facts: Facts, stage: int, sessions: int, orders: int, at_risk: bool) -> str:
    """By what a person is in the stage, in words."""
    match stage:
        case 5 if len(facts.shares_ms) >= SHARES and facts.praised_ms is None:
            return f"{SHARES} shares that were visited"
        case 5:
            return "an NPS of 9 or 10, a referral that converted, or a review of 4 or more"
        case 4 if orders >= RETAINED_ORDERS:
            return f"{orders} orders"
        case 4 if facts.retained:
            return "the churn signal is on" if at_risk else "the churn signal has been on"
        case 4:
            return "an NPS of 6 or less after what made an advocate"
        case 3:
            return f"active on {ENGAGED_DAYS} of the {ENGAGED_WITHIN_D} days after the onboarding"
        case 2:
            return "signed up, ordered, began a trial or gave an address"
        case 1 if facts.looked_ms is None:
            return f"{sessions} sessions"
        case 1:
            return "a second session, a product viewed or a message clicked"
    return "a first touch" if not facts.decided else "90 days of silence"


def came_back(bits: int) -> bool:
    """Active on days that are not neighbours: two sessions at least, whatever else will be known of them."""
    return bits.bit_length() > REACHED_SESSIONS


def engaged(facts: Facts, onboard_day: int | None, active: tuple[int, ...]) -> tuple[int, ...]:
    """The first active days after the onboarding, of those known before and those that are remembered now."""
    if onboard_day is None:
        return ()
    days = sorted(d for d in {*facts.engaged_days, *active} if 0 < d - onboard_day <= ENGAGED_WITHIN_D)
    return tuple(days[:ENGAGED_DAYS])
