"""Partitions of profile-events in memory: whatever the order in which events, merges and what they send on arrive, and
however often, the profile that stays is as if it had been one person's from the beginning."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stream import handover
from stream.core import score as core
from stream.effects import MOVED
from stream.fold import Folder
from stream.packing import packb
from stream.profile import About, Profile, merge_about
from stream.records import Decoded, decode
from stream.signals import SIGNALS
from stream.signals.cart_triggers import trigger_id
from stream.stored import Newer
from tracker.contract import keys
from tracker.contract.codec import partition_of
from tracker.contract.events import encode_clock
from tracker.contract.loading import load
from tracker.contract.merges import (
    HANDOVER_PREFIX,
    MERGE_PREFIX,
    Handover,
    Merge,
    decode_handover,
    encode_handover,
    encode_merge,
    merge_id,
)
from tracker.contract.scoring import ScoreRules
from tracker.contract.settings import Settings
from tracker.contract.sites import Site

T0 = 1_795_000_000_000
SETTINGS = load(
    {"TRACKER_PARTITIONS": "3"},
    sites={"demo": Site("wk_of_the_tests", "sk_of_the_tests", score=ScoreRules(weights={"session": 5}))},
)
PARTITIONS = 3
MINUTE_MS = 60_000


class Partition:
    """A partition's log and what its owner keeps in Redis."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.log: list[bytes] = []
        self.next = 0
        self.clock_ms = 0
        self.hashes: dict[tuple[str, str], dict[str, bytes]] = {}
        self.due: dict[tuple[str, str], int] = {}
        self.src: dict[int, tuple[int, int]] = {}
        self.gauges: Counter[str] = Counter()
        self.ranks: dict[tuple[str, str], float] = {}
        self.visitors: dict[tuple[str, str], int] = {}
        """(site:channel, profile id) -> minute of the last event: what apply.lua counts exactly."""


