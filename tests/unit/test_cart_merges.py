"""Two carts of one person: cases that the naive fold found (tests/oracle/test_naive.py)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace

from stream.core import cart_log
from stream.core.cart import step
from stream.core.cart_log import CartLog, Change
from stream.core.cart_merge import merge_carts
from stream.core.cart_state import NEW, Cart, Carts, Do, Entry, Line, Order, rules_of
from stream.signals.cart_counts import counts_at
from tracker.contract.settings import Settings

RULES = rules_of(Settings())
HOUR_S = 3600


def entry(at_s: float, id: str, do: Do, **fields: Any) -> Entry:
    return Entry(round(at_s * 1000) + 10**12, id, do, **fields)


def add(at_s: float, id: str) -> Entry:
    return entry(at_s, id, "add", lines=(Line("A", 1.0, 5.0),))


def taken(*entries: Entry, fired_s: float) -> CartLog:
    state = CartLog()
    for e in entries:
        state = cart_log.take(state, e, e.ms, RULES).state
    return cart_log.fire(state, round(fired_s * 1000) + 10**12, RULES).state


def test_of_a_product_in_both_carts_stays_what_the_newer_one_does_not_say() -> None:
    older = Cart(state="open", opened_ms=1, last_ms=1, items=(Line("A", 1.0, 5.0, name="Coffee"),))
    newer = Cart(state="open", opened_ms=2, last_ms=2, items=(Line("A", 2.0),))
    merged = merge_carts(Carts(carts=(older,)), Carts(carts=(newer,)))
    assert merged == merge_carts(Carts(carts=(newer,)), Carts(carts=(older,)))
    assert merged.latest.items == (Line("A", 3.0, 5.0, name="Coffee"),)


def test_an_order_that_both_had_at_once_is_the_same_one_whichever_cart_comes_first() -> None:
    one, other = (Carts(at_ms=9, orders=(Order("o", 9, value),)) for value in (1.0, 2.0))
    assert merge_carts(one, other) == merge_carts(other, one) != NEW


def test_an_order_that_both_had_is_its_earliest_report_and_can_be_taken_back_once() -> None:
    """The shop's server reports the order that the guest's browser did, which recovered a cart there; both long ago."""
    browser = Order("o", 9_000, 20.0, "VND", "c1", gain=20.0, opened_ms=(1,), brought=("tet",), left=(("A",),))
    server = Order("o", 12_000, 25.0, back=5.0)
    used = Cart(state="open", opened_ms=10_000, last_ms=11_000, items=(Line("A", 1.0, 5.0),))
    one, other = Carts(at_ms=9_000, orders=(browser,)), Carts(at_ms=12_000, carts=(used,), orders=(server,))
    both = merge_carts(one, other)
    assert both == merge_carts(other, one)
    assert both.orders == (replace(browser, back=5.0),)
    assert both.latest.state == "open", "it was used after the order, which was reported again after that"
    assert merge_carts(both, one).orders == (replace(browser, back=5.0),)
    carts, emitted = step(both, entry(-(10**9) + 20, "x", "undo", order="o"), RULES)
    assert [(x.what, x.order.opened_ms, x.order.gain) for x in emitted if x.order] == [
        ("cart.recovery_reversed", (1,), 20.0)
    ]
    again, emitted = step(carts, entry(-(10**9) + 21, "y", "undo", order="o"), RULES)
    assert emitted == []
    assert again.orders[0].back == 20.0


def recovered(at_s: float, cart: str, by: str | None = None, order: str = "o", value: float = 20.0) -> CartLog:
    """A cart that an order recovered, so long ago that its entries are forgotten."""
    clicks = [entry(at_s + 2.1 * HOUR_S, f"{cart} click", "click", by=by)] if by else []
    state = taken(
        add(at_s, cart), *clicks,
        entry(at_s + 3 * HOUR_S, f"{cart} {order}", "order", order=order, value=value, cur="VND"),
        fired_s=at_s + 4 * HOUR_S,
    )  # fmt: skip
    return cart_log.take(state, entry(at_s + 60 * HOUR_S, f"{cart} later", "click"), 10**15, RULES).state


def counts(*changes: Change) -> dict[str, int]:
    found: Counter[str] = Counter()
    for change in changes:
        for field, n, ms in counts_at(change):
            kind, _, rest = field.partition("|")
            undone = kind.endswith("_undone")
            key = f"{kind.removesuffix('_undone')}|{rest} {ms}"
            found[key] += -n if undone else n
    return {key: n for key, n in found.items() if n}


def first_counts(state: CartLog) -> Counter[str]:
    """What its recoveries have counted."""
    found: Counter[str] = Counter()
    for o in state.base.orders:
        for opened_ms, gain in zip(o.opened_ms, (o.gain, *([0.0] * 7)), strict=False):
            ms = opened_ms // 60_000 * 60_000
            found[f"cart|recovered {ms}"] += 1
            found[f"cart_revenue|VND|{o.by} {ms}"] += round(gain)
    return found


def of_recoveries(found: Counter[str]) -> dict[str, int]:
    return {key: n for key, n in found.items() if n and (key.startswith(("cart|recovered", "cart_revenue")))}


@pytest.mark.parametrize("flip", [False, True])
def test_an_order_that_recovered_a_cart_of_each_is_gained_once_and_taken_back_for_both(flip: bool) -> None:
    """Both entries are forgotten: the browser's and the server's report of one order, each with a cart of its own."""
    one, other = recovered(0, "x", "mail"), recovered(600, "y")
    assert (len(one.log), one.base.orders[0].gain, len(other.log)) == (1, 20.0, 1)
    counted = first_counts(one) + first_counts(other)
    change = cart_log.merge(*((other, one) if flip else (one, other)), RULES)
    assert (change.retracted, change.recovered) == ((), ())
    after = counted + Counter()
    after.update(counts(change))
    assert of_recoveries(after) == {
        f"cart|recovered {10**12 // 60_000 * 60_000}": 1, f"cart|recovered {(10**12 + 600_000) // 60_000 * 60_000}": 1,
        f"cart_revenue|VND|mail {10**12 // 60_000 * 60_000}": 20,
    }  # fmt: skip
    undo = cart_log.take(change.state, entry(70 * HOUR_S, "undo", "undo", order="o"), 10**15, RULES)
    assert {t.by for t in undo.retracted} == {"x", "y"}
    after.update(counts(undo))
    assert of_recoveries(after) == {}


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_a_cancellation_that_one_has_heard_of_is_the_others_too(flip: bool, first: bool) -> None:
    one, other = recovered(0, "x", "mail"), recovered(600, "y", value=30.0)
    counted = first_counts(one) + first_counts(other)
    undo = cart_log.take(one if first else other, entry(62 * HOUR_S, "undo", "undo", order="o"), 10**15, RULES)
    one, other = (undo.state, other) if first else (one, undo.state)
    change = cart_log.merge(*((other, one) if flip else (one, other)), RULES)
    assert {t.by for t in (*undo.retracted, *change.retracted)} == {"x", "y"}
    after = counted + Counter()
    after.update(counts(undo))
    after.update(counts(change))
    assert of_recoveries(after) == {}


def test_an_abandonment_before_the_time_at_which_the_logs_meet_is_not_told_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cart_log, "MAX_ENTRIES", 1)
    one = taken(add(0, "x"), add(1, "y"), fired_s=2 * HOUR_S)
    other = taken(entry(5000, "p", "click"), entry(5001, "q", "click"), fired_s=2 * HOUR_S)
    assert one.base.latest.opened_by == "x"
    assert [(t.by, t.n) for t in one.told] == [("x", 1)]
    assert one.told[0].at_ms < other.base.at_ms
    for change in (cart_log.merge(one, other, RULES), cart_log.merge(other, one, RULES)):
        assert (change.abandoned, change.retracted) == ((), ())
        assert change.state.carts.latest.state == "abandoned"


def test_an_id_that_was_retracted_is_not_given_again_as_long_as_its_episode_can_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cart_log, "MAX_ENTRIES", 3)
    state = taken(entry(-10, "w", "click"), add(0, "x"), fired_s=4000)
    change = cart_log.take(state, entry(10, "o", "order", order="1"), 10**12 + 4_000_000, RULES)
    assert [(t.by, t.n) for t in change.retracted] == [("x", 1)]
    state = cart_log.take(change.state, entry(4100, "c", "click"), 10**12 + 4_100_000, RULES).state
    assert state.base.at_ms == entry(-10, "w", "click").ms  # the log has been trimmed
    # The same order was reported before the cart was filled: so it did not close it.
    change = cart_log.take(state, entry(-5, "o, earlier", "order", order="1"), 10**12 + 4_200_000, RULES)
    assert [(t.by, t.n) for _, t in change.abandoned] == [("x", 2)]
