"""Reading engagement scores: of one profile, the ranking of a site, and its engagement rate and mean.

The formulas are the worker's (stream/core/score.py), applied to what it keeps: sums without weights, so that an answer
is by the weights of now. The ranking is merged from the partitions' sorted sets. Where weights are negative or
half-lives differ, these sets hold bounds: whoever may be among the first is then looked at, until nobody else can be.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec
from msgspec import Struct
from redis.asyncio import Redis

from stream.core import lead
from stream.core import score as core
from stream.core.score import Part, Rules
from stream.signals.score import Score
from tracker.contract import keys
from tracker.contract.codec import partition_of
from tracker.contract.scoring import LeadRules, ScoreRules
from tracker.contract.settings import Settings
from tracker.counters import count_visitors
from tracker.ratios import ratio

MAX_RANKING: Final = 500
DEFAULT_RANKING: Final = 20
MAX_ROUNDS: Final = 5
"""How often more candidates are fetched: twice as many each time."""

_score: Final = msgspec.json.Decoder(Score).decode


class _About(Struct):
    traits: dict[str, Any] = {}


_about: Final = msgspec.json.Decoder(_About).decode


class _Site(Struct):
    rules: Rules
    leads: LeadRules
    e50: float


async def _site(redis: Redis, settings: Settings, site: str) -> _Site:
    known = settings.sites.get(site)
    score, leads = (ScoreRules(), LeadRules()) if known is None else (known.score, known.lead)
    e50 = score.e50
    if not e50:
        stored = await redis.execute_command("HGET", keys.score_key(site), "e50")  # type: ignore[no-untyped-call]
        e50 = float(stored) if stored is not None else core.E50
    return _Site(core.rules_of(score), leads, e50)


async def read_score(redis: Redis, settings: Settings, site: str, profile: dict[str, Any], now_ms: int) -> Any:
    """The profile's `engagement`: None where nothing has counted yet. `profile`: about, and its signals as JSON."""
    stored = profile["signals"].get("score")
    if stored is None:
        return None
    state = msgspec.convert(stored, Score)
    of = await _site(redis, settings, site)
    rules = of.rules
    rank = core.rank(state.indicators, rules, state.last_ms)
    least = core.bound(rules.active, rules, now_ms)
    pipe = redis.pipeline(transaction=False)
    for p in range(settings.partitions):
        pipe.zcount(keys.rank_key(p, site), least, "+inf")
        if rank is not None:
            pipe.zcount(keys.rank_key(p, site), f"({rank!r}", "+inf")
    counts = [int(n) for n in await pipe.execute()]
    placed = rank is not None and rank >= least
    active = sum(counts[:: 1 if rank is None else 2])
    place = 1 + sum(counts[1::2]) if placed else None
    then = core.week_ago(state.indicators, state.marks, rules, now_ms)
    about = _about_of(state, profile["about"].get("traits") or {}, of, now_ms)
    return about | {
        "change_7d": about["score"] - then,
        "e50": of.e50,
        "rank": place,
        "active": active,
        "percentile": ratio("profiles.percentile", active - place, active, 100) if place is not None else None,
    }


def _about_of(state: Score, traits: dict[str, Any], of: _Site, now_ms: int) -> dict[str, Any]:
    weights = of.rules.weights
    score, fit = core.score_of(state.indicators, of.rules, now_ms), lead.fit(of.leads.fit, traits)
    return {
        "score": score,
        "raw": core.raw(state.indicators, weights),
        "display": core.display(score, of.e50),
        "contributions": core.contributions(state.indicators, weights, now_ms),
        "fit": fit,
        "points": score + fit,
        "grade": lead.grade(score + fit, of.leads),
        "stage": state.stage,
        "stage_until_ms": state.due_ms,
    }


