"""The naive fold by domain.md's vectors, and against the engine's fold on logs that need no servers."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from stream.core import cart_log
from stream.profile import ProfileCodec
from stream.signals import SIGNALS
from tests.oracle import carts, compare, fold, purchases, shop, traffic
from tests.oracle.events import EventsFold, identifiers
from tests.unit.cart_vectors import KEYS, MORE, VECTORS, Vector
from tests.unit.shop_events import T0_MS
from tests.unit.test_fold import Owner
from tests.unit.test_handover import World, merge
from tracker.contract.events import encode_clock
from tracker.contract.settings import Settings


def said(emissions: list[Any]) -> list[str]:
    """In the vectors' words."""
    out = []
    for e in emissions:
        at = f"@{(e['at_ms'] - T0_MS) / 1000:g}"
        c = e["cart"]
        stage = carts.STAGES[c["stage"]]
        match e["what"]:
            case "abandoned":
                value = shop.value_of(c["items"])
                quiet = " quiet" if e["quiet"] else ""
                out.append(f"abandoned {stage}{at} {value:g} #{c['episode']}.{c['seq']}{quiet}")
            case "converted":
                out.append(f"converted {stage}{at}")
            case "recovered":
                out.append(f"recovered by {e['order']['by']}{at}")
            case "converted_late":
                out.append(f"converted late{at}")
            case "without_cart":
                out.append(f"without cart{at}")
            case "checkout_reached" | "answered":
                pass
            case "recovery_reversed":
                out.append(f"reversed{at}")
            case what:
                out.append(f"{what}{at}")
    return out


@pytest.mark.parametrize("vector", [*VECTORS, *MORE, *KEYS], ids=lambda v: v.name)
def test_a_cart_by_the_vectors_of_domain_5_4(vector: Vector) -> None:
    log, ids = [], set[str]()
    for e in vector.events:
        if e.message_id not in ids:
            ids.add(e.message_id)
            entry = shop.entry(json.loads(msgspec.json.encode(e)))
            if entry is not None:
                log.append(entry)
    state, emitted = carts.fold(carts.NONE, log, T0_MS + round(1000 * vector.now_s), carts.Rules())
    assert carts.latest(state)["state"] == vector.state
    assert said(emitted) == list(vector.emitted)


@pytest.mark.parametrize(
    ("x", "t_x", "t", "alive", "at_least_one"),
    [
        (0, 0, 38.86, 0.389735080919, 0.108829398777),
        (0, 0, 1, 0.626076612305, 0.390389987773),
        (2, 30.43, 38.86, 0.706202265118, 0.559994090822),
        (7, 29.43, 38.86, 0.622723814169, 0.617022606904),
        (29, 5, 38.86, 4.69224460718e-17, 4.69224456e-17),
    ],
)
def test_a_risk_by_the_vectors_of_domain_4_3(
    x: int, t_x: float, t: float, alive: float, at_least_one: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"R": 0.525, "ALPHA": 6.183, "A": 0.891, "B": 1.614}.items():
        monkeypatch.setattr(purchases, name, value)
    assert purchases.p_alive(x, t_x, t) == pytest.approx(alive, rel=1e-9)
    assert 1 - purchases.risk(x, t_x, t, 39) == pytest.approx(at_least_one, rel=1e-8, abs=2e-16)


def test_the_ids_of_an_event() -> None:
    traits = {"email": " An@Shop.Example", "phone": "0901 234 567"}
    ids = {"anonymousId": "a", "userId": "u", "previousId": "b"}
    assert identifiers({"type": "alias", **ids, "traits": traits}) == [
        ("user_id", "u"), ("email", "an@shop.example"), ("phone", "+84901234567"), ("anonymous_id", "a"),
        ("anonymous_id", "b"),
    ]  # fmt: skip
    assert identifiers({"type": "identify", "anonymousId": "null", "traits": traits}) == []
    order = {"type": "track", "event": "Order Completed", "properties": traits, "userId": "guest"}
    assert [type for type, _ in identifiers(order)] == ["email", "phone"]
    assert identifiers({**order, "event": "Product Added"}) == []


def test_a_repeat_and_a_record_from_nobody_are_not_passed_on() -> None:
    events = EventsFold(3)
    one = {"site": "s", "type": "page", "messageId": "m", "receivedAtMs": 7_200_001, "anonymousId": "a"}
    for offset, record in enumerate([one, one, {**one, "messageId": "n", "anonymousId": "null"}, "no event"]):
        events.take(offset, json.dumps(record).encode())
    assert list(events.passed) == [0]
    assert events.poison == [("no_identity", 2), ("not_an_event", 3)]
    assert events.redis()["{e3}:head"] == {"next": "4", "received_at_ms": "7200001"}
    assert len(events.redis()["{e3}:seen:2"]) == 8