class World:
    def __init__(self, rng: random.Random, settings: Settings = SETTINGS) -> None:
        self.rng = rng
        self.folder = Folder(SIGNALS, settings)
        self.partitions = [Partition(n) for n in range(PARTITIONS)]
        self.triggers: dict[str, dict[str, Any]] = {}
        self.published: list[tuple[str, bytes]] = []
        """(topic, value) of the triggers, in their order."""
        self.counts: Counter[str] = Counter()
        self.sums: list[tuple[str, float]] = []
        """(field, log2) of what is added to the site's decayed sums."""
        self.poison: list[str] = []
        self.sent = 0

    def write(self, profile_id: str, value: bytes) -> None:
        self.partitions[partition_of(profile_id.encode(), PARTITIONS)].log.append(value)

    def step(self, p: Partition, n: int) -> None:
        """Fold the next n records, perhaps in vain at first (a crash before the apply), and apply them."""
        values = p.log[p.next : p.next + n]
        offsets = range(p.next, p.next + len(values))
        if self.rng.random() < 0.2:
            self._fold(p, values, offsets)
        decoded, _, fx = self._fold(p, values, offsets)
        blob = self.folder.blob(fx, epoch=1, seq=0, base=p.next, next=p.next + len(values))
        for part in blob["merged"]:
            p.hashes.pop(tuple(part.split(":", 1)), None)
        for part, fields in blob["writes"]:
            have = p.hashes.setdefault(tuple(part.split(":", 1)), {})
            for name, raw in zip(fields[::2], fields[1::2], strict=True):
                have[name] = bytes(raw)[5:]  # behind msgpack's head
        for member, due_ms in blob["due"]:
            key = tuple(member.split("|", 1))
            p.due.pop(key, None)
            if due_ms is not False:
                p.due[key] = due_ms
        for field, difference in zip(blob["gauges"][::2], blob["gauges"][1::2], strict=True):
            p.gauges[field] += difference
        for _, id in blob["gone"]:
            p.visitors = {key: minute for key, minute in p.visitors.items() if key[1] != id}
        for where, visits in blob["visits"]:
            for minute, id in zip(visits[::2], visits[1::2], strict=True):
                p.visitors[where, id] = max(minute, p.visitors.get((where, id), 0))
        for site, _, places, none in blob["ranks"]:
            p.ranks.update({(site, id): rank for rank, id in zip(places[::2], places[1::2], strict=True)})
            for id in none:
                p.ranks.pop((site, id), None)
        p.src.update(fx.src)
        p.next, p.clock_ms = p.next + len(values), fx.clock_ms
        for fields in fx.counts().values():
            self.counts.update(fields)
        for _, flat in blob["sums"]:
            self.sums += zip(flat[::2], flat[1::2], strict=True)
        self.poison += (poison.reason for poison in (*decoded.poison, *fx.poison))
        moved = [t for t in fx.triggers if t.kind == MOVED]
        self.sent += len(moved)
        for t in fx.triggers:
            if t.kind != MOVED:
                self.triggers[json.loads(t.value)["id"]] = json.loads(t.value)
                self.published.append((t.topic, t.value))
        while True:  # The outbox, again from its start after a crash before it was known to be in Kafka.
            for t in moved:
                self.write(t.key.decode(), t.value)
            if self.rng.random() < 0.7:
                break

    def _fold(self, p: Partition, values: list[bytes], offsets: range) -> tuple[Decoded, Any, Any]:
        decoded = decode(values, p.number, offsets)
        due = [key for key, ms in p.due.items() if decoded.clock_ms is not None and ms <= decoded.clock_ms]
        profiles = {key: self.load(p, *key) for key in {*decoded.profiles, *due}}
        return decoded, profiles, self.folder.fold(decoded, profiles, due, p.src, p.clock_ms)

    def load(self, p: Partition, site: str, id: str) -> Profile:
        fields = [x for name, value in p.hashes.get((site, id), {}).items() for x in (name, value.decode())]
        return self.folder.codec.decode(site, id, fields)

    def run(self) -> None:
        """Until all logs are read."""
        while waiting := [p for p in self.partitions if p.next < len(p.log)]:
            self.step(self.rng.choice(waiting), self.rng.randint(1, 5))

    def profile(self, id: str) -> Profile:
        """Where the id leads to."""
        for _ in range(20):
            found = self.load(self.partitions[partition_of(id.encode(), PARTITIONS)], "demo", id)
            if found.merged_into is None:
                return found
            assert found.about is None
            assert not found.states
            id = found.merged_into
        raise AssertionError("a circle")

    def site_total(self, indicator: str) -> float:
        """What all persons' events of an indicator are worth together at T0."""
        parts = [(*keys.sum_of(field), log) for field, log in self.sums]
        added, back = ([(i, h, log) for i, h, is_back, log in parts if is_back is which] for which in (False, True))
        return core.site_total(added, back, {indicator: 1.0}, T0)

    def visitors(self) -> dict[tuple[str, str], int]:
        return {key: minute for p in self.partitions for key, minute in p.visitors.items()}

    def gauges(self) -> Counter[str]:
        return sum((p.gauges for p in self.partitions), Counter())


def event(profile: str, ms: int, src: tuple[int, int, int], name: str, id: str, **properties: Any) -> bytes:
    fields = {
        "profileId": profile, "src": src, "site": "demo", "type": "track", "event": name, "messageId": id,
        "timestampMs": T0 + ms, "receivedAtMs": T0 + ms, "channel": "site", "anonymousId": f"anonymous of {profile}",
        "properties": properties,
    }  # fmt: skip
    return json.dumps(fields).encode()


def identify(profile: str, ms: int, src: tuple[int, int, int], id: str, traits: dict[str, Any]) -> bytes:
    value = json.loads(event(profile, ms, src, "x", id))
    del value["event"]
    return json.dumps(value | {"type": "identify", "traits": traits}).encode()


def merge(loser: str, winner: str) -> bytes:
    return encode_merge(
        Merge(
            merge_id=merge_id("demo", loser, winner), site="demo", winner=winner, loser=loser,
            rule="user_id+anonymous_id", message_id="m", at_ms=T0,
        )
    )  # fmt: skip


