"""Whatever a client can send with the public write key, and whatever else is written to the topics: it is folded or it
is poison, and the workers go on. tests/integration/test_hostile.py writes the same to the real Redis."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings

from stream.core.identity import identifiers, routes
from stream.fold import Folder
from stream.packing import packb, unpackb
from stream.profile import Profile
from stream.records import decode
from stream.recovery import Logged, Recovery, rules_of
from stream.resolve import _heads
from stream.rollups import merged
from stream.signals import SIGNALS
from tests.hostile import POISON_OF_HOP_1, POISON_OF_HOP_2, SETTINGS, T0, chunks, extreme_carts, extreme_event, records
from tracker.contract import keys
from tracker.contract.codec import new_profile_id
from tracker.contract.events import LEFT, MAX_TIME_MS, encode_clock, profile_prefix, with_profile
from tracker.contract.loading import SettingsError, load
from tracker.contract.settings import MOST, Settings
from tracker.contract.topics import PROFILE_EVENTS

PID = new_profile_id("demo", "anonymous_id", "a1")


def through_hop_1(values: list[bytes | None]) -> list[bytes]:
    """What stream/resolve.py publishes of the values."""
    out = []
    for offset, (value, head) in enumerate(zip(values, _heads(values), strict=True)):
        if isinstance(head, str) or value is None:
            continue
        routes(value, head)
        if identifiers(value, head, "VN"):
            out.append(with_profile(value, profile_prefix(PID.encode(), 3), offset, 0))
    return out


def folded(values: list[bytes | None], folder: Folder, profiles: dict[tuple[str, str], Profile]) -> Any:
    """The argument of apply.lua, as Redis gets it; each profile is written and read again."""
    decoded = decode(values, 3, range(len(values)))
    for key in decoded.profiles:
        profiles.setdefault(key, Profile(*key))
    due = [key for key, p in profiles.items() if p.due_ms is not None and p.due_ms <= (decoded.clock_ms or 0)]
    fx = folder.fold(decoded, profiles, due, {}, 0)
    made = folder.blob(fx, epoch=1, seq=0, base=0, next=1)
    assert packb(made)
    blob = unpackb(packb({**made, "out": [], "models": []}))  # these are bytes, which Redis reads as such
    for part, fields in blob["writes"]:
        site, _, id = part.rpartition(":")
        profiles[site, id] = folder.codec.decode(site, id, fields)
    for _, _, _, names, counts in blob["counts"]:
        assert all(0 <= n <= keys.MAX_COUNT for n in counts), names
    return blob, fx


@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(chunks)
def test_no_record_of_a_topic_ends_a_worker(values: list[bytes]) -> None:
    folder, profiles = Folder(SIGNALS, SETTINGS), dict[tuple[str, str], Profile]()
    published = through_hop_1(list(values))
    folded([*published, *values, encode_clock(T0 + 10**9), *values, encode_clock(T0 + 10**11)], folder, profiles)
    recovery, lost = Recovery(None, SETTINGS), {3: Logged(0)}  # type: ignore[arg-type]  # it only reads
    for value in (*published, *values):
        recovery._note(PROFILE_EVENTS, 0, value, lost, set(), {})


@hypothesis_settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(records)
def test_what_a_client_can_say_is_never_a_signals_failure(values: list[bytes]) -> None:
    """Of those the limits of poison would stop the worker."""
    folder, profiles = Folder(SIGNALS, SETTINGS), dict[tuple[str, str], Profile]()
    published = through_hop_1(list(values))
    assert len(published) == len(values)
    _, fx = folded([*published, encode_clock(T0 + 10**9)], folder, profiles)
    assert fx.poison == []


def test_the_dearest_cart_is_abandoned_and_then_ordered() -> None:
    folder, profiles = Folder(SIGNALS, SETTINGS), dict[tuple[str, str], Profile]()
    chunks = extreme_carts()
    names: dict[str, int] = {}
    for chunk in chunks:
        blob, fx = folded(chunk, folder, profiles)
        assert fx.poison == []
        for _, _, _, fields, counts in blob["counts"]:
            names |= dict(zip(fields, counts, strict=True))
    revenue = {name: n for name, n in names.items() if name.startswith("cart_revenue|")}
    assert revenue == {"cart_revenue|KWD|organic": 10**15}
    assert names["sum"] <= keys.MAX_COUNT


def durations(least: bool) -> dict[str, str]:
    """Every setting that is a time and has to do with what is folded, at its least or its most."""
    chosen = {}
    for field in msgspec.structs.fields(Settings):
        meta = next((m for m in getattr(field.type, "__metadata__", ()) if isinstance(m, msgspec.Meta)), None)
        if meta is None or (meta.extra or {}).get("unit") not in MOST or field.name.startswith(("hang", "stuck")):
            continue
        low = meta.ge if meta.ge is not None else 1e-6
        chosen[f"TRACKER_{field.name.upper()}"] = str(low if least else meta.le)
    return chosen


@pytest.mark.parametrize("least", [True, False], ids=["least", "most"])
def test_a_setting_at_its_bound_is_no_signals_failure(least: bool) -> None:
    chosen = durations(least) | {"TRACKER_DEMO": "1", "TRACKER_HEAD_TIMEOUT_S": "1", "TRACKER_REQUEST_TIMEOUT_S": "1"}
    settings = load(chosen)
    assert settings.cart_idle_s == (1e-6 if least else MOST["s"])
    assert packb(rules_of(settings))
    folder, profiles = Folder(SIGNALS, settings), dict[tuple[str, str], Profile]()
    clocks: list[list[bytes | None]] = [[encode_clock(T0 + 10**10)], [encode_clock(MAX_TIME_MS)]]
    for n, chunk in enumerate([*extreme_carts(), *clocks]):
        blob, fx = folded(chunk, folder, profiles)
        assert fx.poison == [], n
        assert not any(name == "timers_failed_total" for name, _ in fx.metrics)
        assert 0 < blob["ttl"] < 2**32


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cart_idle_s", "inf"), ("cart_idle_s", "1e300"), ("stale_s", "1e10"), ("route_ttl_d", "inf"),
        ("profile_ttl_d", "1000000000000"), ("id_limit_email", "9" * 20), ("session_timeout_s", "1e9"),
        ("rate_limit_key_events_s", "inf"), ("fetch_max_wait_ms", "30000"), ("poison_run", "1" * 30),
    ],
)  # fmt: skip
def test_a_setting_beyond_its_bound_is_told(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^TRACKER_{name.upper()}: ") as e:
        load({f"TRACKER_{name.upper()}": value})
    assert "\n" not in str(e.value)


def test_increments_that_add_up_to_more_than_redis_can_count_stand_still_at_its_most() -> None:
    folder = Folder(SIGNALS, SETTINGS)
    decoded = decode([msgspec.json.encode(extreme_event(0, "Page Engaged", {}))])
    fx = folder.fold(decoded, {key: Profile(*key) for key in decoded.profiles}, (), {}, 0)
    fx.extra["demo", T0 // 60_000 * 60] = {"cart_revenue|USD|": 2**70, "cart|opened": 1}
    (row,) = [row for row in folder.blob(fx, epoch=1, seq=0, base=0, next=1)["counts"] if row[1] == "site"]
    counts = dict(zip(row[3], row[4], strict=True))
    assert counts["cart_revenue|USD|"] == counts["sum"] == keys.MAX_COUNT
    assert counts["cart|opened"] == 1


def test_rolled_up_days_stand_still_at_the_same_most() -> None:
    full = ["sum", keys.MAX_COUNT, "total", keys.MAX_COUNT - 1, "event|a", 1]
    assert merged([full, full, full]) == (keys.MAX_COUNT, {"total": keys.MAX_COUNT, "event|a": 3})


@pytest.mark.parametrize("value", POISON_OF_HOP_1)
def test_poison_of_hop_1_has_no_effect_beyond_itself(value: bytes) -> None:
    good = msgspec.json.encode(extreme_event(0, "page", {}))
    assert with_profile(good, profile_prefix(PID.encode(), 3), 1, 0) == through_hop_1([value, good])[-1]


def test_an_event_that_begins_with_spaces_is_an_event() -> None:
    event = {name: value for name, value in extreme_event(0, "page", {}).items() if name not in ("profileId", "src")}
    (published,) = through_hop_1([b" \t\r\n" + msgspec.json.encode(event)])
    decoded = decode([published])
    assert decoded.poison == []
    assert decoded.profiles == {("demo", PID)}


@pytest.mark.parametrize("value", POISON_OF_HOP_2)
def test_poison_of_hop_2_has_no_effect_beyond_itself(value: bytes) -> None:
    folder, profiles = Folder(SIGNALS, SETTINGS), dict[tuple[str, str], Profile]()
    good = msgspec.json.encode({**extreme_event(0, "Product Viewed", {}), "src": [3, 9, 0]})
    _, fx = folded([value, good], folder, profiles)
    assert T0 in fx.received
    assert all(p.index == 0 for p in fx.poison)


def test_recovery_reads_past_what_is_no_profile() -> None:
    recovery, waiting = Recovery(None, SETTINGS), dict[str, Any]()  # type: ignore[arg-type]  # it only reads
    lost = {3: Logged(0)}
    event = extreme_event(0, "page", {})
    for id, src in (("no-uuid", [3, 1, 0]), (PID.upper(), [3, 2, 0]), (PID, [3, 3, 0]), (PID, [LEFT + 3, 4, 0])):
        value = msgspec.json.encode({**event, "profileId": id, "src": src})
        recovery._note(PROFILE_EVENTS, 0, value, lost, set(), waiting)
    merge = b'{"mergeId":"m","site":"demo","winner":"w","loser":"l","rule":"r","messageId":"i","atMs":1}'
    recovery._note(PROFILE_EVENTS, 0, merge, lost, set(), waiting)
    assert sorted(lost[3].decided) == [3, 4]
    assert waiting["demo"][0] == []
