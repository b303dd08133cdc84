"""A cart's state as version 1 stored it is the carts of version 2, and goes on."""

from __future__ import annotations

from typing import Final

from stream.core.cart_log import CartLog
from stream.core.cart_state import Line
from stream.profile import Profile, ProfileCodec
from stream.signals.cart import CartSignal
from tests.unit.cart_rig import Rig
from tests.unit.shop_events import T0_MS, H, add, cancel, order
from tracker.contract.triggers import CART_ABANDONED, CART_RECOVERED

VERSION_1: Final = (
    '{"cart":{"state":"reopened","at_ms":1790223200000,"episode":2,"seq":1,"opened_ms":1790216000000,"opened_by":"m4",'
    '"last_ms":1790223200000,"abandoned_ms":1790219600000,"told_ms":1790219600000,"items":[{"id":"B","price":5.0},'
    '{"id":"C","price":7.0}],"orders":[{"id":"o1","ms":1790010800000,"value":20.0,"cur":"VND","by":"c1"},{"id":"o0",'
    '"ms":1790010800000,"value":3.0,"cur":"VND"}]},"due_ms":1790226800000,"log":[{"ms":1790216000000,"id":"m4","do":"add",'
    '"lines":[{"id":"B","price":5.0}]},{"ms":1790223200000,"id":"m5","do":"add","lines":[{"id":"C","price":7.0}]}],'
    '"base":{"state":"converted","at_ms":1790010800000,"episode":1,"orders":[{"id":"o1","ms":1790010800000,"value":20.0,'
    '"cur":"VND","by":"c1"},{"id":"o0","ms":1790010800000,"value":3.0,"cur":"VND"}]},"lines":2,"fired_ms":1790223200000,'
    '"told":[{"by":"m4","n":1,"opened_ms":1790216000000,"at_ms":1790219600000}],"minted":{"m4":1}}'
)
"""As the worker of before stored it: o1 recovered a cart; then B was added 60 h after the start, C 62 h."""


def migrated() -> CartLog:
    codec = ProfileCodec([CartSignal()])
    profile: Profile = codec.decode("demo", "p1", ["cart", VERSION_1])
    state: CartLog = profile.states["cart"]
    profile.changed = {"cart"}
    stored = bytes(codec.write(profile)[1][1])[5:].decode()
    assert stored.startswith('{"_v":2,')
    assert codec.decode("demo", "p1", ["cart", stored]).states["cart"] == state
    return state


def test_its_cart_orders_and_base_are_there() -> None:
    state = migrated()
    cart = state.carts.latest
    assert (cart.key, cart.state, cart.episode, cart.seq) == ("", "reopened", 2, 1)
    assert [line.id for line in cart.items] == ["B", "C"]
    assert [o.id for o in state.carts.orders] == [o.id for o in state.base.orders] == ["o1", "o0"]
    assert state.base.at_ms == T0_MS + 3 * H * 1000
    assert state.base.latest.state == "converted"


def test_a_late_event_folds_its_log_again_and_the_next_timer_fires() -> None:
    rig = Rig(state=migrated())
    rig.take(add(61 * H - 1, "A", id="late", received_s=62 * H))
    assert rig.state is not None
    assert {line.id for line in rig.state.carts.latest.items} == {"A", "B", "C"}
    rig.clock(64 * H)
    rig.take(order(64 * H, "o2"))
    assert [t.kind for t in rig.triggers if not t.suppressed][-1] is CART_RECOVERED
    assert [t.suppressed for t in rig.triggers if t.kind is CART_ABANDONED][-1] == "repeat"  # told at 61 h already


def test_a_recovery_of_before_can_be_reversed() -> None:
    rig = Rig(state=migrated())
    rig.take(cancel(63 * H - 10, "o1"))
    assert rig.state is not None
    assert rig.state.carts.orders[0].reversed
    assert isinstance(rig.state.carts.latest.items[0], Line)


def test_an_order_from_before_the_log_that_only_counted_still_does() -> None:
    text = VERSION_1.replace('"id":"m4","do":"add","lines":[{"id":"B","price":5.0}]', '"id":"m4","do":"past_order"')
    state: CartLog = ProfileCodec([CartSignal()]).decode("demo", "p1", ["cart", text]).states["cart"]
    assert (state.log[0].do, state.log[0].since_ms) == ("order", 0)
