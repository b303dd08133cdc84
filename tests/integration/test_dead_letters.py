"""`tracker dead-letters` over the real Kafka: what is shown, and that a replay repeats no success."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from msgspec import Raw

from tests.harness import Site, Stack, assert_one_line, cli, eventually
from tracker.cli.dead_letters_replay import Lock
from tracker.contract.codec import partition_of
from tracker.contract.events import profile_prefix, with_profile
from tracker.contract.topics import DEAD_LETTERS, EVENTS, PROFILE_EVENTS, DeadLetter, Replay
from tracker.contract.triggers import CART_ABANDONED
from tracker.dead_letters import letter_of
from tracker.intake import Call
from tracker.rejections import MISSING_EVENT, refuse

pytestmark = pytest.mark.integration
HOUR_MS = 3_600_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def letter(site: Site, event: Any, *, at_ms: int | None = None, index: int = 0, **call: Any) -> bytes:
    """What the endpoint writes of an event that it refused by a rule that it no longer has."""
    original = event if isinstance(event, bytes) else json.dumps(event).encode()
    came = Call(site.name, "client", now_ms() if at_ms is None else at_ms, lambda: "", 32 * 1024, **call)
    return letter_of(original, index, refuse(MISSING_EVENT), came)


async def put(stack: Stack, *letters: bytes) -> list[str]:
    """-> their positions."""
    async with AIOKafkaProducer(bootstrap_servers=stack.settings.kafka) as producer:
        acks = [await producer.send(DEAD_LETTERS, value) for value in letters]
        return [f"0:{(await ack).offset}" for ack in acks]


async def run(stack: Stack, *args: str, code: int = 0) -> str:
    """`tracker dead-letters ARGS`: what it prints."""
    done = await asyncio.to_thread(cli, "dead-letters", *args, cwd=stack.folder, **of(stack))
    assert done.returncode == code, done
    return done.stdout


def of(stack: Stack) -> dict[str, Any]:
    settings = stack.settings
    return {"kafka": settings.kafka, "partitions": settings.partitions, "session_timeout_s": 6, "config": stack.config}


async def counted(stack: Stack, site: Site) -> dict[str, int]:
    path = f"/api/v1/sites/{site.name}/counters?window=24h&by=event"
    status, answer = await stack.request("GET", path, bearer=site.secret_key)
    assert status == 200, answer
    return {group["key"]: group["count"] for group in answer["groups"]}


async def test_list_tells_of_each_letter_what_it_is_and_what_became_of_it(stack: Stack) -> None:
    site = stack.site()
    old = letter(site, {"type": "track", "event": "Old"}, at_ms=now_ms() - 3 * HOUR_MS)
    evil = {"type": "track", "event": "\x1b[31m[red]", "x": "y" * 40_000}
    positions = await put(stack, old, letter(site, evil), letter(site, b"\x1b]0;evil\x07[bold]"))
    lines = (await run(stack, "list", "--site", site.name)).splitlines()
    assert lines[0].split() == ["POSITION", "TIME", "SITE", "REASON", "DETAIL", "BYTES", "STATE"]
    assert [line.split()[0] for line in lines[1:]] == positions
    assert [line.split()[-1] for line in lines[1:]] == ["dead", "incomplete", "dead"]
    assert all(site.name in line and "missing_event" in line for line in lines[1:])
    rows = [json.loads(line) for line in (await run(stack, "list", "--site", site.name, "--json")).splitlines()]
    assert [row["position"] for row in rows] == positions
    assert rows[1]["bytes"] > 40_000

    async def positions_of(*args: str) -> list[str]:
        out = await run(stack, "list", "--site", site.name, "--json", *args)
        return [json.loads(line)["position"] for line in out.splitlines()]

    assert await positions_of("--since", "2h") == positions[1:]
    assert await positions_of("--since", "999999d") == positions
    assert await positions_of("--since", "1960-01-01") == positions
    assert await positions_of("--limit", "1") == positions[2:]
    assert await positions_of("--reason", "too_deep") == []
    assert await positions_of("--stage", "signals") == []


async def test_show_has_the_bytes_and_nothing_in_them_acts_on_the_terminal(stack: Stack) -> None:
    site = stack.site()
    positions = await put(
        stack, letter(site, b'{"type":"track",\n"event":"\x1b]0;evil\x07\xff\xc2\x9b31m"}'),
        letter(site, {"type": "page", "userId": "u"}, context=Raw(b'{"library":{"name":"x\\u001b"}}')),
    )  # fmt: skip
    shown = await run(stack, "show", positions[0])
    assert '{"type":"track",\n"event":"\\x1b]0;evil\\x07\\xff\\x9b31m"}\n' in shown
    assert "still refused: invalid_json" in shown
    shown = await run(stack, "show", positions[1].removeprefix("0:"))
    assert f"now          goes to {EVENTS}" in shown
    assert '"library"' in shown


async def test_a_replay_puts_the_event_where_it_would_have_been_and_repeats_no_success(stack: Stack) -> None:
    site = stack.site()
    at_ms = now_ms() - 2 * HOUR_MS
    sent_at = "2026-01-01T00:00:10Z"
    event = {"type": "track", "event": "Thing Done", "userId": "u", "timestamp": "2026-01-01T00:00:00Z"}
    call: dict[str, Any] = {"sent_at": sent_at, "message_id": "batch", "context": Raw(b'{"library":{"name":"x"}}')}
    await put(
        stack, letter(site, event, at_ms=at_ms, index=3, **call), letter(site, event | {"userId": "w"}, at_ms=at_ms),
        letter(site, {"type": "track", "userId": "u"}), letter(site, {"type": "track", "x": "y" * 40_000}),
    )  # fmt: skip
    assert (await run(stack, "replay", "--site", site.name, "--dry-run")).split("\n")[:3] == [
        "       1 stays dead: incomplete", "       1 stays dead: missing_event", "       2 would be replayed",
    ]  # fmt: skip
    for first in (True, False):
        out = await run(stack, "replay", "--site", site.name)
        assert sorted(out.splitlines()) == [
            "       1 stays dead: incomplete", "       1 stays dead: missing_event",
            f"       2 {'replayed' if first else 'was replayed before'}",
        ]  # fmt: skip
    found = await stack.consume(EVENTS, 3, site=site, timeout_s=1.5)
    assert len(found) == 2
    events = {e["userId"]: e for e in found}
    assert events["u"]["messageId"] == "batch-3"
    assert events["u"]["context"]["library"] == {"name": "x"}
    assert events["u"]["receivedAtMs"] == events["w"]["receivedAtMs"] == at_ms
    assert events["u"]["timestampMs"] == at_ms - 10_000  # by the clock of then
    assert events["w"]["messageId"].startswith(f"dead-letter-{at_ms:x}-")
    states = [line.split()[-1] for line in (await run(stack, "list", "--site", site.name)).splitlines()[1:]]
    assert states == ["replayed", "replayed", "dead", "incomplete"]
    assert len(await stack.consume(DEAD_LETTERS, 9, site=site, timeout_s=1)) == 4  # no new copy of any


async def test_a_batch_that_a_crash_cut_in_two_is_finished_and_has_its_effect_once(stack: Stack) -> None:
    site, other = stack.site(), stack.site()
    events = [{"type": "track", "event": "Thing Done", "userId": f"u{i}"} for i in range(3)]
    positions = await put(stack, *(letter(site, event) for event in events))
    offsets = [int(position.removeprefix("0:")) for position in positions]
    # As if the replay of the three had been killed after it had published the first.
    await put(stack, msgspec.json.encode(Replay(replay="begun", at_ms=now_ms(), letters=offsets)))
    assert '"begun"' in await run(stack, "list", "--site", site.name, "--json")
    [row, *_] = [json.loads(x) for x in (await run(stack, "list", "--site", site.name, "--json")).splitlines()]
    published = {
        "site": site.name, "timestampMs": row["atMs"], "receivedAtMs": row["atMs"], "channel": "site",
        "messageId": f"dead-letter-{row['atMs']:x}-{offsets[0]}", **events[0],
    }  # fmt: skip
    async with AIOKafkaProducer(bootstrap_servers=stack.settings.kafka) as producer:
        partition = partition_of(b"u0", stack.settings.partitions)
        await producer.send_and_wait(EVENTS, json.dumps(published).encode(), b"u0", partition)
    out = await run(stack, "replay", "--site", other.name)  # whatever is asked for, it comes first
    assert "       3 replayed\n" in out
    ids = [e["messageId"] for e in await stack.consume(EVENTS, 4, site=site)]
    assert sorted(Counter(ids).values()) == [1, 1, 2]
    assert ids.count(published["messageId"]) == 2
    await eventually(lambda: counted_is(stack, site, {"Thing Done": 3}))
    assert "replayed" not in await run(stack, "replay", "--site", other.name)


async def counted_is(stack: Stack, site: Site, wanted: dict[str, int]) -> bool:
    found = await counted(stack, site)
    assert found == wanted
    return True


async def test_kill_9_in_mid_replay_loses_and_repeats_nothing(stack: Stack) -> None:
    site, letters = stack.site(), 900
    await put(stack, *(letter(site, {"type": "page", "userId": f"u{i % 50}"}) for i in range(letters)))
    killed = stack.command("replay", "dead-letters", "replay", "--site", site.name, session_timeout_s=6).start()
    try:
        # In the middle of it: its first events are in Kafka.
        await stack.consume(EVENTS, 1, site=site)
    finally:
        killed.kill()
    assert killed.process is not None
    assert killed.process.returncode == -signal.SIGKILL, "it was done before it could be killed"
    out = await run(stack, "replay", "--site", site.name)
    done = Counter({line.split(None, 1)[1]: int(line.split()[0]) for line in out.splitlines()})
    assert done["replayed"] + done["was replayed before"] == letters
    ids = [e["messageId"] for e in await stack.consume(EVENTS, letters + 201, site=site, timeout_s=4)]
    assert len(set(ids)) == letters
    assert len(ids) <= letters + 200
    await eventually(lambda: counted_is(stack, site, {"page": letters}))


async def test_two_replays_at_once_are_one_and_a_clear_error(stack: Stack) -> None:
    site = stack.site()
    await put(stack, letter(site, {"type": "page", "userId": "u"}))
    settings = msgspec.structs.replace(stack.settings, session_timeout_s=6.0)
    async with Lock(settings) as lock:
        done = await asyncio.to_thread(
            cli, "dead-letters", "replay", "--site", site.name, cwd=stack.folder, **of(stack)
        )
        assert_one_line(done, 1, "another replay is running")
        await lock.check()  # the first has it still
    assert "       1 replayed\n" in await run(stack, "replay", "--site", site.name)


async def test_a_workers_letters_go_back_to_their_topics(stack: Stack) -> None:
    site = stack.site()
    at_ms = now_ms()
    event: dict[str, Any] = {
        "site": site.name, "type": "track", "event": "Product Added", "messageId": "m1", "timestampMs": at_ms,
        "receivedAtMs": at_ms, "channel": "site", "anonymousId": "a1",
        "properties": {"product_id": "p", "price": 10, "quantity": 1, "currency": "VND"},
    }  # fmt: skip
    plain = {**event, "event": "Thing Done", "messageId": "m2", "anonymousId": "a2"}
    profile = b"6f1c1d6e-0000-4000-8000-%012x" % (at_ms % 2**40)
    source = 1000  # no partition is called so: nobody else's events are from there
    home = partition_of(profile, stack.settings.partitions)
    nobody = json.dumps({**plain, "anonymousId": "null"}).encode()

    def found(stage: str, topic: str, partition: int, reason: str, original: bytes, key: bytes | None) -> bytes:
        return msgspec.json.encode(
            DeadLetter(
                reason=reason, detail="", stage=stage, at_ms=at_ms, original=original, topic=topic,
                partition=partition, offset=0, key=key,
            )
        )  # fmt: skip

    spliced = with_profile(json.dumps(event).encode(), profile_prefix(profile, source), 5, 0)
    # One that stood behind it has had its effect since.
    later = json.dumps({**event, "type": "page", "event": None, "messageId": "m3", "anonymousId": "a3"}).encode()
    later = with_profile(later, profile_prefix(profile, source), 6, 0)
    async with AIOKafkaProducer(bootstrap_servers=stack.settings.kafka) as producer:
        await producer.send_and_wait(PROFILE_EVENTS, later, profile, home)
    await eventually(lambda: counted_is(stack, site, {"page": 1}))
    await put(
        stack,
        found("resolve", EVENTS, partition_of(b"a2", stack.settings.partitions), "not_an_event",
              json.dumps(plain).encode(), b"a2"),
        found("resolve", EVENTS, 0, "no_identity", nobody, None),
        found("signals", PROFILE_EVENTS, home, "fold_failed", spliced, profile),
    )  # fmt: skip
    for outcome in ("replayed", "was replayed before"):
        out = await run(stack, "replay", "--site", site.name)
        assert f"       2 {outcome}\n" in out
        assert "       1 stays dead: no_identity\n" in out
    [again] = await stack.consume(EVENTS, 2, site=site, timeout_s=2)
    assert again == plain
    # Its failed fold had counted it; now it has its effect on the cart, too.
    [trigger] = await stack.consume(CART_ABANDONED.topic, 1, site=site)
    assert trigger["data"]["items"][0]["productId"] == "p"
    await eventually(lambda: counted_is(stack, site, {"Thing Done": 1, "page": 1}))


async def test_what_cannot_be_done_is_one_line(stack: Stack) -> None:
    for args, code, part in (
        (("show", "x"), 2, "no position"),
        (("show", "1:5"), 2, "partition 0 only"),
        (("replay",), 2, "--all"),
        (("list", "--since", "yesterday"), 2, "--since"),
        (("show", "999999999"), 1, "there is no dead letter at 0:999999999"),
        (("replay", "999999999", "--dry-run"), 1, "there is no dead letter at 0:999999999"),
    ):
        done = await asyncio.to_thread(cli, "dead-letters", *args, cwd=stack.folder, **of(stack))
        assert_one_line(done, code, part)