def test_the_first_difference_is_told_by_its_place() -> None:
    wanted = {"{p0}:c:s:m:0": {"total": "2"}, "{p0}:g": {"carts_open|s": "1"}}
    found = {"{p0}:c:s:m:0": {"total": "3"}, "{p0}:g": {"carts_open|s": "1"}, "{p0}:new": b"x"}
    assert compare.differences(wanted, found) == [
        "{p0}:c:s:m:0.total: wanted '2', found '3'", "{p0}:new: wanted None, found b'x'",
    ]  # fmt: skip


# -- the engine's fold, without servers


def scrambled(messages: list[traffic.Planned], draw: random.Random) -> list[traffic.Planned]:
    """Half of them come later than planned."""
    out = []
    for m in messages:
        delay = draw.choice([0, 0, 0, 1, 5, 30])
        out.append(replace(m, at=m.at + delay, age_s=m.age_s + delay))
    return sorted(out, key=lambda m: m.at)


def records(seed: int) -> list[bytes]:
    """Planned traffic as one partition of profile-events, received in its order; identity is its visitor's name."""
    plan = traffic.plan(seed, 900, 60, 1)
    out: list[bytes] = []
    draw = random.Random(seed)
    start_ms, clock_ms, offset = 1_795_000_000_000, 0, 0
    for m in plan.messages if seed % 2 else scrambled(plan.messages, draw):
        if m.body["messageId"] in plan.refused:
            continue
        received_ms = start_ms + round(1000 * m.at)
        # Now and then a worker was down, or nobody kept the time.
        if received_ms - clock_ms > draw.choice([1000, 1000, 20_000]):
            clock_ms = received_ms
            out.append(encode_clock(clock_ms - 2000))
        out.append(record_of(m, m.body["messageId"].split("-")[0], (0, offset, 0), received_ms))
        offset += 1
    out.append(encode_clock(start_ms + 200_000))
    return out


def record_of(m: traffic.Planned, profile: str, src: tuple[int, int, int], received_ms: int) -> bytes:
    body = {name: value for name, value in m.body.items() if name not in ("type", "event")}
    record = {
        "profileId": profile, "src": src, "site": "demo", "channel": "site", "type": m.body["type"],
        "timestampMs": received_ms - round(1000 * m.age_s), "receivedAtMs": received_ms,
    }  # fmt: skip
    record |= {"event": m.body["event"]} if "event" in m.body else {}
    return json.dumps({**record, **body}, ensure_ascii=False).encode()


@pytest.mark.parametrize("seed", range(12))
def test_the_engines_fold_and_the_naive_one_agree(seed: int) -> None:
    settings = msgspec.convert(traffic.SETTINGS, Settings)
    log = records(seed)
    owner = Owner(settings)
    draw = random.Random(seed)
    at = 0
    while at < len(log):
        n = draw.choice([1, 10, 100])
        owner.take(log[at : at + n])
        at += n
    naive = fold.ProfilesFold(0, fold.Rules.of(settings))
    for offset, value in enumerate(log):
        naive.take(offset, value)
    codec = ProfileCodec(SIGNALS)
    found: dict[str, Any] = {"{p0}:head": {"next": str(owner.next), "clock_ms": str(owner.clock_ms)}}
    found["{p0}:src"] = {str(p): f"{o}:{i}" for p, (o, i) in owner.src.items()}
    for (site, id), profile in owner.profiles.items():
        profile.changed = {"about", *profile.states}
        fields = [x if isinstance(x, str) else bytes(x)[5:].decode() for x in codec.write(profile)[1]]
        found[f"{{p0}}:v:{site}:{id}"] = dict(zip(fields[::2], fields[1::2], strict=True))
    dues = {f"{p.site}|{p.id}": p.due_ms for p in owner.profiles.values() if p.due_ms is not None}
    found |= {"{p0}:due": dues, "{p0}:g": {field: str(n) for field, n in owner.gauges.items() if n}}
    expected = {
        key: value
        for key, value in naive.redis().items()
        if not key.startswith(("{p0}:c:", "{p0}:u", "{p0}:rank:", "{p0}:sum:"))
    }
    assert compare.differences(expected, {k: v for k, v in found.items() if v}) == []
    triggers: dict[str, list[Any]] = {}
    for topic, value in owner.published:
        trigger = json.loads(value)
        triggers.setdefault(trigger["id"], []).append({"topic": topic, **trigger})
    assert compare.trigger_differences({id: [told] for id, told in naive.triggers.items()}, triggers) == []
    assert len(triggers) > 20