def happening(rng: random.Random, profile: str, n: int, ms: int, src: tuple[int, int, int]) -> bytes:
    id = f"m{n}"
    kind = rng.choice(["add", "add", "order", "remove", "identify", "view"])
    if kind == "identify":
        return identify(profile, ms, src, id, {rng.choice("abc"): n})
    if kind == "order":
        return event(profile, ms, src, "Order Completed", id, order_id=f"o{n}", revenue=n)
    product = rng.choice("ABC")
    if kind == "add":
        return event(profile, ms, src, "Product Added", id, product_id=product, price=2, quantity=rng.randint(1, 3))
    if kind == "remove":
        return event(profile, ms, src, "Product Removed", id, product_id=product)
    return event(profile, ms, src, "Message Seen", id)


PEOPLE = ["p0", "p1", "p2", "p3", "p4"]


def story(seed: int, gap_ms: int) -> tuple[World, World]:
    """(events of five profiles that become one, in any order and by any chain; the same ones of one profile)."""
    rng = random.Random(seed)
    world, plain = World(rng), World(random.Random(seed))
    records: list[tuple[str, bytes]] = []
    for n in range(rng.randint(3, 30)):
        ms, profile, source = n * gap_ms, rng.choice(PEOPLE), rng.randrange(4)
        state = rng.getstate()
        records.append((profile, happening(rng, profile, n, ms, (source, n, 0))))
        rng.setstate(state)
        plain.write("p0", happening(rng, "p0", n, ms, (0, n, 0)))
    # Who becomes whom: as if seen in this order, so that a winner has the smaller number.
    for loser in PEOPLE[1:]:
        winner = PEOPLE[rng.randrange(PEOPLE.index(loser))]
        for _ in range(rng.randint(1, 2)):
            records.insert(rng.randrange(len(records) + 1), (loser, merge(loser, winner)))
    for profile, value in records:
        world.write(profile, value)
        if rng.random() < 0.3:
            busy = rng.choice([p for p in world.partitions if p.next < len(p.log)])
            world.step(busy, rng.randint(1, 4))
    world.run()
    plain.run()
    return world, plain


def states(profile: Profile) -> dict[str, Any]:
    """But for the order in which orders were heard of, what was counted of a cart that was only a part of one, when the
    journey's stages became known, what was within a run of one step (docs/counters.md: only its ends are kept), and at
    which minutes the score of the past was noted."""
    found = dict(profile.states)
    found.pop("steps", None)
    if (purchases := found.get("purchase")) is not None:
        found["purchase"] = msgspec.structs.replace(purchases, orders=tuple(sorted(purchases.orders)))
    if (cart := found.get("cart")) is not None:
        found["cart"] = msgspec.structs.replace(cart, counted={})
    if (stage := found.get("journey")) is not None:
        found["journey"] = msgspec.structs.replace(stage, entered_ms=0, at_ms=0, moves=0)
    if (score := found.get("score")) is not None:
        sums = {name: msgspec.structs.replace(t, log=round(t.log, 9)) for name, t in score.indicators.items()}
        found["score"] = msgspec.structs.replace(score, indicators=sums, marks=())
    return found


def about(profile: Profile) -> dict[str, Any]:
    assert profile.about is not None
    found: dict[str, Any] = msgspec.to_builtins(profile.about)
    del found["anonymous_ids"]
    return found


def net(counts: Counter[str]) -> Counter[str]:
    """What a reader makes of the counters: what was undone is taken off. Without moves between steps, see `states`."""
    sums: Counter[str] = Counter()
    for field, n in counts.items():
        kind, bar, rest = field.partition("|")
        if kind.startswith("step"):
            continue
        sums[f"{kind.removesuffix('_undone')}{bar}{rest}"] += -n if kind.endswith("_undone") else n
    return +sums


@pytest.mark.parametrize("seed", range(150))
def test_whatever_comes_in_which_order_and_how_often_the_one_that_stays_has_all_of_it_once(seed: int) -> None:
    world, plain = story(seed, gap_ms=MINUTE_MS)
    assert world.poison == []
    kept, expected = world.profile("p4"), plain.profile("p0")
    assert kept.id == "p0"
    assert states(kept) == states(expected)
    assert about(kept) == about(expected)
    assert net(world.counts) == net(plain.counts)
    assert world.gauges() == plain.gauges()
    assert world.visitors() == plain.visitors()
    for indicator in ("session", "first_order", "repeat_order", "cart"):
        tally = expected.states["score"].indicators.get(indicator)
        wanted = 0.0 if tally is None else core.value(tally, T0)
        assert (world.site_total(indicator), plain.site_total(indicator)) == pytest.approx((wanted, wanted), abs=1e-9)
    assert sum(p.due.get(("demo", id), 0) for p in world.partitions for id in PEOPLE[1:]) == 0
    assert world.partitions[partition_of(b"p0", 3)].due == plain.partitions[partition_of(b"p0", 3)].due


