"""`tracker fold`: the vectors from outside, in every order of their lines; other signals; a user's mistakes."""

from __future__ import annotations

import io
import json
import sys
from itertools import permutations
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from stream.core.cart_log import MAX_LOG_MS
from tests.unit.cart_vectors import KEYS, MORE, VECTORS, Vector
from tests.unit.shop_events import T0_MS, H, add, order
from tracker.cli import run
from tracker.cli.fold import NAMES, time_ms
from tracker.contract.events import ProfileEvent
from tracker.contract.examples import MESSAGES

SHORT: Final = [
    v for v in (*VECTORS, *MORE, *KEYS)
    if len(v.events) <= 3 and v.events[-1].timestamp_ms - v.events[0].timestamp_ms <= MAX_LOG_MS
]  # fmt: skip
"""Those whose lines are tried in every order here; tests/unit/test_cart.py has the others."""


@pytest.fixture(autouse=True)
def no_settings_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRACKER_CONFIG", raising=False)


def line(e: ProfileEvent) -> dict[str, Any]:
    """The event as a client sends it; times in seconds."""
    what = {"event": e.event} if e.event else {"type": e.type, "context": {"campaign": e.campaign}}
    return {
        **json.loads(msgspec.json.encode(what)), "messageId": e.message_id,
        "timestamp": (e.timestamp_ms - T0_MS) / 1000,
        "properties": json.loads(bytes(e.properties)),  # type: ignore[arg-type]
    }  # fmt: skip


def fold(
    lines: list[dict[str, Any]],
    now: object,
    capsys: pytest.CaptureFixture[str],
    signal: str = "cart",
    start: bytes = b"",
) -> Any:
    text = "\n".join(json.dumps(x) for x in lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(start + text.encode())))
        assert run(["fold", "--signal", signal, "-", "--now", str(now)]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_file_of_a_windows_editor_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line(add(0))]
    assert fold(lines, 60, capsys, start=b"\xef\xbb\xbf") == fold(lines, 60, capsys)


def said(emissions: list[dict[str, Any]]) -> list[str]:
    """In the vectors' words (tests/unit/cart_vectors.py)."""
    out = []
    for e in emissions:
        at = f"@{time_ms(e['time']) / 1000:g}"
        what = e["type"].removeprefix("cart.")
        if what == "abandoned":
            quiet = " quiet" if e["suppressed"] else ""
            out.append(f"abandoned {e['stage']}{at} {e['value']:g} #{e['episode']}.{e['seq']}{quiet}")
        elif what == "recovered":
            out.append(f"recovered by {e['by']}{at}")
        elif what == "converted":
            out.append(f"converted {e['stage']}{at}")
        elif what != "order.completed":
            words = {"order.without_cart": "without cart", "converted_late": "converted late"}
            out.append(f"{words.get(what, what).removeprefix('recovery_')}{at}")
    return out


@pytest.mark.parametrize("vector", [*VECTORS, *MORE, *KEYS], ids=lambda v: v.name)
def test_a_vector_from_outside(vector: Vector, capsys: pytest.CaptureFixture[str]) -> None:
    found = fold([line(e) for e in vector.events], vector.now_s, capsys)
    assert found["state"]["state"] == vector.state.upper()
    assert said(found["emissions"]) == list(vector.emitted)
    loud = [e["id"] for e in found["emissions"] if e["type"] == "cart.abandoned" and not e["suppressed"]]
    assert [t["id"] for t in found["triggers"] if t["type"] == "tracker.cart_abandoned.v1"] == loud


@pytest.mark.parametrize("vector", SHORT, ids=lambda v: v.name)
def test_every_order_of_lines_ends_the_same(vector: Vector, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line(e) for e in vector.events]
    ends = []
    for arrival in permutations(lines):
        found = fold(list(arrival), vector.now_s, capsys)
        standing = [e for e in found["emissions"] if not e.get("retracted") and "retracts" not in e]
        told = sorted(json.dumps({**e, "id": None, "suppressed": None}) for e in standing)
        ends.append((found["state"], told))
        assert sorted(said(standing)) == sorted(vector.emitted)
    assert all(end == ends[0] for end in ends)


