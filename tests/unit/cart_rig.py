"""A rig that drives the signal of carts as the shell does, in any order of arrival, and says what it told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct, field

from stream.core import cart
from stream.core.cart_log import CartLog
from stream.core.cart_state import STAGES, Carts, Emission, Rules, rules_of, value_of
from stream.signals.base import Result, Trigger
from stream.signals.cart import CartSignal
from stream.signals.cart_entries import entry
from tests.unit.shop_events import SETTINGS, T0_MS, context
from tracker.contract.events import ProfileEvent
from tracker.contract.triggers import CartAbandoned, CartAbandonmentRetracted, CartRecovered, CartRecoveryRetracted

RULES: Final[Rules] = rules_of(SETTINGS)


def said(emissions: Iterable[Emission]) -> list[str]:
    """Emissions in the vectors' words."""
    out = []
    for e in emissions:
        at = f"@{(e.at_ms - T0_MS) / 1000:g}"
        c = e.cart
        match e.what:
            case "cart.abandoned":
                what = f"{STAGES[c.stage]}{at} {value_of(c.items):g} #{c.episode}.{c.seq}"
                out.append(f"abandoned {what}{' quiet' if e.quiet else ''}")
            case "cart.converted":
                out.append(f"converted {STAGES[c.stage]}{at}")
            case "cart.recovered":
                assert e.order is not None
                out.append(f"recovered by {e.order.by}{at}")
            case "cart.converted_late":
                out.append(f"converted late{at}")
            case "order.without_cart":
                out.append(f"without cart{at}")
            case "cart.recovery_reversed":
                out.append(f"reversed{at}")
            case "order.completed" | "cart.checkout_reached" | "cart.answered":
                pass
            case _:
                out.append(f"{e.what.removeprefix('cart.')}{at}")
    return out


def folded(events: Iterable[ProfileEvent], now_s: float) -> tuple[Carts, list[Emission]]:
    """The definition: what the events give, all in order."""
    return cart.fold([x for e in events if (x := entry(e))], T0_MS + round(1000 * now_s), RULES)


class Rig(Struct):
    """Drives the cart signal as the shell does: timers due <= an event's time go before it, the clock fires others."""

    signal: CartSignal = field(default_factory=CartSignal)
    state: CartLog | None = None
    results: list[Result] = []
    clock_ms: int = 0

    def clock(self, now_s: float) -> None:
        self.clock_ms = max(self.clock_ms, T0_MS + round(1000 * now_s))
        self._fire(self.clock_ms)

    def _fire(self, until_ms: int) -> None:
        if self.state is None:
            return
        due = self.signal.due_ms(self.state)
        if due is not None and due <= until_ms:
            self._keep(self.signal.fire(self.state, until_ms, context()))
            due = self.signal.due_ms(self.state)
            assert due is None or due > until_ms

    def _keep(self, result: Result) -> None:
        self.results.append(result)
        if result.state is not None:
            self.state = msgspec.json.decode(msgspec.json.encode(result.state), type=CartLog)
        assert self.state == result.state

    def take(self, e: ProfileEvent) -> None:
        self._fire(e.timestamp_ms)
        self._keep(self.signal.fold(self.state, e, context()))

    @property
    def triggers(self) -> list[Trigger]:
        return [t for r in self.results for t in r.triggers]

    def published(self) -> list[str]:
        """Ids of the triggers a subscriber knows of and that were not taken back. Checks both streams of ids."""
        told: list[str] = []
        retracted: list[str] = []
        for t in self.triggers:
            if t.suppressed:
                continue
            if isinstance(t.data, CartAbandonmentRetracted | CartRecoveryRetracted):
                assert t.data.retracts in told
                retracted.append(t.data.retracts)
            else:
                assert isinstance(t.data, CartAbandoned | CartRecovered)
                told.append(t.id)
        ids = [t.id for t in self.triggers if not t.suppressed]
        assert len(set(ids)) == len(ids), "an id was told twice"
        assert len(set(retracted)) == len(retracted)
        return [i for i in told if i not in retracted]

    def total(self, metric: str) -> float:
        return sum(n for r in self.results for name, _, n in r.metrics if name == metric)

    def counts(self) -> dict[tuple[str, int], int]:
        """(field, minute) -> what readers make of the counters: what was counted, less what was undone."""
        sums: dict[tuple[str, int], int] = {}
        for name, n, ms in (each for r in self.results for each in r.counts_at):
            assert n > 0, "counters only go up"
            kind, _, rest = name.partition("|")
            key = f"{kind.removesuffix('_undone')}|{rest}", ms
            sums[key] = sums.get(key, 0) + (-n if kind.endswith("_undone") else n)
        return {key: n for key, n in sums.items() if n}

    def gauge(self) -> int:
        return sum(n for r in self.results for _, n in r.gauges)