@pytest.mark.parametrize("seed", range(150))
def test_abandonments_that_were_told_before_a_merge_are_true_after_it_or_retracted(seed: int) -> None:
    world, plain = story(seed, gap_ms=40 * MINUTE_MS)
    for w in (world, plain):  # The clock gets beyond everything that was due.
        for p in w.partitions:
            p.log.append(encode_clock(T0 + 22 * 60 * MINUTE_MS))
        w.run()
    kept, expected = world.profile("p4"), plain.profile("p0")
    if "cart" in expected.states:
        assert kept.states["cart"].carts == expected.states["cart"].carts
        assert kept.states["cart"].log == expected.states["cart"].log
    assert world.gauges() == plain.gauges()

    if "cart" not in expected.states:
        return
    carts = [t for t in world.triggers.values() if t["type"].startswith("tracker.cart_abandoned")]
    back = {t["data"]["retracts"] for t in carts if "retracts" in t["data"]}
    true_now = {t["id"] for t in carts if "retracts" not in t["data"]} - back
    told = [t for t in kept.states["cart"].told if t.order is None]
    assert true_now == {trigger_id("demo", t) for t in told if not t.quiet}
    # Each abandonment of the one cart is told once; one of them may have been heard that would have been too soon.
    wanted = [t for t in expected.states["cart"].told if t.order is None]
    assert len(told) == len(wanted)
    assert len(true_now) >= sum(not t.quiet for t in wanted)


def test_the_stories_have_what_they_are_to_show() -> None:
    stories = [story(seed, gap_ms=MINUTE_MS)[0] for seed in range(20)]
    assert sum(w.sent for w in stories) > 100
    records = [value for w in stories for p in w.partitions for value in p.log]
    assert any(value.startswith(HANDOVER_PREFIX) and decode_handover(value).hops > 0 for value in records)
    assert any(value.startswith(MERGE_PREFIX) for value in records)
    assert any(b'"hops":2' in value for value in records)


def test_what_is_too_large_for_a_record_goes_in_pieces_also_through_a_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "PART_BYTES", 3000)
    monkeypatch.setattr(handover, "PIECE_CHARS", 500)
    world, plain = World(random.Random(1)), World(random.Random(1))
    for n in range(60):
        for w, profile in ((world, "p2"), (plain, "p0")):
            value = event(profile, n, (0, n, 0), "Product Added", f"m{n}", product_id=f"“{n}”", price=1)
            w.write(profile, value)
    plain.run()
    world.run()
    assert len(world.folder.codec.decode("demo", "p2", []).states) == 0
    world.write("p2", merge("p2", "p1"))
    while not any(b'"piece"' in value for p in world.partitions for value in p.log):
        world.step(world.partitions[partition_of(b"p2", 3)], 1)
    target = world.partitions[partition_of(b"p1", 3)]
    while target.next < len(target.log) - 3:
        world.step(target, 1)
    assert world.load(target, "demo", "p1").arriving  # in the middle of it the winner is merged, too
    target.log.insert(target.next, merge("p1", "p0"))
    world.run()
    kept = world.profile("p2")
    assert kept.states == plain.profile("p0").states
    assert kept.arriving == {}
    for p in world.partitions:
        for value in p.log:
            if value.startswith(HANDOVER_PREFIX):
                assert len(value) <= 3000
                assert encode_handover(decode_handover(value)) == value


