"""Reading counters and visitors of a rolling window. What is counted, and what is exact: docs/counters.md.

Additive counters are the sum of all partitions' parts. Of a window of days, closed days come from one hash a site and
day (stream/rollups.py): each is believed only if its sum is that of the partitions' buckets, which is asked along with
the hours at the window's ends. A day that is not rolled up, or that a late event has changed since, is read from the
partitions. So an answer never depends on who rolls up, or when.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from redis.asyncio import Redis

from tracker.contract import keys, windows
from tracker.contract.settings import Settings
from tracker.contract.sites import DEFAULT_TIME_ZONE
from tracker.contract.triggers import rfc3339
from tracker.contract.windows import WINDOWS, Zone
from tracker.ratios import ratio

GROUPS: Final[dict[str, tuple[str, str]]] = {
    "event": ("site", "event|"),
    "channel": ("site", "channel|"),
    "popup": ("site", "popup|"),
    "message": ("site", "message|"),
    "campaign": ("campaign", "campaign|"),
    "content": ("content", ""),
    "page": ("content", "page|"),
    "screen": ("content", "screen|"),
    "product": ("content", "product|"),
    "promotion": ("content", "promotion|"),
    "form": ("content", "form|"),
}
"""What counters can be grouped by -> (family, how the fields begin that are counted); the rest of the field is the
group's key: an event's name, a channel, a path, 'action|product id', of content 'kind|...'."""
CARTS: Final = (
    "opened", "emptied", "converted", "abandoned", "recovered", "lost", "converted_late", "converted_checkout",
    "abandoned_checkout",
)  # fmt: skip
"""What carts are counted by: what became of them. `emptied`, `converted`: without an abandonment before; `_checkout`:
those that came to the checkout."""
CARTS_BY: Final = {"campaign": ("carts", "cart_campaign"), "product": ("cart_products", "cart_product")}
"""What carts are grouped by -> (family, kind of the counters)."""
OF_PRODUCTS: Final = (
    "converted", "abandoned", "recovered", "lost", "converted_late", "abandonment_rate", "net_abandonment_rate",
    "recovery_rate",
)  # fmt: skip
"""Of `carts`, what is told by product: how a cart ended says what was in it, its beginning does not."""
BASES: Final = ("resolved", "created")
DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1000
DAYS_A_CALL: Final = 8
"""Rolled-up days that one script call adds up: 40,000 fields at most."""

SUM: Final = """
-- One partition's part of a window, or some rolled-up days. KEYS: counter hashes of one slot; ARGV[1]: how the fields
-- begin; ARGV[2]: how many of KEYS are added up, of the others only their sums are told.
-- Returns {field, sum, field, sum, ...}, {sum of the first of the others or false, ...}
local prefix, added, sums, fields = ARGV[1], tonumber(ARGV[2]), {}, {}
for i = 1, added do
  local flat = redis.call('HGETALL', KEYS[i])
  for j = 1, #flat, 2 do
    local field = flat[j]
    if string.sub(field, 1, #prefix) == prefix then
      if not sums[field] then sums[field] = 0; fields[#fields + 1] = field end
      sums[field] = sums[field] + tonumber(flat[j + 1])
    end
  end
end
local reply, others = {}, {}
for _, field in ipairs(fields) do
  reply[#reply + 1] = field
  reply[#reply + 1] = string.format('%.0f', sums[field])
end
for i = added + 1, #KEYS do others[#others + 1] = redis.call('HGET', KEYS[i], 'sum') end
return {reply, others}
"""

VISITORS: Final = """
-- One partition's visitors. KEYS[1] = {pN}:u, then the sorted set of each channel; ARGV[1]: the window's first minute,
-- then SITE:CH of each. Returns a number each; -1: the window reaches beyond those who are kept.
local counts = {}
for i = 2, #KEYS do
  local cut = redis.call('HGET', KEYS[1], ARGV[i])
  if cut and tonumber(cut) >= tonumber(ARGV[1]) then counts[i - 1] = -1
  else counts[i - 1] = redis.call('ZCOUNT', KEYS[i], ARGV[1], '+inf') end
end
return counts
"""


UNION: Final = "return redis.call('PFCOUNT', unpack(KEYS))"
"""Of days of one partition. A script, for redis-py sends no command of several keys in a cluster's pipeline."""


async def read_counters(
    redis: Redis, settings: Settings, site: str, by: str, window: str, now_ms: int, limit: int = DEFAULT_LIMIT
) -> dict[str, Any]:
    """The answer of .../counters. Raises RedisError.

    `groups`: the largest. `other`: the count of all groups that are not among them. `unnamed`: what came under a new
    name when its bucket was full; each group's count may be short of so much at most.
    `complete_until`: the moment up to which every event is counted, or None before each partition has had a clock
    record.
    """
    family, prefix = GROUPS[by]
    answers, clocks = await _read(redis, settings, site, family, prefix, window, now_ms)
    return {"window": window, **_groups(answers, prefix, limit), "complete_until": complete_until(clocks)}


async def read_carts(
    redis: Redis,
    settings: Settings,
    site: str,
    window: str,
    basis: str,
    now_ms: int,
    by: str | None = None,
    limit: int = DEFAULT_LIMIT,
) -> dict[str, Any]:
    """The answer of .../carts: of the carts opened in the window, what became of them. Raises RedisError.

    `by` campaign: also by the campaign that brought the visitor who opened it; product: by what was in it.
    """
    sums, until = await read_sums(redis, settings, site, "site", "cart", window, now_ms)
    groups: dict[str, Any] = {}
    if by is not None:
        parts, _ = await read_sums(redis, settings, site, *CARTS_BY[by], window, now_ms)
        groups = carts_by_campaign(parts, basis, limit) if by == "campaign" else carts_by_product(parts, limit)
    return {"window": window, **carts(sums, basis), **groups, "complete_until": until}


def carts_by_campaign(sums: Mapping[str, int], basis: str = "resolved", limit: int = DEFAULT_LIMIT) -> dict[str, Any]:
    """Numbers and rates of each campaign's carts, of the campaigns with the most. Key None: of no campaign.

    `other_opened`: carts opened of the campaigns beyond the limit. `unnamed`: what was counted when a bucket was full.
    """
    parts, unnamed = _parts_of(sums)
    opened = {campaign: part.get(keys.cart_field("opened"), 0) for campaign, part in parts.items()}
    ranked = sorted(parts, key=lambda campaign: (-opened[campaign], campaign))
    found = []
    for campaign in ranked[:limit]:
        of = carts(parts[campaign], basis)
        del of["reasons"], of["recovered_revenue"], of["basis"]
        found.append({"key": campaign or None, **of})
    return {"groups": found, "other_opened": sum(opened[c] for c in ranked[limit:]), "unnamed": unnamed}


def carts_by_product(sums: Mapping[str, int], limit: int = DEFAULT_LIMIT) -> dict[str, Any]:
    """What became of the carts that each product was in, of the products in the most.

    In it when the cart was first abandoned, or when it was bought before that. A cart is in the group of each of its
    products, so groups do not add up. `more_groups`: products beyond the limit.
    """
    parts, unnamed = _parts_of(sums)
    resolved = {
        product: part.get(keys.cart_field("abandoned"), 0) + part.get(keys.cart_field("converted"), 0)
        for product, part in parts.items()
    }
    ranked = sorted((p for p, n in resolved.items() if n > 0), key=lambda product: (-resolved[product], product))
    found = []
    for product in ranked[:limit]:
        of = carts(parts[product])
        found.append({"key": product, **{name: of[name] for name in OF_PRODUCTS}})
    return {"groups": found, "more_groups": max(0, len(ranked) - limit), "unnamed": unnamed}


def _parts_of(sums: Mapping[str, int]) -> tuple[dict[str, dict[str, int]], int]:
    """(name -> what became of carts, as fields of all carts -> n; what was counted under no name)."""
    parts: dict[str, dict[str, int]] = {}
    unnamed = 0
    for field, n in sums.items():
        what, bar, name = field.partition("|")[2].partition("|")
        if bar:
            parts.setdefault(name, {})[keys.cart_field(what)] = n
        else:
            unnamed += n
    return parts, unnamed


def carts(sums: Mapping[str, int], basis: str = "resolved") -> dict[str, Any]:
    """Numbers and rates (domain: 5.5) of the counters' fields; what was undone is taken off already. 0/0 is None.

    `open`: nothing has become of them yet. Rates are of carts that were abandoned or bought before that; emptied and
    open ones are in none. basis 'created': 1 - carts bought / carts opened, as shops usually count.
    """
    n = {what: max(0, sums.get(keys.cart_field(what), 0)) for what in CARTS}
    resolved = n["abandoned"] + n["converted"]
    bought = n["converted"] + n["recovered"] + n["converted_late"]
    checkouts = n["abandoned_checkout"] + n["converted_checkout"]
    part, whole = (n["opened"] - bought, n["opened"]) if basis == "created" else (n["abandoned"], resolved)
    return {
        **{what: n[what] for what in CARTS if not what.endswith("_checkout")},
        "open": max(0, n["opened"] - n["emptied"] - resolved),
        "basis": basis,
        "abandonment_rate": ratio("carts.abandonment_rate", part, whole),
        "net_abandonment_rate": ratio("carts.net_abandonment_rate", n["abandoned"] - n["recovered"], resolved),
        "recovery_rate": ratio("carts.recovery_rate", n["recovered"], n["abandoned"]),
        "checkout_abandonment_rate": ratio("carts.checkout_abandonment_rate", n["abandoned_checkout"], checkouts),
        "reasons": [{"key": reason, "count": count} for (reason,), count in _parts(sums, "cart_reason")],
        "recovered_revenue": [
            {"currency": currency or None, "campaign": campaign, "minor": minor}
            for (currency, campaign), minor in _parts(sums, "cart_revenue")
        ],
    }


def _parts(sums: Mapping[str, int], kind: str) -> list[tuple[tuple[str, ...], int]]:
    """Of fields KIND|A|B: ((A, B), n), the largest first. What was counted under no name is ('', '')."""
    bars = 1 if kind == "cart_revenue" else 0
    found = [(field.removeprefix(f"{kind}|"), n) for field, n in sums.items() if field.startswith(f"{kind}|") and n > 0]
    return [
        (tuple(name.split("|", bars)) if name else ("",) * (bars + 1), n)
        for name, n in sorted(found, key=lambda item: (-item[1], item[0]))
    ]


async def read_sums(
    redis: Redis, settings: Settings, site: str, family: str, prefix: str, window: str, now_ms: int
) -> tuple[Counter[str], str | None]:
    """(field -> what it counts in the window, less what was undone; complete_until). Raises RedisError."""
    answers, clocks = await _read(redis, settings, site, family, prefix, window, now_ms)
    return net(answers), complete_until(clocks)


def net(answers: Iterable[Sequence[bytes | str]]) -> Counter[str]:
    """Parts of [field, n, ...] -> field -> n, less what KIND_undone counts of it."""
    sums: Counter[str] = Counter()
    for flat in answers:
        for field, count in zip(flat[::2], flat[1::2], strict=True):
            kind, bar, rest = _text(field).partition("|")
            if kind == keys.SUM_FIELD:
                continue
            undone = kind.removesuffix("_undone")
            sums[f"{undone}{bar}{rest}"] += int(count) if undone == kind else -int(count)
    return sums


async def _read(
    redis: Redis, settings: Settings, site: str, family: str, prefix: str, window: str, now_ms: int
) -> tuple[list[list[bytes | str]], list[Any]]:
    """(what is counted in the window, in parts of [field, n, ...] each; the partitions' clocks)."""
    wanted = windows.parts(now_ms // 1000, WINDOWS[window], zone_of(settings, site))
    closed = [bucket for tier, bucket in wanted if tier == "d"][:-1]  # the last is today's
    live = [(tier, bucket) for tier, bucket in wanted if tier != "d" or bucket not in closed]
    days = [("d", day) for day in closed]
    add = redis.register_script(SUM)

    pipe = redis.pipeline(transaction=False)
    for p in range(settings.partitions):
        names = [keys.counter_key(p, site, family, tier, bucket) for tier, bucket in (*live, *days)]
        await add(keys=names, args=[prefix, len(live)], client=pipe)
    ask_clocks(pipe, settings)
    for day in closed:
        pipe.hget(keys.rollup_key(site, family, day), keys.SUM_FIELD)
    replies = await pipe.execute()
    found, clocks, rolled = (
        replies[: settings.partitions],
        replies[settings.partitions : 2 * settings.partitions],
        replies[2 * settings.partitions :],
    )
    answers = [fields for fields, _ in found]

    pipe = redis.pipeline(transaction=False)
    believed: list[str] = []
    for i, day in enumerate(closed):
        parts = {p: int(sums[i]) for p, (_, sums) in enumerate(found) if sums[i] is not None}
        if not parts:
            continue
        if rolled[i] is not None and int(rolled[i]) == sum(parts.values()):
            believed.append(keys.rollup_key(site, family, day))
            continue
        for p in parts:
            await add(keys=[keys.counter_key(p, site, family, "d", day)], args=[prefix, 1], client=pipe)
    for i in range(0, len(believed), DAYS_A_CALL):
        some = believed[i : i + DAYS_A_CALL]
        await add(keys=some, args=[prefix, len(some)], client=pipe)
    if len(pipe):
        answers += [fields for fields, _ in await pipe.execute()]
    return answers, clocks


def _groups(answers: list[list[bytes | str]], prefix: str, limit: int) -> dict[str, Any]:
    sums: dict[str, int] = {}
    unnamed = 0
    for flat in answers:
        for field, count in zip(flat[::2], flat[1::2], strict=True):
            name = _text(field)
            _, bar, rest = name.partition("|")
            if rest:
                key = name[len(prefix) :]
                sums[key] = sums.get(key, 0) + int(count)
            elif bar:
                unnamed += int(count)
    largest = sorted(sums.items(), key=lambda item: (-item[1], item[0]))
    return {
        "groups": [{"key": key, "count": n} for key, n in largest[:limit]],
        "other": sum(n for _, n in largest[limit:]),
        "unnamed": unnamed,
    }


async def read_visitors(redis: Redis, settings: Settings, site: str, window: str, now_ms: int) -> dict[str, Any]:
    """The answer of .../visitors. Raises RedisError.

    `exact`: false where a window reaches beyond the visitors that are kept one by one, so that HyperLogLogs of whole
    days were asked.
    """
    sums, exact, complete_until = await count_visitors(redis, settings, site, window, now_ms, keys.VISITOR_CHANNELS)
    visitors = sums.pop(keys.ALL)
    return {
        "window": window,
        "visitors": visitors,
        "exact": exact,
        "groups": [{"key": c, "count": n} for c, n in sorted(sums.items(), key=lambda item: (-item[1], item[0])) if n],
        "complete_until": complete_until,
    }


async def count_visitors(
    redis: Redis, settings: Settings, site: str, window: str, now_ms: int, channels: Sequence[str], grain: int = 1
) -> tuple[dict[str, int], bool, str | None]:
    """(channel -> visitors of the window, whether all are exact, complete_until). Raises RedisError.

    `grain`: the window begins with so many whole minutes."""
    now_s, length_s = now_ms // 1000, WINDOWS[window]
    first = (now_s - length_s) // 60 // grain * grain
    days = windows.days(now_s, length_s, zone_of(settings, site))
    count = redis.register_script(VISITORS)
    pipe = redis.pipeline(transaction=False)
    for p in range(settings.partitions):
        names = [keys.visitors_cut_key(p), *(keys.visitors_key(p, site, c) for c in channels)]
        await count(keys=names, args=[first, *(f"{site}:{c}" for c in channels)], client=pipe)
    ask_clocks(pipe, settings)
    replies = await pipe.execute()
    sums = dict.fromkeys(channels, 0)
    beyond: list[tuple[int, str]] = []
    for p, counts in enumerate(replies[: settings.partitions]):
        for channel, n in zip(channels, counts, strict=True):
            if n < 0:
                beyond.append((p, channel))
            else:
                sums[channel] += n
    if beyond:
        union = redis.register_script(UNION)
        pipe = redis.pipeline(transaction=False)
        for p, channel in beyond:
            await union(keys=[keys.visitor_day_key(p, site, channel, day) for day in days], client=pipe)
        for (_, channel), n in zip(beyond, await pipe.execute(), strict=True):
            sums[channel] += n
    return sums, not beyond, complete_until(replies[settings.partitions :])


def zone_of(settings: Settings, site: str) -> Zone:
    known = settings.sites.get(site)
    return _zone(known.time_zone if known is not None else DEFAULT_TIME_ZONE)


_zone = lru_cache(1024)(Zone)


def ask_clocks(pipe: Any, settings: Settings) -> None:
    """Of each partition: for `complete_until`."""
    for p in range(settings.partitions):
        pipe.hget(keys.profiles_tag(p) + ":head", "clock_ms")


def complete_until(clocks: Sequence[Any]) -> str | None:
    """Of the partitions' clocks the slowest's; None before each has one."""
    known = [int(clock) for clock in clocks if clock is not None]
    return rfc3339(min(known)) if len(known) == len(clocks) else None


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
