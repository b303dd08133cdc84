"""Drip series: a message carries its level (`stage`), and engaging with level k asks for level k + 1, once a campaign.

Levels are inform, nurture and convert, or numbers from 1 on. Of each campaign the highest level that was engaged with
is kept; whoever has come further is not sent back.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from stream.core.parts import read_part
from stream.signals import shop
from stream.signals.base import Context, Result, Signal, Trigger
from tracker.contract.codec import emission_id
from tracker.contract.events import FORM_SUBMITTED, MESSAGE_ACTIONS, ProfileEvent
from tracker.contract.triggers import JOURNEY_STEP, JourneyStep, rfc3339

LEVELS: Final = ("inform", "nurture", "convert")
MAX_LEVEL: Final = 50
MAX_CAMPAIGNS: Final = 50
ENGAGED: Final = frozenset(
    (FORM_SUBMITTED, *(name for name, (_, action) in MESSAGE_ACTIONS.items() if action in ("clicked", "replied")))
)


class _Properties(Struct):
    stage: Any = None


_properties: Final = msgspec.json.Decoder(_Properties)


class Drip(Struct, frozen=True, omit_defaults=True):
    """The state of the signal `drip`."""

    levels: dict[str, tuple[int, int]] = {}
    """Campaign ('': of none) -> (the highest level engaged with, when something was engaged with last)."""


class DripSignal(Signal[Drip]):
    name = "drip"
    tells = frozenset((JOURNEY_STEP.name,))
    state_type = Drip
    events: frozenset[str] | None = ENGAGED
    settings: frozenset[str] = frozenset()

    def fold(self, state: Drip | None, event: ProfileEvent, ctx: Context) -> Result:
        before = Drip() if state is None else state
        said = read_part(_properties, event.properties)
        level = level_of(said.stage) if said is not None else None
        if level is None:
            return Result(state=state)
        campaign = shop.campaign(shop.properties(event.properties)) or ""
        highest, last_ms = before.levels.get(campaign, (0, event.timestamp_ms))
        after = Drip(_bounded({**before.levels, campaign: (max(level, highest), max(last_ms, event.timestamp_ms))}))
        if level <= highest:
            return Result(state=before if after == before else after)
        named = level <= len(LEVELS) and isinstance(said.stage, str) and not said.stage.strip().isdigit()  # type: ignore[union-attr]
        trigger = Trigger(
            kind=JOURNEY_STEP,
            id=emission_id(ctx.site, f"{ctx.profile_id}/{campaign}", JOURNEY_STEP.name, level),
            at_ms=event.timestamp_ms,
            data=JourneyStep(
                profile_id=ctx.profile_id,
                from_=level,
                to=None if named and level == len(LEVELS) else level + 1,
                level=LEVELS[level - 1] if named else None,
                next_level=LEVELS[level] if named and level < len(LEVELS) else None,
                campaign=campaign or None,
                event=event.event or "",
            ),
        )
        return Result(state=after, triggers=(trigger,))

    def merge(self, one: Drip, other: Drip, now_ms: int, ctx: Context) -> Result:
        levels = dict(one.levels)
        for campaign, (level, ms) in other.levels.items():
            mine, my_ms = levels.get(campaign, (level, ms))
            levels[campaign] = (max(level, mine), max(ms, my_ms))
        return Result(state=Drip(_bounded(dict(sorted(levels.items())))))

    def explain(self, state: Drip, now_ms: int, ctx: Context) -> dict[str, Any]:
        """How far the person has come in each campaign, the latest first."""
        return {
            "campaigns": [
                {
                    "campaign": campaign or None,
                    "level": level,
                    "name": LEVELS[level - 1] if level <= len(LEVELS) else None,
                    "last": rfc3339(ms),
                }
                for campaign, (level, ms) in sorted(state.levels.items(), key=lambda item: (-item[1][1], item[0]))
            ]
        }


def level_of(value: object) -> int | None:
    """A level's name or number -> its number, from 1 on."""
    if isinstance(value, str) and value.strip().casefold() in LEVELS:
        return LEVELS.index(value.strip().casefold()) + 1
    number = shop.number(value, MAX_LEVEL)
    return int(number) if number is not None and number >= 1 and number == int(number) else None


def _bounded(levels: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Without the campaigns that were engaged with the longest ago."""
    if len(levels) <= MAX_CAMPAIGNS:
        return levels
    kept = sorted(levels, key=lambda c: (-levels[c][1], c))[:MAX_CAMPAIGNS]
    return {c: levels[c] for c in sorted(kept)}
