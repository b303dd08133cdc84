"""Messages of a window: what became of them, who wants no more of them and why (domain: A466, A214).

Counts are of events, each messageId once. `unsubscribe_rate` = unsubscribed / delivered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from redis.asyncio import Redis

from tracker.contract.settings import Settings
from tracker.counters import read_sums
from tracker.ratios import ratio

BY: Final[dict[str, tuple[str, str]]] = {
    "channel": ("site", "message"),
    "campaign": ("messages", "message_campaign"),
    "template": ("messages", "message_template"),
}
"""What messages are grouped by -> (family, kind of the counters)."""
RATES: Final[dict[str, tuple[str, str]]] = {
    "delivery_rate": ("delivered", "sent"),
    "unsubscribe_rate": ("unsubscribed", "delivered"),
    "complaint_rate": ("complained", "delivered"),
}
"""Rate -> (action that is counted, action that it is of)."""


async def read_messages(
    redis: Redis, settings: Settings, site: str, by: str, window: str, limit: int, now_ms: int
) -> dict[str, Any]:
    """The answer of .../messages. Raises RedisError."""
    sums, complete_until = await read_sums(redis, settings, site, "site", "message|", window, now_ms)
    more, _ = await read_sums(redis, settings, site, "messages", "", window, now_ms)
    return {"window": window, **messages(sums + more, by, limit), "complete_until": complete_until}


def messages(sums: Mapping[str, int], by: str = "channel", limit: int = 100) -> dict[str, Any]:
    """Of the counters' fields: the largest groups with their rates, all of them together, and the reasons.

    The key None: events that name no campaign or template. `other`: the events of the groups beyond the limit;
    `unnamed`: those that came under a new name when their bucket was full. Groups, other and unnamed are the total.
    """
    kind = BY[by][1]
    total: Counter[str] = Counter()
    groups: dict[str, Counter[str]] = {}
    reasons: Counter[tuple[str, str | None]] = Counter()
    unnamed = 0
    for field, n in sums.items():
        of, _, rest = field.partition("|")
        channel, _, rest = rest.partition("|")
        if of == "message":
            total[rest] += n
        elif of == "unsubscribe_reason":
            reasons[channel, rest or None] += n
        if of == kind:
            action, _, name = rest.partition("|")
            if not channel:
                unnamed += n
            else:
                groups.setdefault(channel if by == "channel" else name, Counter())[action] += n
    largest_reasons = sorted(reasons.items(), key=lambda item: (-item[1], item[0][0], item[0][1] or ""))
    ranked = sorted(groups.items(), key=lambda item: (-item[1].total(), item[0]))
    return {
        "by": by,
        "groups": [{"key": key or None, **_rated(counts)} for key, counts in ranked[:limit]],
        "other": sum(counts.total() for _, counts in ranked[limit:]),
        "unnamed": unnamed,
        "total": _rated(total),
        "reasons": [
            {
                "channel": channel or None,
                "key": reason,
                "count": n,
                "share": ratio("messages.reasons.share", n, reasons.total()),
            }
            for (channel, reason), n in largest_reasons
        ],
    }


def _rated(counts: Counter[str]) -> dict[str, Any]:
    rates = {name: ratio(f"messages.{name}", counts[part], counts[whole]) for name, (part, whole) in RATES.items()}
    return {"counts": dict(sorted(counts.items())), **rates}