def merging(seed: int, settings: Settings) -> World:
    """The engine's partitions after planned traffic in which every id is a profile at first, and then, sooner or later,
    one person's profiles become one, in any order and by any chain."""
    draw = random.Random(seed)
    world = World(draw, settings)
    plan = traffic.plan(seed, 900, 60, 1)
    start_ms, clock_ms, offsets = 1_795_000_000_000, 0, [0] * 4
    todo: list[tuple[float, str, Any]] = []
    ids: dict[str, dict[str, None]] = {}
    once: set[str] = set()
    for m in scrambled(plan.messages, draw):
        if m.body["messageId"] not in plan.refused | once:  # hop 1 passes none on twice
            once.add(m.body["messageId"])
            id = m.body.get("anonymousId") or m.body["userId"]
            ids.setdefault(m.body["messageId"].split("-")[0], {})[id] = None
            todo.append((m.at, id, m))
    for each in ids.values():
        for n, loser in enumerate(list(each)[1:], 1):
            winner = list(each)[draw.randrange(n)]
            todo += [(draw.random() * 100, loser, winner) for _ in range(draw.choice([1, 1, 2]))]
    for at, id, what in sorted(todo, key=lambda x: x[0]):
        received_ms = start_ms + round(1000 * at)
        if received_ms - clock_ms > draw.choice([1000, 1000, 20_000]):
            clock_ms = received_ms
            for p in world.partitions:
                p.log.append(encode_clock(clock_ms - 2000))
        if isinstance(what, str):
            world.write(id, merge(id, what))
        else:
            source = draw.randrange(4)
            world.write(id, record_of(what, id, (source, offsets[source], 0), received_ms))
            offsets[source] += 1
        if draw.random() < 0.1:
            for p in world.partitions:
                world.step(p, draw.choice([0, 1, 10, 100]))
    world.run()
    for p in world.partitions:
        p.log.append(encode_clock(start_ms + 300_000))
    world.run()
    return world


@pytest.mark.parametrize("entries", [200, 5])  # few: much of what meets has left the logs
@pytest.mark.parametrize("seed", range(12))
def test_the_engines_fold_and_the_naive_one_agree_on_profiles_that_are_merged(
    seed: int, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cart_log, "MAX_ENTRIES", entries)
    monkeypatch.setattr(carts, "MOST_ENTRIES", entries)
    settings = msgspec.convert({**traffic.SETTINGS, "partitions": 3}, Settings)
    world = merging(seed, settings)
    folds = fold.fold_profiles({p.number: list(enumerate(p.log)) for p in world.partitions}, fold.Rules.of(settings))
    expected: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for p in world.partitions:
        tag = f"{{p{p.number}}}"
        of_fold = folds[p.number].redis()
        expected |= {k: v for k, v in of_fold.items() if not k.startswith((f"{tag}:c:", f"{tag}:ud:", f"{tag}:sum:"))}
        found[f"{tag}:head"] = {"next": str(p.next), "clock_ms": str(p.clock_ms)}
        found[f"{tag}:src"] = {str(source): f"{o}:{i}" for source, (o, i) in p.src.items()}
        for (site, id), fields in p.hashes.items():
            found[f"{tag}:v:{site}:{id}"] = {name: value.decode() for name, value in fields.items()}
        found[f"{tag}:due"] = {f"{site}|{id}": ms for (site, id), ms in p.due.items()}
        found[f"{tag}:g"] = {field: str(n) for field, n in p.gauges.items() if n}
        for (site, id), rank in p.ranks.items():
            found.setdefault(f"{tag}:rank:{site}", {})[id] = rank
        for (channel, id), minute in p.visitors.items():
            found.setdefault(f"{tag}:u:{channel}", {})[id] = minute
    assert compare.differences(expected, {k: v for k, v in found.items() if v}) == []
    triggers: dict[str, list[Any]] = {}
    for topic, value in world.published:
        trigger = json.loads(value)
        triggers.setdefault(trigger["id"], []).append({"topic": topic, **trigger})
    told: dict[str, list[Any]] = {}
    for each in folds.values():
        for id, trigger in each.triggers.items():
            told.setdefault(id, []).append(trigger)
    assert compare.trigger_differences(told, triggers) == []
    assert len(triggers) > 20
    assert any("retracts" in t[0]["data"] for t in triggers.values())
    assert sum(len(f.merged) for f in folds.values()) > 20
    assert {n for f in folds.values() for n in f.folded.values()} == {1}
    assert len(set().union(*(f.folded for f in folds.values()))) == sum(len(f.folded) for f in folds.values()) > 500
    assert not any(f.poison for f in folds.values())
    assert not any(state for f in folds.values() for state in f.handed.values())