async def read_ranking(
    redis: Redis, settings: Settings, site: str, limit: int, at_least: float | None, now_ms: int
) -> dict[str, Any]:
    """The answer of .../ranking. Raises RedisError.

    `active`: visitors with a score of `at_least`, or else of the setting `active`. `exact`: nobody else can be among
    the first. `settled`: all ranks are by the settings of now; a minute or so after a change they are.
    """
    of = await _site(redis, settings, site)
    rules = of.rules
    least = core.bound(max(at_least or rules.active, rules.active), rules, now_ms)
    pipe = redis.pipeline(transaction=False)
    for p in range(settings.partitions):
        pipe.zcount(keys.rank_key(p, site), least, "+inf")
        pipe.hget(keys.ranked_key(p), site)
    replies = await pipe.execute()
    active = sum(int(n) for n in replies[::2])
    found: dict[str, dict[str, Any]] = {}
    wanted, exact = limit, False
    for _ in range(MAX_ROUNDS):
        candidates, beyond = await _first(redis, settings, site, least, wanted)
        await _look(redis, settings, site, [id for id, _ in candidates if id not in found], of, now_ms, found)
        known = [found[id] for id, _ in candidates if id in found]
        first = sorted(known, key=lambda entry: (-entry["score"], entry["profile_id"]))[:limit]
        exact = beyond is None or (
            len(first) == limit and core.of_rank(beyond, rules, now_ms) <= first[-1]["score"] * (1 + 1e-9)
        )
        if exact:
            break
        wanted *= 2
    if at_least is not None:
        first = [entry for entry in first if entry["score"] >= at_least]
    return {
        "active": active,
        "e50": of.e50,
        "exact": exact,
        "settled": len({rules for rules in replies[1::2] if rules is not None}) <= 1,
        "ranking": [{"rank": n, **entry} for n, entry in enumerate(first, 1)],
    }


async def _first(
    redis: Redis, settings: Settings, site: str, least: float, wanted: int
) -> tuple[list[tuple[str, float]], float | None]:
    """At least the `wanted` first by rank, if there are so many: (profile id, rank); and the rank that nobody else is
    above, None: there is nobody else."""
    each = 2 * wanted // settings.partitions + 8
    while True:
        pipe = redis.pipeline(transaction=False)
        for p in range(settings.partitions):
            pipe.zrevrangebyscore(keys.rank_key(p, site), "+inf", least, start=0, num=each, withscores=True)
        parts = await pipe.execute()
        beyond = max((part[-1][1] for part in parts if len(part) == each), default=None)
        merged = sorted(((_text(id), rank) for part in parts for id, rank in part), key=lambda c: (-c[1], c[0]))
        if beyond is None:
            return merged[:wanted], merged[wanted][1] if len(merged) > wanted else None
        complete = [c for c in merged if c[1] >= beyond]
        if len(complete) >= wanted:
            return complete[:wanted], complete[wanted][1] if len(complete) > wanted else beyond
        each *= 2


async def _look(
    redis: Redis, settings: Settings, site: str, ids: Iterable[str], of: _Site, now_ms: int, found: dict[str, Any]
) -> None:
    """What the profiles' states say, into `found`; some have been forgotten meanwhile."""
    names = list(ids)
    pipe = redis.pipeline(transaction=False)
    for id in names:
        partition = partition_of(id.encode(), settings.partitions)
        pipe.hmget(keys.profile_key(partition, site, id), "score", "about")
    for id, (score, about) in zip(names, await pipe.execute() if names else (), strict=True):
        if score is not None:
            traits = _about(about).traits if about is not None else {}
            found[id] = {"profile_id": id, **_about_of(_score(score), traits, of, now_ms)}


async def read_engagement(redis: Redis, settings: Settings, site: str, window: str, now_ms: int) -> dict[str, Any]:
    """The answer of .../engagement: rate = engaged in the window / known, mean score of the known. Raises RedisError.

    `exact`: false where the window reaches beyond the engaged that are kept one by one, as for visitors.
    """
    of = await _site(redis, settings, site)
    counts, exact, complete_until = await count_visitors(redis, settings, site, window, now_ms, (keys.ENGAGED,))
    pipe = redis.pipeline(transaction=False)
    least = core.bound(of.rules.active, of.rules, now_ms)
    for p in range(settings.partitions):
        pipe.hget(keys.gauges_key(p), f"profiles_known|{site}")
        pipe.hgetall(keys.sum_key(p, site))
        pipe.zcount(keys.rank_key(p, site), least, "+inf")
    replies = await pipe.execute()
    known, engaged = sum(int(n or 0) for n in replies[::3]), counts[keys.ENGAGED]
    added: list[Part] = []
    back: list[Part] = []
    for sums in replies[1::3]:
        for field, log in sums.items():
            indicator, half_life_d, is_back = keys.sum_of(_text(field))
            (back if is_back else added).append((indicator, half_life_d, float(log)))
    total = core.site_total(added, back, of.rules.weights, now_ms)
    return {
        "window": window,
        "engaged": engaged,
        "known": known,
        "rate": ratio("engagement.rate", engaged, known),
        "mean_score": total / known if known else None,
        "active": sum(int(n) for n in replies[2::3]),
        "e50": of.e50,
        "exact": exact,
        "complete_until": complete_until,
    }


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
