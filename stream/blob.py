"""The argument of apply.lua: what one apply writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, Final

from stream.core.score import log_sum
from stream.effects import Effects
from stream.packing import binary, packb
from stream.profile import Profile, ProfileCodec
from stream.signals.base import Signal
from tracker.contract import keys
from tracker.contract.durations import DAY_S
from tracker.contract.models import encode_model, field_of
from tracker.contract.settings import Settings
from tracker.contract.windows import Zone

_TIERS: Final = [[tier, ttl_s] for tier, (_, ttl_s) in keys.TIERS.items()]
_CAPS: Final = {family: [caps[tier] for tier in keys.TIERS] for family, (_, caps) in keys.FAMILIES.items()}
_OPEN: Final = dict.fromkeys(keys.OPEN_KINDS, True)


class Blobs:
    """Makes them of the effects of a fold."""

    _settings: Settings

    def __init__(self, codec: ProfileCodec, ranking: Signal[Any] | None, zone: Callable[[str], Zone]) -> None:
        self._codec = codec
        self._ranking = ranking
        self._zone = zone

    def reconfigure(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, fx: Effects, *, epoch: int, seq: int, base: int, next: int) -> dict[str, Any]:
        """The argument of apply.lua. Clears the profiles' marks: what is in the blob counts as written."""
        writes, dues, merged = [], [], []
        ranks: dict[str, tuple[list[float | str], list[str]]] = {}
        ranking = self._ranking.name if self._ranking is not None else ""
        for profile in fx.touched.values():
            if profile.changed:
                if profile.merged_into is not None:
                    merged.append(profile.part)
                    ranks.setdefault(profile.site, ([], []))[1].append(profile.id)
                elif ranking in profile.changed:
                    self._rank(profile, *ranks.setdefault(profile.site, ([], [])))
                writes.append(self._codec.write(profile))
                profile.changed.clear()
            if profile.due_ms != profile.stored_due_ms:
                due = min(profile.due_ms, keys.MAX_COUNT) if profile.due_ms is not None else False
                dues.append([f"{profile.site}|{profile.id}", due])
                profile.stored_due_ms = profile.due_ms
        for site, id in fx.unranked:
            ranks.setdefault(site, ([], []))[1].append(id)
        return {
            "epoch": epoch,
            "seq": seq,
            "base": base,
            "next": next,
            "clock": fx.clock_ms,
            "src": [[p, f"{offset}:{sub}"] for p, (offset, sub) in fx.src.items()],
            "merged": merged,
            "writes": writes,
            "ttl": self._settings.profile_ttl_d * DAY_S,
            "counts": [
                [site, family, buckets, *_columns(fields)]
                for (family, site, place), fields in fx.counts().items()
                if (buckets := self._buckets(site, place))
            ],
            "tiers": _TIERS,
            "caps": _CAPS,
            "open": _OPEN,
            **fx.visits.blob(fx.clock_ms),
            "models": _flat({field_of(m): binary(encode_model(m)) for m in fx.models}),
            "ranks": [[site, self._least_rank(site, fx.clock_ms), *each] for site, each in ranks.items()],
            "ranked": _flat(fx.ranked),
            "sums": [[site, _flat({f: log_sum(logs) for f, logs in sums.items()})] for site, sums in fx.sums.items()],
            "gauges": _flat({name: n for name, n in fx.gauges.items() if n}),
            "due": dues,
            "out": [binary(packb(t)) for t in fx.triggers],
        }

    def _buckets(self, site: str, place: int) -> Sequence[int | bool]:
        """The bucket of each tier; False: of no use any more. Empty when none is of use."""
        buckets = self._zone(site).buckets(place)
        over = place % 60
        if not over:
            return buckets
        return (*(False,) * over, *buckets[over:]) if over < len(buckets) else ()

    def _rank(self, profile: Profile, places: list[float | str], none: list[str]) -> None:
        """The profile's place, as its state is now: once a chunk, however many events it had."""
        assert self._ranking is not None
        rank = self._ranking.rank(profile.states[self._ranking.name], profile.site, self._settings)
        if rank is None or not isfinite(rank):
            none.append(profile.id)
        else:
            places += (rank, profile.id)

    def _least_rank(self, site: str, clock_ms: int) -> float | bool:
        least = self._ranking.least_rank(site, self._settings, clock_ms) if self._ranking is not None else None
        return False if least is None or not clock_ms else least


def _columns(fields: dict[str, int]) -> tuple[list[str], list[int]]:
    """Fields and counts, with their sum; none beyond keys.MAX_COUNT."""
    counts, total = list(fields.values()), sum(fields.values())
    if total > keys.MAX_COUNT:
        counts, total = [min(n, keys.MAX_COUNT) for n in counts], keys.MAX_COUNT
    return [*fields, keys.SUM_FIELD], [*counts, total]


def _flat(fields: Mapping[str, Any]) -> list[Any]:
    return [x for pair in fields.items() for x in pair]
