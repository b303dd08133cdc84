"""The signals hop's core with the registered signals: time, repeats, poison, and that chunk boundaries never matter."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.effects import Effects
from stream.fold import Folder
from stream.profile import MAX_TRAITS_BYTES, Profile, merge_about
from stream.records import decode
from stream.signals import SIGNALS
from tracker.contract.events import REPLAYS, encode_clock
from tracker.contract.examples import MODEL
from tracker.contract.loading import load
from tracker.contract.models import Models, encode_model
from tracker.contract.settings import Settings

T0 = 1_795_000_000_000
SETTINGS = load({"TRACKER_DEMO": "1"})


def record(
    n: int, *, pid: str = "p1", ts: int = T0, name: str | None = None, received: int | None = None, **properties: Any
) -> bytes:
    event: dict[str, Any] = {
        "profileId": pid, "src": [3, n, 0], "site": "demo", "type": "track" if name else "page", "messageId": f"m{n}",
        "timestampMs": ts, "receivedAtMs": ts if received is None else received, "channel": "site",
        "anonymousId": f"a-{pid}",
    }  # fmt: skip
    if name:
        event |= {"event": name, "properties": properties}
    return json.dumps(event).encode()


class Owner:
    """What a worker keeps of one partition, without Redis."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.folder = Folder(SIGNALS, settings)
        self.profiles: dict[tuple[str, str], Profile] = {}
        self.src: dict[int, tuple[int, int]] = {}
        self.models: Models = {}
        self.clock_ms = 0
        self.counts: dict[tuple[str, int, str], int] = {}
        self.gauges: dict[str, int] = {}
        self.triggers: list[bytes] = []
        self.published: list[tuple[str, bytes]] = []
        """(topic, value), in their order."""
        self.next = 0

    def take(self, values: list[bytes]) -> Effects:
        decoded = decode(values)
        for key in decoded.profiles:
            self.profiles.setdefault(key, Profile(*key))
        due = [
            key for key, p in sorted(self.profiles.items())
            if decoded.clock_ms is not None and p.stored_due_ms is not None and p.stored_due_ms <= decoded.clock_ms
        ]  # fmt: skip
        fx = self.folder.fold(decoded, self.profiles, due, self.src, self.clock_ms, self.models)
        self.folder.blob(fx, epoch=1, seq=1, base=self.next, next=self.next + len(values))
        self.next += len(values)
        self.src.update(fx.src)
        self.models = {**self.models, **{(m.site, m.signal): m for m in fx.models}}
        self.clock_ms = fx.clock_ms
        for (_, site, minute), fields in fx.counts().items():
            for field, n in fields.items():
                self.counts[site, minute, field] = self.counts.get((site, minute, field), 0) + n
        for field, n in fx.gauges.items():
            self.gauges[field] = self.gauges.get(field, 0) + n
        self.triggers += [t.value for t in fx.triggers]
        self.published += [(t.topic, t.value) for t in fx.triggers]
        return fx

    def state(self) -> Any:
        profiles = {
            key: (repr(p.about), {name: repr(s) for name, s in sorted(p.states.items())}, p.due_ms)
            for key, p in self.profiles.items()
        }
        gauges = {field: n for field, n in self.gauges.items() if n}
        return profiles, self.counts, gauges, sorted(self.triggers), self.src, self.clock_ms


def shop_log(seed: int, length: int) -> list[bytes]:
    """Visitors who come, add, buy and leave over some hours, with clock records between."""
    draw = random.Random(seed)
    names = [
        "Product Viewed",
        "Product Added",
        "Product Removed",
        "Checkout Started",
        "Order Completed",
        "Popup Viewed",
    ]
    now, log = T0, []
    for n in range(length):
        now += draw.choice([0, 1_000, 60_000, 900_000])
        if draw.random() < 0.25:
            log.append(encode_clock(now - 2_000))
            continue
        late = draw.choice([0, 0, 0, 30_000, 4_000_000])
        name = draw.choice([None, *names])
        log.append(
            record(
                n, pid=f"p{draw.randrange(4)}", ts=now - late, received=now, name=name,
                product_id=f"x{draw.randrange(3)}", price=10, quantity=draw.choice([1, 2]), order_id=f"o{n}",
            )
        )  # fmt: skip
    return log


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 60), st.data())
def test_chunk_boundaries_never_matter(seed: int, length: int, data: st.DataObject) -> None:
    log = shop_log(seed, length)
    whole, cut = Owner(), Owner()
    whole.take(log)
    while log:
        n = data.draw(st.integers(1, len(log)))
        cut.take(log[:n])
        log = log[n:]
    assert cut.state() == whole.state()


def test_a_record_delivered_again_has_no_second_effect() -> None:
    owner = Owner()
    first = [record(0), record(1, name="Product Added", product_id="x", price=10), record(2)]
    owner.take(first)
    before = owner.state()
    fx = owner.take(first)
    assert fx.repeats == 3
    assert owner.state() == before