def test_a_late_order_takes_an_abandonment_back_and_both_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line(add(0)), {**line(order(60)), "receivedAt": 2 * H}]
    found = fold(lines, 3 * H, capsys)
    told, retraction = found["triggers"]
    assert retraction["data"]["retracts"] == told["id"]
    taken, back = (e for e in found["emissions"] if "abandon" in e["type"])
    assert (taken["id"], taken["retracted"]) == (told["id"], True)
    assert (back["id"], back["retracts"]) == (retraction["id"], told["id"])
    assert said([taken, back]) == ["abandoned cart@3600 10 #1.1", "abandonment_retracted@7200"]
    assert found["state"]["state"] == "CONVERTED"


def test_what_is_suppressed_is_shown_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    found = fold([line(add(0)), line(add(2 * H))], 4 * H, capsys)
    assert [(s["kind"], s["reason"]) for s in found["suppressed"]] == [("cart_abandoned", "repeat")]
    assert len(found["triggers"]) == 1
    assert time_ms(found["due"]) == (3 * H + 7 * 86400) * 1000


@pytest.mark.parametrize("signal", ["cart", "browse"])
def test_what_waits_for_the_morning_goes_out_then_if_it_is_still_true(
    signal: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("tracker.toml").write_text(
        '[sites.shop]\nwrite_key = "w-of-the-shop-1"\nsecret_key = "s-of-the-shop-1"\ntime_zone = "UTC"\n'
        '[sites.shop.triggers]\nquiet_hours = "00:30-08:00"\n'
    )
    name = {"cart": "Product Added", "browse": "Product Viewed"}[signal]
    left = [{"event": name, "timestamp": n, "properties": {"product_id": "A", "category": "tea"}} for n in (0, 1)]
    night = fold(left, 2 * H, capsys, signal)
    (held,) = night["held"]
    assert (held["kind"], held["until"]) == (f"{signal}_abandoned", "1970-01-01T08:00:00.000Z")
    assert (night["triggers"], night["suppressed"]) == ([], [])
    morning = fold(left, 8 * H, capsys, signal)
    assert [(t["id"], t["time"]) for t in morning["triggers"]] == [(held["id"], held["time"])]
    assert (morning["held"], len(morning["emissions"])) == ([], len(night["emissions"]))
    bought = fold([*left, {"event": "Order Completed", "timestamp": 3 * H}], 8 * H, capsys, signal)
    assert [s["reason"] for s in bought["suppressed"]] == ["void"]
    assert [t for t in bought["triggers"] if t["type"] == f"tracker.{signal}_abandoned.v1"] == []
    if signal == "browse":
        assert [e["suppressed"] for e in bought["emissions"]] == ["void"]


def test_lines_that_share_an_id_are_one_person_and_others_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        {**line(add(0)), "anonymousId": "phone"},
        {**line(add(1, "B")), "anonymousId": "laptop", "userId": "u1"},
        line(add(2, "C")),  # of the person of the line before
        {**line(add(3)), "anonymousId": "stranger"},
        {"type": "alias", "previousId": "phone", "userId": "u1", "timestamp": 4},
    ]
    one, other = fold(lines, 10, capsys)["profiles"]
    assert [i["product_id"] for i in one["state"]["items"]] == ["A", "B", "C"]
    assert [i["product_id"] for i in other["state"]["items"]] == ["A"]


def test_what_everybody_sends_makes_nobody_one_person(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        {**line(add(0)), "userId": "null", "anonymousId": "a1"},
        {**line(add(1, "B")), "userId": "null", "anonymousId": "a2"},
        {**line(add(2, "C")), "anonymousId": "undefined"},  # of the person of the line before
    ]
    one, other = fold(lines, 10, capsys)["profiles"]
    assert [i["product_id"] for i in one["state"]["items"]] == ["A"]
    assert [i["product_id"] for i in other["state"]["items"]] == ["B", "C"]


def test_names_and_times_of_every_kind_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[dict[str, Any]] = [
        {"event": "add_to_cart", "timestamp": 1_790_000_000, "properties": {"items": [{"item_id": "A", "price": 3}]}},
        {"event": "view_cart", "timestamp": 1_790_000_001_000, "properties": {"items": [{"item_id": "B", "price": 4}]}},
        {"event": "begin_checkout", "timestamp": "2026-09-21T21:13:22+07:00"},
        {"event": "Order Completed", "timestamp": "2026-09-22"},
    ]
    found = fold(lines, "2026-09-21T14:43:22Z", capsys)
    state = found["state"]
    assert (state["state"], state["stage"], state["value"]) == ("ABANDONED", "checkout", 4)
    assert state["last_activity"] == "2026-09-21T14:13:22.000Z"
    assert found["skipped"] == [{"line": 4, "reason": "later than --now"}]