def test_a_part_is_at_most_256_kb() -> None:
    folder = Folder(SIGNALS, SETTINGS)
    profile = Profile("demo", "p1")
    texts = {f"trait {n}": "“" * 1300 for n in range(64)}  # 250 KB in UTF-8
    profile.about = About(first_seen_ms=0, last_seen_ms=0, traits=texts)
    profile.arriving = {"x|y": '\u00e9"\\' * 200_000}
    record = Merge(merge_id="m", site="demo", winner="p0", loser="p1", rule="r", message_id="m", at_ms=0)
    parts = list(handover.hand_over(profile, record, folder.codec, handover.Sender(1, 2)))
    assert len(parts) > 5
    assert max(len(part.value) for part in parts) <= 256 * 1024
    assert [decode_handover(part.value).src for part in parts] == [(2049, 2, n) for n in range(len(parts))]


def test_merges_that_go_in_a_circle_end_as_a_dead_letter() -> None:
    """As when Redis lost a merge of the identifiers and they met the other way round."""
    world = World(random.Random(3))
    world.rng.random = lambda: 0.5  # type: ignore[method-assign]  # no repeats: they would double at each hop
    for value in (merge("p1", "p2"), merge("p2", "p1")):
        world.write(json.loads(value)["loser"], value)
    world.run()
    world.write("p1", event("p1", 0, (0, 1, 0), "Product Added", "m1", product_id="A"))
    world.run()
    assert world.poison == ["merge_loop"]
    assert world.sent <= 2 * handover.MAX_HOPS


def test_a_loser_with_two_winners_makes_the_winners_one() -> None:
    world = World(random.Random(3))
    for n, who in enumerate(("p1", "p2", "p3")):
        world.write(who, event(who, n, (0, n, 0), "Product Added", f"m{n}", product_id=who))
    world.write("p3", merge("p3", "p2"))
    world.write("p3", merge("p3", "p1"))
    world.run()
    assert world.profile("p3").id == world.profile("p2").id == "p1"
    assert {line.id for line in world.profile("p1").states["cart"].carts.latest.items} == {"p1", "p2", "p3"}
    assert world.poison == []


def handed(**fields: bytes) -> Handover:
    raw = {name: msgspec.Raw(value) for name, value in fields.items()}
    return Handover(handover="m", src=(2048, 1, 0), site="demo", profile_id="p0", loser="p1", fields=raw)


@pytest.mark.parametrize(
    "fields",
    [
        {"cart": b'{"cart":{"state":"of nobody"}}'}, {"cart": b'{"_v":"x"}'}, {"about": b"1"}, {"about": b'"\xff"'},
        {"about": b'{"first_seen_ms":1,"last_seen_ms":1,"channels":{"site":%d}}' % 2**70}, {"arriving": b'{"a":1}'},
        {"cart": b"[" * 2000 + b"]" * 2000},
    ],
)  # fmt: skip
def test_a_part_that_no_worker_wrote_becomes_a_dead_letter_and_the_others_are_taken_over(
    fields: dict[str, bytes],
) -> None:
    folder = Folder(SIGNALS, SETTINGS)
    decoded = decode([encode_handover(handed(**fields, visit=b'{"days":[5]}'))])
    profiles = {key: Profile(*key) for key in decoded.profiles}
    fx = folder.fold(decoded, profiles, (), {}, 0)
    if decoded.items:
        assert "visit" in profiles["demo", "p0"].states
    assert [p.index for p in (*decoded.poison, *fx.poison)] == [0]
    assert packb(folder.blob(fx, epoch=1, seq=0, base=0, next=1))


def test_a_state_that_a_newer_worker_wrote_stops_this_one_instead_of_being_lost() -> None:
    folder = Folder(SIGNALS, SETTINGS)
    part = handed(cart=b'{"_v":99,"cart":{}}')
    decoded = decode([encode_handover(part)])
    with pytest.raises(Newer, match="state `cart` of profile demo:p0"):
        folder.fold(decoded, {key: Profile(*key) for key in decoded.profiles}, (), {}, 0)


# -- who a profile is --------------------------------------------------------------------------------------------------

_texts = st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1, max_size=2)
_times = st.integers(0, 5)
_abouts = st.builds(
    lambda first, more, events, user, anonymous, traits, groups: About(
        first_seen_ms=first, last_seen_ms=first + more, events=events, user_id=user, anonymous_ids=anonymous,
        traits={name: value for name, (value, _) in traits.items()},
        traits_ms={name: ms for name, (_, ms) in traits.items()}, groups=groups,
    ),
    _times, _times, _times, st.none() | _texts, st.lists(_texts, max_size=10, unique=True),
    st.dictionaries(_texts, st.tuples(st.integers(0, 3), _times), max_size=60),
    st.dictionaries(_texts, _times, max_size=20),
)  # fmt: skip


