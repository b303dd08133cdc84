"""The 14 steps of a customer (domain: A401): one's way, the moves of all, in any order of arrival."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.core import steps as core
from stream.core.steps import MAX_MOVES, Steps, steps_of
from stream.signals.steps import StepSignal
from tests.unit.counting import T0_MS, Counting, page, track
from tests.unit.shop_events import context
from tracker.contract import spans
from tracker.contract.steps import EVENTS, KINDS, STEPS
from tracker.counters import net
from tracker.reports.steps import steps

H = 3_600_000
DAY = 24 * H
WAY: tuple[tuple[str, str], ...] = (
    ("Ad Clicked", "need"), ("Products Searched", "search"), ("", "visit"), ("Product Viewed", "learn"),
    ("Products Compared", "compare"), ("Order Completed", "buy"), ("Order Delivered", "unbox"),
    ("Feature Used", "first_use"), ("Feature Used", "use"), ("Ticket Opened", "problem"),
    ("Email Link Clicked", "upgrade_need"), ("Product Viewed", "upgrade_research"),
    ("Product List Filtered", "upgrade_compare"), ("Order Completed", "decide"),
)  # fmt: skip
"""Event ('' = a page) -> the step that it leads to."""


def events(way: Any = WAY, pid: str = "p1") -> list[dict[str, Any]]:
    found = []
    for i, (name, _) in enumerate(way):
        at = T0_MS + i * H
        found.append(track(name, at, pid, order_id=f"{pid}o{i}") if name else page(at, pid))
    return found


def of(found: Counting, pid: str = "p1") -> Steps:
    state: Steps = found.profiles["demo", pid].states["steps"]
    return state


def names(state: Steps) -> list[str]:
    return [STEPS[step - 1][0] for _, step in steps_of(state)]


def matrix(found: Counting) -> dict[tuple[str | None, str], int]:
    return {(m["from"], m["to"]): m["count"] for m in steps(found.net("steps"))["moves"]}


def test_all_fourteen_steps_in_their_order() -> None:
    found = Counting().take(*events())
    assert names(of(found)) == [name for _, name in WAY] == [en for en, _ in STEPS]
    said = StepSignal().explain(of(found), T0_MS, context())
    assert [m["number"] for m in said["moves"]] == list(range(1, 15))
    assert said["now"] == {"number": 14, "name": "decide", "vi": STEPS[13][1], "time": said["moves"][-1]["time"]}
    pairs = [None, *(en for en, _ in STEPS)]
    assert matrix(found) == dict.fromkeys(pairwise(pairs), 1)
    answer = steps(found.net("steps"))
    assert [s["came"] for s in answer["steps"]] == [1] * 14
    assert all(m["median_s"] == pytest.approx(3600, rel=0.09) for m in answer["moves"] if m["from"])


def test_any_order_of_arrival_gives_the_same_way_and_the_same_counts() -> None:
    draw = random.Random(7)
    once = [e for e in events() if e["type"] == "track"]
    wanted = matrix(Counting().take(*once))
    for _ in range(60):
        shuffled = draw.sample(once, len(once))
        found = Counting().take(*shuffled)
        assert names(of(found)) == [name for event, name in WAY if event]
        assert matrix(found) == wanted


@pytest.mark.parametrize("arrival", list(permutations(range(3))))
def test_of_one_millisecond_the_page_is_before_its_product_and_both_before_the_order(arrival: tuple[int, ...]) -> None:
    at = [page(T0_MS), track("Product Viewed", T0_MS), track("Order Completed", T0_MS, order_id="o")]
    found = Counting().take(*(at[i] for i in arrival))
    assert names(of(found)) == ["visit", "learn", "buy"]
    assert matrix(found) == {(None, "visit"): 1, ("visit", "learn"): 1, ("learn", "buy"): 1}
    alone = StepSignal().merge(of(found), Steps(), T0_MS, context())
    assert (names(alone.state), alone.counts_at) == (["visit", "learn", "buy"], ())


def test_what_shows_the_same_step_again_is_no_move() -> None:
    found = Counting().take(*(track("Product Viewed", T0_MS + i) for i in (0, 1, 2, 2 * H, 5 * H)))
    assert names(of(found)) == ["learn"]
    assert matrix(found) == {(None, "learn"): 1}


def test_a_visit_is_the_first_page_of_a_day_and_a_search_engine_before_it_is_a_search() -> None:
    found = Counting().take({**page(), "traffic": "search"}, page(T0_MS + 1), track("Product Viewed", T0_MS + 2))
    found.take(page(T0_MS + 3), page(T0_MS + DAY))
    assert names(of(found)) == ["search", "visit", "learn", "visit"]
    found.take(track("Order Completed", T0_MS + DAY + 1, order_id="o1"), page(T0_MS + 3 * DAY))
    assert names(of(found))[-1] == "buy", "customers are no more on the way to a first visit"


def test_a_visit_that_is_told_late_is_one_of_before_the_order() -> None:
    found = Counting().take(track("Order Completed", T0_MS + H, order_id="o1"), page(T0_MS), page(T0_MS + 2 * H))
    assert names(of(found)) == ["visit", "buy"]
    assert matrix(found) == {(None, "visit"): 1, ("visit", "buy"): 1}


def test_medians_are_of_all_who_made_the_move() -> None:
    found = Counting()
    for i, hours in enumerate((1, 2, 3, 50, 1000)):
        found.take(track("Products Searched", T0_MS, f"p{i}"), track("Product Viewed", T0_MS + hours * H, f"p{i}"))
    (move,) = [m for m in steps(found.net("steps"))["moves"] if m["from"]]
    assert (move["from"], move["to"], move["count"]) == ("search", "learn", 5)
    assert move["median_s"] == pytest.approx(3 * 3600, rel=0.09)


def test_only_the_latest_moves_are_kept_and_nothing_is_taken_off_the_counts() -> None:
    found = Counting()
    for i in range(MAX_MOVES + 9):
        found.take(track(("Products Searched", "Product Viewed")[i % 2], T0_MS + i * H))
    assert len(of(found).moves) == MAX_MOVES
    assert len(msgspec.json.encode(of(found))) < 1200
    assert sum(matrix(found).values()) == MAX_MOVES + 9
    assert not StepSignal().explain(of(found), T0_MS, context())["complete"]
    before = Counter(found.counts["steps"])
    found.take(track("Ticket Opened", T0_MS - H))
    assert found.counts["steps"] == before, "it was before all that is kept"


def test_in_order_it_is_the_same_as_from_the_whole() -> None:
    """The short way of what comes in its order, against the difference of all transitions."""
    draw = random.Random(3)
    for _ in range(200):
        state, counted, ms = Steps(), Counter[Any](), 0
        for _ in range(draw.randrange(60)):
            ms += draw.choice([0, 1, 5000, 4 * H])
            before = state
            state, difference = core.moved(state, ms, draw.choice(list(KINDS)))
            counted.update(dict(difference))
            if not state.more:
                assert difference == core._difference(state, before)
        if not state.more:
            assert +counted == core.transitions(state)


def test_two_ways_of_one_person_are_one() -> None:
    one, _ = core.moved(core.moved(Steps(), 10, "search")[0], 3000, "learn")
    other, _ = core.moved(Steps(day=4), 1500, "order")
    state, difference = core.merged(one, other)
    assert (state, difference) == core.merged(other, one)
    assert steps_of(state) == [(10, 2), (1500, 6), (3000, 12)]
    total = core.transitions(one) + core.transitions(other)
    total.update(dict(difference))
    assert {k: n for k, n in total.items() if n} == core.transitions(state)


def test_the_table_is_closed_and_documented() -> None:
    assert len(STEPS) == 14
    assert set(EVENTS.values()) | {"visit"} == set(KINDS)
    assert {step for pair in KINDS.values() for step in pair} == set(range(15))
    text = (Path(__file__).parents[2] / "docs/counters.md").read_text("utf-8")
    for number, (en, vi) in enumerate(STEPS, 1):
        assert f"| {number} | `{en}` | {vi} |" in text
    for event in EVENTS:
        assert event in text


@pytest.mark.parametrize(
    ("counts", "median"),
    [({}, None), ({0: 3}, 0.0), ({1: 1}, 2**0.125), ({5: 2, 9: 0}, 2**1.125), ({1: 1, 41: 3}, 2 ** (40.33333 / 4))],
)
def test_a_median_of_durations(counts: dict[int, int], median: float | None) -> None:
    assert spans.quantile(counts) == (median if median is None else pytest.approx(median))


def test_durations_have_their_buckets() -> None:
    assert [spans.bucket(ms) for ms in (-5, 0, 999, 1000, 1189, 1190, 2000, 10**15)] == [0, 0, 0, 1, 1, 2, 5, 120]


def test_a_buckets_sum_is_nobodys_name() -> None:
    counted = net([[b"step|0|3|0", b"5", b"sum", b"5"]])
    assert counted == {"step|0|3|0": 5}
    assert steps(counted)["unnamed"] == 0