def test_events_are_counted_by_total_channel_and_name() -> None:
    owner = Owner()
    owner.take([record(0), record(1), record(2, name="Product Viewed")])
    minute = T0 // 60_000 * 60
    assert owner.counts["demo", minute, "total"] == 3
    assert owner.counts["demo", minute, "channel|site"] == 3
    assert owner.counts["demo", minute, "event|page"] == 2
    assert owner.counts["demo", minute, "event|Product Viewed"] == 1


def test_a_late_event_is_counted_in_the_minute_it_happened() -> None:
    owner = Owner()
    owner.take([record(0, ts=T0), record(1, ts=T0 - 3_600_000, received=T0)])
    assert owner.counts["demo", (T0 - 3_600_000) // 60_000 * 60, "total"] == 1


def test_poison_is_named_and_the_rest_of_the_chunk_has_its_effect() -> None:
    owner = Owner()
    fx = owner.take([record(0), b"{not json", b'{"profileId":"p"}', b"", record(1)])
    assert len(fx.received) == 2
    assert [(p.index, p.reason) for p in decode([b"{not json", record(1), b"[]"]).poison] == [
        (0, "not_an_event"),
        (2, "not_an_event"),
    ]


def test_a_cart_is_abandoned_by_the_clock_alone_and_not_before_its_time() -> None:
    owner = Owner()
    owner.take([record(0, name="Product Added", product_id="x", price=10, quantity=2)])
    due = T0 + int(SETTINGS.cart_idle_s * 1000)
    owner.take([encode_clock(due - 1)])
    assert owner.triggers == []
    owner.take([encode_clock(due)])
    (trigger,) = map(json.loads, owner.triggers)
    assert trigger["type"] == "tracker.cart_abandoned.v1"
    assert trigger["data"]["value"] == 20
    owner.take([encode_clock(due + 60_000)])
    assert len(owner.triggers) == 1


def test_a_purchase_in_the_backlog_is_seen_before_the_clock_that_would_fire() -> None:
    owner = Owner()
    due = T0 + int(SETTINGS.cart_idle_s * 1000)
    owner.take(
        [
            record(0, name="Product Added", product_id="x", price=10),
            record(1, ts=due - 1000, name="Order Completed", order_id="o1", revenue=10),
            encode_clock(due + 7_200_000),
        ]
    )
    told = {json.loads(value)["type"] for value in owner.triggers}
    assert told == {"tracker.lead_stage.v1", "tracker.journey_stage.v1"}, "a customer now"


def test_a_trigger_that_is_a_day_late_is_suppressed_as_stale_and_the_state_goes_on() -> None:
    owner = Owner()
    owner.take([record(0, name="Product Added", product_id="x", price=10)])
    fx = owner.take([encode_clock(T0 + int((SETTINGS.cart_idle_s + SETTINGS.stale_s) * 1000) + 1)])
    assert owner.triggers == []
    assert ("cart_abandoned", "stale") in fx.suppressed


def test_a_clock_that_goes_back_changes_nothing() -> None:
    owner = Owner()
    owner.take([encode_clock(T0)])
    owner.take([encode_clock(T0 - 5_000)])
    assert owner.clock_ms == T0


def test_a_signal_that_fails_costs_the_event_its_signals_but_not_its_count(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = Owner()
    cart = next(s for s in SIGNALS if s.name == "cart")

    def fail(*_: Any) -> None:
        raise RuntimeError("bug")

    monkeypatch.setattr(type(cart), "fold", fail)
    fx = owner.take([record(0, name="Product Added", product_id="x", price=10), record(1)])
    assert [(p.index, p.reason) for p in fx.poison] == [(0, "fold_failed")]
    assert owner.counts["demo", T0 // 60_000 * 60, "total"] == 2
    assert owner.profiles["demo", "p1"].states.get("cart") is None
    events = owner.profiles["demo", "p1"].about.events  # type: ignore[union-attr]
    monkeypatch.undo()
    # The replay of its dead letter: from a place of its own, so it is no repeat; it is not counted a second time.
    again = json.loads(record(0, name="Product Added", product_id="x", price=10))
    again |= {"src": [REPLAYS, 40, 0], "counted": True}
    for repeats in (0, 1):
        assert owner.take([json.dumps(again).encode()]).repeats == repeats
    assert owner.counts["demo", T0 // 60_000 * 60, "total"] == 2
    assert owner.profiles["demo", "p1"].about.events == events  # type: ignore[union-attr]
    assert owner.profiles["demo", "p1"].states["cart"]


def test_traits_are_taken_as_far_as_they_fit_and_what_is_left_out_is_counted() -> None:
    owner = Owner()

    def identify(n: int, traits: Any) -> Effects:
        body = json.loads(record(n, ts=T0 + n)) | {"type": "identify", "userId": "u1", "traits": traits}
        return owner.take([json.dumps(body).encode()])

    deep: Any = "x"
    for _ in range(33):
        deep = [deep]
    fx = identify(1, {"huge": "x" * 20_000, "a": "y" * 9_000, "deep": deep, "b": 1})
    about = owner.profiles["demo", "p1"].about
    assert about is not None
    assert set(about.traits) == {"a", "b"}
    assert fx.metrics["traits_left_out_total", ("demo",)] == 2
    identify(2, {f"t{i}": "z" * 1000 for i in range(70)})
    assert len(msgspec.json.encode(about.traits)) <= MAX_TRAITS_BYTES
    assert set(about.traits) == {"a", "b", *(f"t{i}" for i in range(7))}
    identify(3, {"a": "small", "c": "w" * 5000})  # what becomes smaller makes room
    assert about.traits["a"] == "small"
    assert "c" in about.traits
    before = about.traits
    assert identify(4, {"huge": "x" * 20_000}).metrics["traits_left_out_total", ("demo",)] == 1
    assert about.traits is before
    both = merge_about(about, msgspec.structs.replace(about, first_seen_ms=1, traits={"d": "v" * 12_000, "b": 2},
                                                      traits_ms={"d": T0 + 9, "b": T0}))  # fmt: skip
    assert len(msgspec.json.encode(both.traits)) <= MAX_TRAITS_BYTES
    assert both.traits["b"] == 1
    assert "d" in both.traits  # said last
    assert "t6" not in both.traits


def test_ids_that_mean_nobody_are_not_the_persons() -> None:
    owner = Owner()
    for n, ids in enumerate(({"userId": "undefined", "anonymousId": "null"}, {"userId": "u1", "anonymousId": "a1"})):
        owner.take([json.dumps(json.loads(record(n + 1, ts=T0 + n)) | ids).encode()])
    about = owner.profiles["demo", "p1"].about
    assert about is not None
    assert (about.user_id, about.anonymous_ids) == ("u1", ["a1"])


def test_traits_take_the_last_writer_by_event_time() -> None:
    owner = Owner()

    def identify(n: int, ts: int, traits: Any) -> bytes:
        body = json.loads(record(n, ts=ts, received=T0)) | {"type": "identify", "userId": "u1", "traits": traits}
        return json.dumps(body).encode()

    owner.take([identify(0, T0, {"city": "Hà Nội", "name": "An"}), identify(1, T0 - 10, {"city": "Huế", "age": 30})])
    about = owner.profiles["demo", "p1"].about
    assert about is not None
    assert about.traits == {"city": "Hà Nội", "name": "An", "age": 30}
    assert about.user_id == "u1"


def test_parameters_are_taken_up_where_they_stand_in_the_log_and_an_older_version_never() -> None:
    def bought(n: int) -> list[bytes]:
        days = (T0, T0 + 7 * 86_400_000)
        return [record(10 * n + i, pid=f"p{n}", ts=ts, name="Order Completed", revenue=5) for i, ts in enumerate(days)]

    newer, older = (encode_model(msgspec.structs.replace(MODEL, version=v, alpha=v * 3.0)) for v in (8, 7))
    log = [*bought(1), newer, older, *bought(2), encode_clock(T0 + 300 * 86_400_000)]
    for cuts in ([], [3], [2, 4], range(1, len(log))):
        owner, start = Owner(msgspec.structs.replace(SETTINGS, churn_recheck_d=0, stale_s=10**9)), 0
        for cut in (*cuts, len(log)):
            owner.take(log[start:cut])
            start = cut
        told = {t["subject"]: t for t in map(json.loads, owner.triggers) if t["type"] == "tracker.churn_risk.v1"}
        assert owner.models["demo", "purchase"].version == 8
        assert {t["data"]["version"] for t in told.values()} == {8}  # of both: solved again when the timer was due
        assert told["p2"]["time"] <= told["p1"]["time"]
        assert sorted(owner.folder.blob(owner.take([newer]), epoch=1, seq=1, base=0, next=1)["models"]) == []


def test_counts_of_a_kind_that_nobody_registered_are_the_sites() -> None:
    """Of a signal of somebody's own: docs/signals-howto.md."""
    fx = Effects.none(0)
    fx.extra["demo", T0 // 60_000 * 60] = {"wishes|added": 2}
    assert fx.counts() == {("site", "demo", T0 // 60_000 * 60): {"wishes|added": 2}}


@pytest.mark.parametrize("late_s", range(172_700, 172_900, 20))
def test_an_event_is_counted_in_minutes_as_long_as_its_minute_is_kept(late_s: int) -> None:
    """Two days, from the start of the minute, for events as for what signals count at a time."""
    ts, received = T0, T0 + late_s * 1000
    start_s = ts // 60_000 * 60
    decoded = decode([record(1, ts=ts, received=received)])
    folder = Folder(SIGNALS, SETTINGS)
    fx = folder.fold(decoded, {key: Profile(*key) for key in decoded.profiles}, (), {}, 0)
    counts = folder.blob(fx, epoch=1, seq=0, base=0, next=1)["counts"]
    buckets = [row[2] for row in counts if row[1] in ("site", "content")]
    assert buckets
    kept = received // 1000 - start_s <= 172_800
    assert all(bucket[0] == (start_s if kept else False) for bucket in buckets)