@given(one=_abouts, other=_abouts)
@hypothesis_settings(max_examples=200)
def test_who_merged_profiles_are_does_not_depend_on_which_comes_first(one: About, other: About) -> None:
    merged = merge_about(one, other)
    assert merged == merge_about(other, one)
    assert merge_about(None, one) == one
    assert merged.first_seen_ms == min(one.first_seen_ms, other.first_seen_ms)
    assert merged.last_seen_ms == max(one.last_seen_ms, other.last_seen_ms)
    assert len(merged.traits) <= 64
    assert len(merged.groups) <= 20
    assert len(merged.anonymous_ids) <= 10
    assert set(merged.anonymous_ids) <= {*one.anonymous_ids, *other.anonymous_ids}
    for name, value in merged.traits.items():
        said = [(a.traits_ms[name], a.traits[name]) for a in (one, other) if name in a.traits]
        assert (merged.traits_ms[name], value) in said
        assert merged.traits_ms[name] == max(ms for ms, _ in said)


def test_a_trait_that_both_said_at_once_is_that_of_the_profile_seen_first() -> None:
    older = About(first_seen_ms=1, last_seen_ms=2, traits={"name": "An"}, traits_ms={"name": 5})
    newer = About(first_seen_ms=3, last_seen_ms=4, traits={"name": "Lan"}, traits_ms={"name": 5})
    assert merge_about(newer, older).traits == {"name": "An"}


# -- what must not depend on chunks, and on who was loaded from where


def test_a_days_visitors_do_not_depend_on_whether_the_merge_was_in_the_same_chunk() -> None:
    log = [event("p1", 0, (0, 0, 0), "Message Seen", "m"), merge("p1", "p0")]
    days: list[Any] = []
    for chunks in ([log], [log[:1], log[1:]]):
        folder, profiles = Folder(SIGNALS, SETTINGS), {("demo", "p1"): Profile("demo", "p1")}
        found = []
        for values in chunks:
            fx = folder.fold(decode(values), profiles, (), {}, 0)
            found += fx.visits.blob(fx.clock_ms)["visit_days"]
        days.append(sorted(found))
    assert days[0] == days[1] != []


def test_who_was_a_visitor_before_any_window_is_none_by_a_merge() -> None:
    now_minute = T0 // MINUTE_MS
    channels = {"email": now_minute - 93 * 1440, "site": now_minute - 5}
    part = Handover(
        handover="m", src=(2048, 1, 0), site="demo", profile_id="p0", loser="p1",
        fields={"about": msgspec.Raw(msgspec.json.encode(About(first_seen_ms=0, last_seen_ms=T0, channels=channels)))},
    )  # fmt: skip
    decoded = decode([encode_clock(T0), encode_handover(part)])
    profiles = {("demo", "p0"): Profile("demo", "p0")}
    fx = Folder(SIGNALS, SETTINGS).fold(decoded, profiles, (), {}, 0)
    about = profiles["demo", "p0"].about
    assert about is not None
    assert about.channels == channels
    assert {channel for _, channel in fx.visits.last} == {"site", "all"}
    assert {channel for _, channel, _ in fx.visits.days} == {"site", "all"}


def test_what_is_handed_over_is_in_one_order_so_that_its_parts_are_the_same_after_a_crash() -> None:
    world = World(random.Random(1))
    world.write("p1", event("p1", 0, (0, 0, 0), "Order Completed", "m", order_id="o", revenue=1))
    world.run()
    profile = world.profile("p1")
    names = [name for name, _ in world.folder.codec.fields(profile)]
    profile.states = dict(reversed(profile.states.items()))
    assert [name for name, _ in world.folder.codec.fields(profile)] == names
    signals = ["browse", "cart", "journey", "purchase", "reorder", "retention", "score", "steps", "surveys"]
    assert names == ["about", "contact", *signals]
