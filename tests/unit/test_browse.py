"""Browse abandonment: vectors in every order of arrival, late events that take back, merges, a worker that was away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import permutations
from typing import Any, Final, NamedTuple, get_type_hints

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.browse import MAX_VIEWS, Browsing
from stream.signals.base import Trigger
from stream.signals.browse import BrowseSignal
from tests.unit.shop_events import SETTINGS, T0_MS, add, context, event, order, remove
from tests.unit.shop_events import view as cart_view
from tracker.contract.events import ProfileEvent
from tracker.contract.retention import BrowseRules
from tracker.contract.sites import Site
from tracker.contract.triggers import BrowseAbandoned, BrowseAbandonmentRetracted

SIGNAL: Final = BrowseSignal()
D: Final = 86400


def viewed(at_s: float, product: str = "A", category: str | None = "coffee", **more: Any) -> ProfileEvent:
    about = {"product_id": product, "price": 10, "name": f"Product {product}", "category": category}
    return event("Product Viewed", at_s, {k: v for k, v in about.items() if v is not None}, **more)


def page(at_s: float) -> ProfileEvent:
    return msgspec.structs.replace(event("page", at_s), type="page", event=None)


class Rig:
    """Drives the signal as the shell does: timers due before an event fire first, the clock fires the rest."""

    def __init__(self, **rules: Any) -> None:
        site = Site(write_key="w" * 8, secret_key="s" * 8, browse=BrowseRules(**rules))
        self.ctx = context(settings=msgspec.structs.replace(SETTINGS, sites={"demo": site}))
        self.state: Browsing | None = None
        self.triggers: list[Trigger] = []

    def _keep(self, result: Any) -> None:
        if result.state is not None:
            self.state = result.state
        self.triggers += result.triggers

    def clock(self, now_s: float) -> None:
        now_ms = T0_MS + round(1000 * now_s)
        if self.state is not None and (due := SIGNAL.due_ms(self.state)) is not None and due <= now_ms:
            self._keep(SIGNAL.fire(self.state, now_ms, self.ctx))

    def take(self, e: ProfileEvent) -> None:
        self.clock((e.timestamp_ms - T0_MS) / 1000)
        self._keep(SIGNAL.fold(self.state, e, self.ctx))

    def told(self) -> list[tuple[float, str | None]]:
        """(seconds, category) of what was published and not taken back."""
        back = {t.data.retracts for t in self.triggers if isinstance(t.data, BrowseAbandonmentRetracted)}
        return [
            ((t.at_ms - T0_MS) / 1000, t.data.category)
            for t in self.triggers
            if isinstance(t.data, BrowseAbandoned) and t.suppressed is None and t.id not in back
        ]


class Vector(NamedTuple):
    id: str
    events: Sequence[ProfileEvent]
    now_s: float
    told: list[tuple[float, str | None]]


VECTORS: Final = (
    Vector("two of a category", [viewed(0), viewed(60, "B")], 1860, [(1860, "coffee")]),
    Vector("not yet", [viewed(0), viewed(60, "B")], 1859.999, []),
    Vector("one view", [viewed(0)], 9 * D, []),
    Vector("two categories", [viewed(0), viewed(60, "B", "tea")], 9 * D, []),
    Vector("pages go on", [viewed(0), viewed(60, "B"), page(1000), page(2500)], 9 * D, [(4300, "coffee")]),
    Vector("pages between", [viewed(1700), page(3400), viewed(5100, "B")], 9 * D, [(6900, "coffee")]),
    Vector("two visits, one view each", [viewed(0), viewed(1800, "B")], 9 * D, []),
    Vector("cart after", [viewed(0), viewed(60, "B"), add(100)], 9 * D, []),
    Vector("cart before", [add(0), viewed(60), viewed(100, "B")], 9 * D, []),
    Vector("put in and taken out", [viewed(0), viewed(60, "B"), add(100), remove(120)], 9 * D, []),
    Vector("order", [viewed(0), viewed(60, "B"), order(1500)], 9 * D, []),
    Vector("order at the very end of it", [viewed(0), viewed(60, "B"), order(1860)], 9 * D, [(1860, "coffee")]),
    Vector("a cart lies there", [add(0), viewed(20_000), viewed(20_060, "B")], 9 * D, []),
    Vector("it was bought before", [add(0), order(60), viewed(20_000), viewed(20_060)], 9 * D, [(21_860, "coffee")]),
    Vector(
        "it is empty", [add(0), cart_view(60), viewed(20_000), viewed(20_060, "B")], 9 * D, [(21_860, "coffee")]
    ),
    Vector("a look at the empty cart", [viewed(0), cart_view(30), viewed(60)], 9 * D, [(1860, "coffee")]),
    Vector("a repeat", [viewed(0), viewed(60), viewed(20_000), viewed(20_060)], 9 * D, [(1860, "coffee")]),
    Vector(
        "a day later again", [viewed(0), viewed(60), viewed(D), viewed(D + 60)], 9 * D,
        [(1860, "coffee"), (D + 1860, "coffee")],
    ),
    Vector("one product, no category", [viewed(0, category=None), viewed(60, category=None)], 9 * D, [(1860, None)]),
    Vector("the most of one", [viewed(0), viewed(10, "T", "tea"), viewed(20, "U", "tea"), viewed(30, "B")], 9 * D,
           [(1830, "coffee")]),
)  # fmt: skip


def by_name(vector: Vector) -> str:
    return vector.id


def played(events: Iterable[ProfileEvent], now_s: float) -> Rig:
    rig = Rig()
    for e in events:
        rig.take(e)
    rig.clock(now_s)
    return rig


@pytest.mark.parametrize("vector", VECTORS, ids=by_name)
def test_a_vector_is_told_as_it_says(vector: Vector) -> None:
    assert played(vector.events, vector.now_s).told() == vector.told


@pytest.mark.parametrize("vector", VECTORS, ids=by_name)
def test_every_order_of_arrival_of_a_backlog_tells_the_same(vector: Vector) -> None:
    """They come within a moment: no timer of theirs is due in between."""
    expected = played(vector.events, vector.now_s).state
    for arrival in arrivals(vector):
        rig = Rig()
        for e in arrival:
            rig._keep(SIGNAL.fold(rig.state, e, rig.ctx))
        rig.clock(vector.now_s)
        assert same(rig.state, expected)
        assert rig.told() == vector.told


@pytest.mark.parametrize("vector", VECTORS, ids=by_name)
def test_every_order_of_arrival_ends_in_the_same_visits_whatever_fired_between(vector: Vector) -> None:
    """Each event comes when its own time or that of one before it is past, the timers of then have fired."""
    expected = played(vector.events, vector.now_s)
    for arrival in arrivals(vector):
        rig = played(arrival, vector.now_s)
        assert same(rig.state, expected.state)
        if len({e.timestamp_ms // 1_800_000 for e in vector.events}) == 1:
            assert rig.told() == vector.told
        for kind in ("told", "taken back"):
            of = BrowseAbandoned if kind == "told" else BrowseAbandonmentRetracted
            ids = [t.id for t in rig.triggers if isinstance(t.data, of)]
            assert len(ids) == len(set(ids)), f"{kind} twice"


def arrivals(vector: Vector) -> Iterable[tuple[ProfileEvent, ...]]:
    """Every order in which its events may come; pages in their own order, behind a product of their visit: else they
    are no signs of it."""
    pages = [e for e in vector.events if e.type == "page"]
    for arrival in permutations(vector.events):
        if [e for e in arrival if e.type == "page"] == pages and arrival[0].type != "page":
            yield arrival


def same(one: Browsing | None, other: Browsing | None) -> bool:
    """The same visits: what was told hangs on what was known when it was due, and keeps no views."""
    assert one is not None
    assert other is not None
    pairs = list(zip(one.visits, other.visits, strict=True))
    return one.marks == other.marks and all(
        (a.start_ms, a.end_ms, a.carted) == (b.start_ms, b.end_ms, b.carted)
        and (a.told is not None or b.told is not None or (a.views, a.ready) == (b.views, b.ready))
        for a, b in pairs
    )


@pytest.mark.parametrize("views", [2, 7, 10])
def test_as_many_views_as_a_site_may_ask_for_are_known(views: int) -> None:
    rig = Rig(views=views)
    for n in range(views - 1):
        rig.take(viewed(10 * n, f"p{n}"))
    for n in range(10 - views):
        rig.take(viewed(200 + n, f"t{n}", f"tea {n}"))
    rig.take(viewed(300, "last"))
    rig.clock(D)
    assert [t.data.views for t in rig.triggers] == [views]  # type: ignore[attr-defined]
    assert _bounds(BrowseRules, "views").le == MAX_VIEWS


def _bounds(of: type, name: str) -> msgspec.Meta:
    (meta,) = [m for m in get_type_hints(of, include_extras=True)[name].__metadata__ if isinstance(m, msgspec.Meta)]
    return meta


def test_what_it_tells() -> None:
    rig = played([viewed(0), viewed(10, "T", "tea"), viewed(20, "B"), viewed(60), page(90)], D)
    (trigger,) = rig.triggers
    said = trigger.data
    assert isinstance(said, BrowseAbandoned)
    assert (said.category, said.views, said.started_at_ms, said.last_activity_ms) == (
        "coffee", 3, T0_MS, T0_MS + 90_000,
    )  # fmt: skip
    assert [(p.product_id, p.views, p.price) for p in said.products] == [("A", 2, 10), ("B", 1, 10)]


def test_a_repeat_is_suppressed_and_says_so() -> None:
    rig = played([viewed(0), viewed(60), viewed(20_000), viewed(20_060)], D)
    assert [t.suppressed for t in rig.triggers] == [None, "repeat"]


@pytest.mark.parametrize("late", [add(100), order(1859), add(-100), remove(1000)], ids=lambda e: e.message_id)
def test_a_cart_or_an_order_that_comes_late_takes_it_back_once(late: ProfileEvent) -> None:
    rig = played([viewed(0), viewed(60, "B")], 4000)
    (told,) = rig.triggers
    rig.take(msgspec.structs.replace(late, received_at_ms=T0_MS + 4_000_000))
    rig.take(msgspec.structs.replace(late, message_id="again", received_at_ms=T0_MS + 4_000_000))
    rig.clock(9 * D)
    assert [t.data.retracts for t in rig.triggers[1:]] == [told.id]  # type: ignore[attr-defined]
    assert rig.told() == []


def test_a_sign_that_comes_late_does_not_tell_it_again() -> None:
    rig = played([viewed(0), viewed(60, "B")], 4000)
    rig.take(page(1000))
    rig.clock(9 * D)
    assert len(rig.triggers) == 1


def test_two_visits_that_were_one_are_told_once() -> None:
    rig = Rig(repeat_s=0)
    for e in (viewed(0), viewed(60), viewed(3000), viewed(3060)):
        rig.take(e)
    rig.clock(9 * D)
    assert [at for at, _ in rig.told()] == [1860, 4860]
    rig.take(viewed(1500, "T", "tea"))
    rig.clock(10 * D)
    assert [at for at, _ in rig.told()] == [1860]


def test_a_cart_of_a_later_visit_takes_nothing_back() -> None:
    rig = played([viewed(0), viewed(60), add(4000)], 9 * D)
    assert rig.told() == [(1860, "coffee")]


def test_what_became_due_while_no_worker_ran_is_told_once_and_at_its_time() -> None:
    rig = Rig()
    for e in (viewed(0), viewed(60)):
        rig._keep(SIGNAL.fold(rig.state, e, rig.ctx))
    for now_s in (50_000, 50_001, 9 * D):
        rig.clock(now_s)
    assert [(t.at_ms - T0_MS) / 1000 for t in rig.triggers] == [1860]


def test_after_quiet_hours_it_goes_out_only_without_a_cart() -> None:
    rig = played([viewed(0), viewed(60)], 4000)
    (told,) = rig.triggers
    assert rig.state is not None
    assert SIGNAL.still_true(rig.state, told.kind, told.data)
    rig.take(viewed(5000))
    assert SIGNAL.still_true(rig.state, told.kind, told.data)
    rig.take(add(6000))
    assert not SIGNAL.still_true(rig.state, told.kind, told.data)


def test_programs_and_sites_that_do_not_want_it_have_no_state() -> None:
    rig = Rig(views=0)
    rig.take(viewed(0))
    assert rig.state is None
    rig = Rig()
    rig.take(msgspec.structs.replace(viewed(0), bot="spider"))
    assert rig.state is None


def test_pages_make_no_state_and_change_none_that_they_do_not_lengthen() -> None:
    rig = Rig()
    rig.take(page(0))
    assert rig.state is None
    rig = played([viewed(10), page(20)], 20)
    before = rig.state
    for e in (page(15), page(20), page(10), page(5000)):
        assert SIGNAL.fold(before, e, rig.ctx).state is before
    rig.take(add(30))
    before = rig.state
    assert SIGNAL.fold(before, page(40), rig.ctx).state is before


@pytest.mark.parametrize("cut", range(4))
def test_two_devices_of_one_person_are_one_visit(cut: int) -> None:
    """One view on each: nobody could know, until they are known to be one."""
    events = [viewed(10), viewed(60, "B"), viewed(80, "T", "tea"), viewed(90, "B")]
    one, two = Rig(), Rig()
    for i, e in enumerate(events):
        (one if i <= cut else two).take(e)
    both = Rig()
    if one.state is None or two.state is None:
        both.state = one.state or two.state
    else:
        both._keep(SIGNAL.merge(one.state, two.state, T0_MS, both.ctx))
    both.clock(D)
    assert both.told() == [(1890, "coffee")]
    assert same(both.state, played(events, D).state)


def test_what_both_were_told_of_one_visit_is_taken_back_of_one() -> None:
    one, two = played([viewed(0), viewed(60)], 3000), played([viewed(30), viewed(90)], 3000)
    assert one.state is not None
    assert two.state is not None
    two.state = msgspec.json.decode(msgspec.json.encode(two.state).replace(b"p1/", b"p2/"), type=Browsing)
    for a, b in ((one.state, two.state), (two.state, one.state)):
        result = SIGNAL.merge(a, b, T0_MS + 4_000_000, one.ctx)
        assert len(result.triggers) == 1
        assert result.triggers[0].data.retracts != one.triggers[0].id  # type: ignore[attr-defined]


_events = st.one_of(
    st.builds(viewed, st.integers(0, 280).map(lambda n: n * 600), st.sampled_from("AB"),
              st.sampled_from(["coffee", "tea"])),
    st.builds(add, st.integers(0, 280).map(lambda n: n * 600)),
    st.builds(order, st.integers(0, 280).map(lambda n: n * 600)),
)  # fmt: skip


@given(
    events=st.lists(_events, min_size=1, max_size=14), data=st.data(),
    waits=st.lists(st.booleans(), min_size=14, max_size=14),
)  # fmt: skip
@settings(max_examples=80)
def test_any_order_of_arrival_ends_in_the_same_visits_and_tells_nothing_untrue(
    events: list[ProfileEvent], data: st.DataObject, waits: list[bool]
) -> None:
    """Within 48 hours, with fewer visits and carts than are kept."""
    rig, arrival = Rig(), data.draw(st.permutations(events))
    for e, wait in zip(arrival, waits, strict=False):
        rig.take(e) if wait else rig._keep(SIGNAL.fold(rig.state, e, rig.ctx))
    rig.clock(9 * D)
    straight = played(sorted(events, key=lambda e: e.timestamp_ms), 9 * D)
    assert rig.state is not None
    assert straight.state is not None
    most = max(len(naive(arrival[:n])) for n in range(1, len(arrival) + 1))  # a late event may make one of two
    if most > 8 or sum(e.event in ("Product Added", "Order Completed") for e in events) > 15:
        return
    assert same(rig.state, straight.state)
    # What stands is what a look over all of them finds; when it was told, and as the first, hangs on the arrival.
    true = {start for start, told in naive(events) if told}
    standing = [v for v in rig.state.visits if v.told is not None and not v.told.quiet and not v.gone]
    assert {v.start_ms for v in standing} <= true
    assert {v.start_ms for v in straight.state.visits if v.told is not None} == true


def naive(events: list[ProfileEvent]) -> list[tuple[int, bool]]:
    """(start, whether it is to be told or suppressed as a repeat) of each visit, by a look over all events."""
    visits: list[list[ProfileEvent]] = []
    for e in sorted(events, key=lambda e: e.timestamp_ms):
        if visits and e.timestamp_ms - visits[-1][-1].timestamp_ms < 1_800_000:
            visits[-1].append(e)
        else:
            visits.append([e])
    out = []
    lies, at_ms = False, 0
    for visit in visits:
        start_ms = visit[0].timestamp_ms
        carts = [e for e in visit if e.event in ("Product Added", "Order Completed")]
        looks = [bytes(e.properties) for e in visit if e.event == "Product Viewed"]  # type: ignore[arg-type]
        enough = any(sum(name in look for look in looks) >= 2 for name in (b"coffee", b"tea"))
        out.append((start_ms, enough and not carts and not (lies and start_ms - at_ms <= 7 * D * 1000)))
        for e in sorted(carts, key=lambda e: (e.timestamp_ms, e.event == "Product Added")):
            lies, at_ms = e.event == "Product Added", e.timestamp_ms
    return out
