"""Feedback of a window: NPS, CSAT, CES, ratings, reviews, support times, and the reasons that people give
(domain: A031, A009, A010, A109, A474, A113, A462). What is of nothing is None."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import sqrt
from typing import Any, Final

from redis.asyncio import Redis

from tracker.contract import spans
from tracker.contract.settings import Settings
from tracker.counters import read_sums
from tracker.ratios import ratio

BY: Final = ("channel", "campaign", "product", "agent")
SATISFIED: Final[dict[str, int]] = {"2": 2, "3": 3, "5": 4, "7": 6}
"""Scale of CSAT -> the least score that is satisfied; 2: thumbs."""
PROMOTER, DETRACTOR, EASY = 9, 6, 5

Values = Mapping[str, Counter[str]]
"""Metric -> value -> n."""


async def read_feedback(
    redis: Redis, settings: Settings, site: str, by: str, window: str, limit: int, now_ms: int
) -> dict[str, Any]:
    """The answer of .../feedback. Raises RedisError."""
    sums, complete_until = await read_sums(redis, settings, site, "feedback", "", window, now_ms)
    return {"window": window, **feedback(sums, by, limit), "complete_until": complete_until}


def feedback(sums: Mapping[str, int], by: str = "channel", limit: int = 100) -> dict[str, Any]:
    """Of the counters' fields: the groups with the most of it, all together, and the reasons."""
    total: dict[str, Counter[str]] = {}
    groups: dict[str, dict[str, Counter[str]]] = {}
    reasons: Counter[tuple[str, str]] = Counter()
    unnamed = 0
    for field, n in sums.items():
        kind, _, rest = field.partition("|")
        if not rest:
            unnamed += n
        elif kind == "survey_reason":
            type, _, reason = rest.partition("|")
            reasons[type, reason] += n
        elif kind == "feedback":
            metric, value, channel = rest.split("|", 2)
            total.setdefault(metric, Counter())[value] += n
            if by == "channel":
                groups.setdefault(channel, {}).setdefault(metric, Counter())[value] += n
        else:
            of, metric, value, name = rest.split("|", 3)
            if of == by:
                groups.setdefault(name, {}).setdefault(metric, Counter())[value] += n
    ranked = sorted(groups.items(), key=lambda item: (-_size(item[1]), item[0]))
    of_type: Counter[str] = Counter()
    for (type, _), n in reasons.items():
        of_type[type] += n
    return {
        "by": by,
        "groups": [{"key": key, **summary(values)} for key, values in ranked[:limit]],
        "more_groups": max(0, len(ranked) - limit),
        "unnamed": unnamed,
        "total": summary(total),
        "reasons": [
            {"survey": type, "key": reason, "count": n, "share": ratio("feedback.reasons.share", n, of_type[type])}
            for (type, reason), n in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
        ][:limit],
    }


def summary(values: Values) -> dict[str, Any]:
    rejected = values.get("rejected", Counter())
    reviews, support = values.get("review", Counter()), values.get("support", Counter())
    return {
        "nps": nps(values.get("nps", Counter())) | {"rejected": rejected["nps"]},
        "csat": csat(values.get("csat", Counter())) | {"rejected": rejected["csat"]},
        "ces": ces(values.get("ces", Counter())) | {"rejected": rejected["ces"]},
        "rating": rating(values.get("rating", Counter())) | {"rejected": rejected["rating"]},
        "reviews": {
            "requested": reviews["requested"],
            "received": reviews["received"],
            "rate": ratio("feedback.reviews.rate", reviews["received"], reviews["requested"]),
        },
        "support": {
            "tickets": support["ticket"],
            "chats": support["chat"],
            "calls": support["call"],
            "resolved": support["resolved"],
            "first_response": _times(values.get("response", Counter())),
            "resolution": _times(values.get("resolution", Counter())),
        },
    }


def nps(scores: Mapping[str, int]) -> dict[str, Any]:
    """100 * (promoters - detractors) / n, and +- at 95 %."""
    n = sum(scores.values())
    up = sum(count for score, count in scores.items() if int(score) >= PROMOTER)
    down = sum(count for score, count in scores.items() if int(score) <= DETRACTOR)
    value = margin = None
    if n > 0:
        p, q = up / n, down / n
        value = 100 * (up - down) / n
        margin = 196 * sqrt(max(0.0, p + q - (p - q) ** 2) / n)
    return {"n": n, "promoters": up, "passives": n - up - down, "detractors": down, "nps": value, "margin": margin}


def csat(scores: Mapping[str, int]) -> dict[str, Any]:
    """SCALE:SCORE -> n: the share of the satisfied, percent; the mean, of scales other than 5 as their part of 5."""
    n = satisfied = 0
    total = 0.0
    for value, count in scores.items():
        scale, _, score = value.partition(":")
        n += count
        satisfied += count if int(score) >= SATISFIED[scale] else 0
        total += count * 5 * int(score) / int(scale)
    return {
        "n": n,
        "satisfied": satisfied,
        "percent": ratio("feedback.csat.percent", satisfied, n, 100),
        "mean": total / n if n > 0 else None,
        "distribution": {value: count for value, count in sorted(scores.items()) if count},
    }


def ces(scores: Mapping[str, int]) -> dict[str, Any]:
    n = sum(scores.values())
    easy = sum(count for score, count in scores.items() if float(score) >= EASY)
    return {"n": n, "mean": _mean(scores), "easy_percent": ratio("feedback.ces.easy_percent", easy, n, 100)}


def rating(stars: Mapping[str, int]) -> dict[str, Any]:
    return {
        "n": sum(stars.values()),
        "mean": _mean(stars),
        "distribution": {value: count for value, count in sorted(stars.items()) if count},
    }


def _mean(values: Mapping[str, int]) -> float | None:
    n = sum(values.values())
    return sum(float(value) * count for value, count in values.items()) / n if n > 0 else None


def _times(values: Mapping[str, int]) -> dict[str, Any]:
    """Bucket -> n, and `ms`: their sum. The mean is exact, the median right to 9 %."""
    counts = {int(value): n for value, n in values.items() if value != "ms"}
    n = sum(counts.values())
    mean = values.get("ms", 0) / 1000 / n if n > 0 else None
    return {"n": n, "mean_s": mean, "median_s": spans.quantile(counts)}


def _size(values: Values) -> int:
    return sum(n for counts in values.values() for value, n in counts.items() if value != "ms")
