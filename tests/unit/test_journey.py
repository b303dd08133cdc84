"""The six stages of a visitor (domain: A477): up at once, down by time, told once a move; any order, the same stage."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.journey import RETAINED, SILENT_MS, Facts, stage_of
from stream.signals.journey import JourneySignal
from tests.unit.counting import T0_MS, Counting, page, track
from tests.unit.test_fold import T0, Owner, record
from tracker.contract.events import encode_clock
from tracker.contract.loading import load
from tracker.contract.triggers import rfc3339

DAY = 86_400_000
H = 3_600_000
SETTINGS = load({"TRACKER_DEMO": "1", "TRACKER_STALE_S": "999999999"})


def identify(n: int, ms: int, traits: Any, **more: Any) -> bytes:
    said = {"type": "identify", "userId": "u1", "traits": traits}
    return json.dumps(json.loads(record(n, ts=T0 + ms, **more)) | said).encode()


def event(n: int, ms: int, name: str | None = None, **more: Any) -> bytes:
    return record(n, ts=T0 + ms, name=name, **more)


def moves(owner: Owner) -> list[str]:
    out = []
    for value in owner.triggers:
        t = json.loads(value)
        if t["type"] == "tracker.journey_stage.v1":
            out.append(f"{t['data']['from']['number']}->{t['data']['to']['number']}")
    return out


def explained(owner: Owner, now_ms: int) -> dict[str, Any]:
    profile = owner.profiles["demo", "p1"]
    return JourneySignal().explain(profile.states["journey"], now_ms, owner.folder.context(profile, now_ms))


def stage(owner: Owner) -> int:
    state = owner.profiles["demo", "p1"].states["journey"]
    return int(state.stage) + 1


VECTORS: dict[str, tuple[list[bytes], list[str]]] = {
    "a first touch is the first stage, which is not told": ([event(0, 0)], []),
    "a second session": ([event(0, 0), event(1, 31 * 60_000)], ["1->2"]),
    "a pause of exactly 30 minutes is the same session": ([event(0, 0), event(1, 30 * 60_000)], []),
    "a product viewed": ([event(0, 0, "Product Viewed", product_id="x")], ["1->2"]),
    "a click on a message": ([event(0, 0, "Email Link Clicked")], ["1->2"]),
    "signed up": ([event(0, 0), event(1, 1, "Signed Up")], ["1->3"]),
    "an address": ([identify(0, 0, {"email": "lan@shop.example"})], ["1->3"]),
    "a name is no address": ([identify(0, 0, {"name": "Lan", "email": " "})], []),
    "what everybody sends is no address": ([identify(0, 0, {"email": "undefined", "phone": "0000000000"})], []),
    "a phone number as a number": ([identify(0, 0, {"phone": 84901234567})], ["1->3"]),
    "a first order": ([event(0, 0, "Order Completed", order_id="o1")], ["1->3"]),
    "active on two days after it": (
        [event(0, 0, "Trial Started"), event(1, 2 * DAY), event(2, 29 * DAY)], ["1->3", "3->4"],
    ),
    "the second day is too late": ([event(0, 0, "Signed Up"), event(1, 2 * DAY), event(2, 31 * DAY)], ["1->3"]),
    "the day itself is not after it": ([event(0, 0, "Signed Up"), event(1, H), event(2, 3 * DAY)], ["1->3"]),
    "two orders": (
        [event(n, n, "Order Completed", order_id=f"o{n}") for n in range(2)], ["1->3", "3->5"],
    ),
    "two orders of which one is cancelled": (
        [event(0, 0, "Order Completed", order_id="a"), event(1, H, "Order Completed", order_id="b"),
         event(2, 2 * H, "Order Cancelled", order_id="b")], ["1->3", "3->5", "5->3"],
    ),
    "the same on days of their own": (
        [event(0, 0, "Order Completed", order_id="a"), event(1, DAY, "Order Completed", order_id="b", revenue=20),
         event(2, DAY + H, "Order Refunded", order_id="b")], ["1->3", "3->5", "5->3"],
    ),
    "a part that was given back leaves the order one": (
        [event(0, 0, "Order Completed", order_id="a"), event(1, H, "Order Completed", order_id="b", revenue=20),
         event(2, 2 * H, "Order Refunded", order_id="b", total=5)], ["1->3", "3->5"],
    ),
    "an advocate whose orders are given back stays one": (
        [event(0, 0, "Order Completed", order_id="a"), event(1, H, "Referral Converted"),
         event(2, 2 * H, "Order Cancelled", order_id="a")], ["1->3", "3->6"],
    ),
    "one order reported twice": ([event(n, n, "Order Completed", order_id="o") for n in range(2)], ["1->3"]),
    "a promoter": ([event(0, 0, "Survey Response Received", type="nps", score=9)], ["1->6"]),
    "an 8 is none": ([event(0, 0, "Survey Response Received", type="nps", score=8)], []),
    "a promoter who is none any more": (
        [event(n, n, "Survey Response Received", type="nps", score=s) for n, s in enumerate((10, 6))],
        ["1->6", "6->5"],
    ),
    "a bad answer before the good one": (
        [event(n, n, "Survey Response Received", type="NPS", score=s) for n, s in enumerate((0, "9"))], ["1->6"],
    ),
    "a good review": ([event(0, 0, "Product Reviewed", rating=4)], ["1->6"]),
    "a fair one": ([event(0, 0, "Product Reviewed", rating=3.5)], []),
    "a referral": ([event(0, 0, "Referral Converted")], ["1->6"]),
    "two shares that were visited": (
        [event(n, n, "Content Shared", visits=v) for n, v in enumerate((1, 0, 4))], ["1->6"],
    ),
    "one of them was not": ([event(n, n, "Product Shared", visits=v) for n, v in enumerate((1, 0))], []),
}  # fmt: skip


@pytest.mark.parametrize("name", VECTORS)
def test_the_table(name: str) -> None:
    log, expected = VECTORS[name]
    owner = Owner(SETTINGS)
    for value in log:
        owner.take([value])
    assert moves(owner) == expected
    whole = Owner(SETTINGS)
    whole.take(log)
    assert whole.state() == owner.state()


def test_silence_leads_down_by_time_alone_and_a_visit_up_again() -> None:
    owner = Owner(SETTINGS)
    owner.take([event(0, 0, "Product Viewed", product_id="x"), event(1, DAY), encode_clock(T0 + 91 * DAY - 1)])
    assert moves(owner) == ["1->2"]
    owner.take([encode_clock(T0 + 91 * DAY)])
    assert moves(owner) == ["1->2", "2->1"]
    owner.take([encode_clock(T0 + 200 * DAY), event(2, 200 * DAY + 1)])
    assert moves(owner) == ["1->2", "2->1", "1->2"]
    told = [json.loads(t)["time"] for t in owner.triggers]
    assert told == sorted(told)


def test_whoever_ordered_stays_and_the_churn_signal_keeps_with_a_flag() -> None:
    owner = Owner(SETTINGS)
    owner.take([event(0, 0, "Order Completed", order_id="o1"), encode_clock(T0 + 900 * DAY)])
    state = owner.profiles["demo", "p1"].states["journey"]
    assert moves(owner) == ["1->3", "3->5"]
    assert state.at_risk
    data = json.loads(owner.triggers[-1])["data"]
    assert data["atRisk"]
    assert (data["to"]["en"], data["to"]["vi"]) == ("retained", "Giữ chân")
    owner.take([event(1, 900 * DAY + 1, "Order Completed", order_id="o2")])
    state = owner.profiles["demo", "p1"].states["journey"]
    assert (stage(owner), state.at_risk) == (5, owner.profiles["demo", "p1"].states["purchase"].on)


_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            [None, "Product Viewed", "Order Completed", "Signed Up", "identify", "nps 10", "nps 3", "Content Shared"]
        ),
        st.integers(0, 50 * 24).map(lambda h: h * H),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=150)
@given(_EVENTS, st.randoms(use_true_random=False), st.sampled_from([0, 45, 100]))
def test_any_order_of_arrival_gives_the_same_stage(
    said: list[tuple[str | None, int]], random: Any, later_d: int
) -> None:
    def one(n: int, name: str | None, ms: int) -> bytes:
        if name == "identify":
            return identify(n, ms, {"email": "lan@shop.example"})
        if name is not None and name.startswith("nps"):
            return event(n, ms, "Survey Response Received", type="nps", score=int(name[4:]))
        return event(n, ms, name, order_id=f"o{ms}", visits=1)

    found = []
    for shuffled in (False, True):
        order = sorted(said, key=lambda e: e[1])
        if shuffled:
            random.shuffle(order)
        owner = Owner(SETTINGS)
        for n, (name, ms) in enumerate(order):
            owner.take([one(n, name, ms)])
        owner.take([encode_clock(T0 + (50 + later_d) * DAY)])
        state = owner.profiles["demo", "p1"].states["journey"]
        # A timer may be early, it looks again; of active days two are kept, until the person is retained.
        facts = msgspec.structs.replace(state.facts, engaged_days=())
        found.append((state.stage, facts, state.stage >= RETAINED or len(state.facts.engaged_days), state.at_risk))
        steps = [move.split("->") for move in moves(owner)]
        assert all(a[1] == b[0] for a, b in pairwise(steps))
        assert len({json.loads(t)["id"] for t in owner.triggers}) == len(owner.triggers)
    assert found[0] == found[1]


def test_a_stage_is_explained_by_its_number_and_why_it_holds() -> None:
    owner = Owner(SETTINGS)
    owner.take(
        [event(0, 0), event(1, H, "Order Completed", order_id="a"), event(2, 2 * H, "Order Completed", order_id="b")]
    )
    said = explained(owner, T0 + 3 * H)
    told = {name: said[name] for name in ("number", "en", "vi", "entered_at", "at_risk", "because", "until", "orders")}
    assert told == {
        "number": 5, "en": "retained", "vi": "Giữ chân", "entered_at": rfc3339(T0 + 2 * H), "at_risk": False,
        "because": "2 orders", "until": None, "orders": 2,
    }  # fmt: skip
    (data,) = [t["data"] for t in map(json.loads, owner.triggers) if t.get("data", {}).get("to", {}).get("number") == 5]
    assert data["to"] == {name: said[name] for name in ("number", "en", "vi")}
    raw = msgspec.to_builtins(owner.profiles["demo", "p1"].states["journey"])
    assert (JourneySignal().shown(raw)["stage"], JourneySignal().shown({})["stage"]) == (5, 1)


def test_the_first_stages_are_explained_with_their_end() -> None:
    owner = Owner(SETTINGS)
    owner.take([event(0, 0)])
    assert (explained(owner, T0)["number"], explained(owner, T0)["because"]) == (1, "a first touch")
    owner.take([event(1, 2 * DAY)])
    owner.take([event(2, 3 * DAY)])
    said = explained(owner, T0 + 4 * DAY)
    assert (said["number"], said["until"]) == (2, rfc3339(T0 + 93 * DAY))
    owner.take([encode_clock(T0 + 93 * DAY)])
    assert explained(owner, T0 + 94 * DAY)["because"] == "90 days of silence"


def test_a_stage_that_is_left_by_time_says_when() -> None:
    assert stage_of(Facts(looked_ms=5), 0, 7, 0, 7) == (1, 7 + SILENT_MS)
    assert stage_of(Facts(looked_ms=5), 0, 7, 0, 7 + SILENT_MS) == (0, None)
    assert stage_of(Facts(retained=True), 0, None, 0, 10**15) == (4, None)


def test_the_gauge_of_the_stages_counts_every_profile_once_wherever_it_is() -> None:
    found = Counting()
    found.take(page(pid="p1"), page(pid="p2"), track("Product Viewed", pid="p3"), track("Order Completed", pid="p4"))
    found.take(track("Survey Response Received", pid="p2", type="nps", score=9))
    assert {stage: n for stage, n in found.gauges.items() if stage.startswith("journey_") and n} == {
        "journey_aware|demo": 1, "journey_reached|demo": 1, "journey_onboard|demo": 1, "journey_advocate|demo": 1,
    }  # fmt: skip
    found.clock(T0_MS + 91 * 86_400_000)
    assert (found.gauges["journey_reached|demo"], found.gauges["journey_aware|demo"]) == (0, 2)