def test_sessions_are_counted_without_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    """Domain: A004, A106. Pages at 0, 29 and 60 minutes, and a day later."""
    lines = [{"type": "page", "timestamp": t * 60} for t in (0, 29, 60, 1500)]
    state = fold(lines, 1500 * 60, capsys, "activity")["state"]
    assert [state[name] for name in ("sessions", "sessions_7d", "sessions_30d")] == [3, 3, 3]
    assert state["mean_gap_h"] == 25 / 2
    alone = fold(lines[:2], 1800, capsys, "activity")["state"]
    assert (alone["sessions"], alone["mean_gap_h"]) == (1, None)


def test_a_repeated_message_counts_once(capsys: pytest.CaptureFixture[str]) -> None:
    twice = [line(order(0, id="m")), line(order(1, "o2", id="m"))]
    found = fold(twice, 10, capsys)
    assert len(found["state"]["orders"]) == 1
    assert found["skipped"][0]["line"] == 2


@pytest.mark.parametrize("name", NAMES)
def test_every_signal_can_be_asked(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{**MESSAGES[m], "timestamp": i} for i, m in enumerate(MESSAGES)]
    found = fold(lines, 400 * 86400, capsys, name)
    profiles = found.get("profiles", [found])
    assert any(p["state"] for p in profiles) or name in (
        "segments",
        "rules",
    )  # without a configuration: nothing
    for p in profiles:
        assert {"state", "emissions", "triggers", "suppressed", "due"} <= p.keys()
        assert [e for e in p["emissions"] if "type" not in e or "time" not in e] == []
        ids = {e.get("id") for e in p["emissions"]}
        assert {t["id"] for t in (*p["triggers"], *p["suppressed"])} <= ids


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('{"event":"Product Added","timestamp":0}\n{"event":', ("line 2", "no JSON object")),
        ('{"event":"Product Added"}', ("line 1", "no timestamp")),
        ('{"event":"Product Added","timestamp":"soon"}', ("line 1", "'soon' is no ISO 8601 time")),
        ('{"event":"Product Added","timestamp":-1}', ("line 1", "1970")),
        ('\n{"type":"track","timestamp":0}', ("line 2", "missing_event")),
        ('{"event":"Product Added","timestamp":0,"properties":[]}', ("line 1", "wrong_type", "$.properties")),
    ],
)
def test_a_bad_line_is_one_line_with_its_number(
    text: str, parts: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(text)
    assert run(["fold", "--signal", "cart", str(path), "--now", "10"]) == 1
    out = capsys.readouterr()
    assert out.out == ""
    assert len(out.err.splitlines()) == 1
    for part in parts:
        assert part in out.err


def test_a_wrong_now_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_text("")
    assert run(["fold", "--signal", "cart", "x", "--now", "today"]) == 2
    assert "--now" in capsys.readouterr().err


def test_of_equal_times_the_order_of_the_file_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """Also beyond nine lines, whose numbers are no texts in order."""
    lines = [{"event": "Product Added", "timestamp": 0, "properties": {"product_id": str(n)}} for n in range(12)]
    lines.append({"event": "Cart Viewed", "timestamp": 0, "properties": {"products": []}})
    assert fold(lines, 7200, capsys)["state"]["state"] == "EMPTY"


def test_a_file_without_events_has_an_answer_of_the_same_shape(capsys: pytest.CaptureFixture[str]) -> None:
    found = fold([], 10, capsys)
    one = fold([{"event": "Unknown", "timestamp": 0}], 10, capsys)
    assert found.keys() == one.keys()
    assert (found["state"], found["emissions"], found["triggers"], found["due"]) == (None, [], [], None)


def test_churn_is_that_of_purchases(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"event": "Order Completed", "timestamp": 0, "properties": {"order_id": "1", "total": 5}}]
    assert fold(lines, 10, capsys, "churn") == fold(lines, 10, capsys, "purchase")
