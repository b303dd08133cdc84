"""One run of the oracle: send planned traffic, disturb the stack meanwhile, let it settle, compare everything.

The seed plans the traffic and the disturbances; both are printed with it. Only the machine's timing differs from run to
run, so a failure keeps its logs (`Outcome.keep`), too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any
from zlib import crc32

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from redis.exceptions import RedisError

from tests.faults import frozen, redis_port, restart_kafka, rewind_redis
from tests.harness import Site, Stack, await_redis, cli, eventually, request
from tests.oracle import compare, people, state, traffic
from tests.oracle.events import EventsFold, Json, parsed
from tests.oracle.fold import FORWARDED, LEFT, Log, ProfilesFold, Rules, fold_profiles
from tracker.contract.topics import DEAD_LETTERS, EVENTS, MERGES, PROFILE_EVENTS
from tracker.contract.triggers import TRIGGER_KINDS
from tracker.embedded.process import Child

SESSION_S = 6.0
"""Kafka takes no shorter one."""
MAX_POLL_S = 7.0
LOST_BYTES = 256 << 10
"""Less than a second's; one apply of a worker that catches up may be 100 KB."""
SETTINGS: dict[str, Any] = {
    **traffic.SETTINGS, "partitions": 16, "session_timeout_s": SESSION_S, "max_poll_interval_s": MAX_POLL_S,
    "profile_cache_bytes": 64 << 10, "max_chunk_records": 300,
}  # fmt: skip
"""Of the stack: a small cache and small chunks, so that profiles leave memory and chunks are many."""


class Run:
    """A stack under traffic."""

    def __init__(self, stack: Stack, seed: int, events: int, duration_s: float) -> None:
        self.stack, self.seed = stack, seed
        self.site: Site = stack.site()
        self.draw = random.Random(seed + 1)
        self.duration_s = duration_s
        self.plan = traffic.plan(seed, events, duration_s, stack.settings.partitions)
        self.workers: list[Child] = [stack.worker]
        names = {"anonymousId": "anonymous_id", "userId": "user_id"}
        self.people = [
            sorted(f"{names[name]}={value}" for name, _, value in (id.partition("=") for id in ids))
            for ids in self.plan.users.values()
        ]
        """Of whom an operator may take an id off, as TYPE=VALUE."""
        self.operator = random.Random(seed + 2)
        """Draws apart, so that a seed's disturbances stay what they were."""
        self.lags: dict[str, set[int]] = defaultdict(set)
        """messageId -> sentAt - originalTimestamp of each time that it was sent, ms."""
        self.acked: set[str] = set()
        self.tries: Counter[str] = Counter()
        self.said: list[str] = []
        self.began_s = 0.0

    def say(self, text: str) -> None:
        self.said.append(f"{time.monotonic() - self.began_s:6.1f} s  {text}")

    # -- sending

    async def send(self) -> None:
        """All messages at their times, in batches; what is not answered is sent again, under the same messageIds."""
        messages, i = self.plan.messages, 0
        while i < len(messages):
            n = self.draw.choice([20, 100, 300, 500])
            first, batch = messages[i], messages[i : i + n]
            batch = [m for m in batch if m.at - first.at < 0.5 and m.secret == first.secret][: self.until_other(batch)]
            i += len(batch)
            await asyncio.sleep(max(0.0, self.began_s + first.at - time.monotonic()))
            await self._deliver(batch)

    @staticmethod
    def until_other(batch: list[traffic.Planned]) -> int:
        """How many of a batch go with one key, in order."""
        return next(
            (n for n, m in enumerate(batch) if m.secret != batch[0].secret or m.at - batch[0].at >= 0.5), len(batch)
        )

    async def _deliver(self, batch: list[traffic.Planned]) -> None:
        key = self.site.secret_key if batch[0].secret else self.site.write_key
        for again in range(200):
            now_s = time.time()
            bodies = [self._timed(m, now_s) for m in batch]
            try:
                status, answer = await asyncio.to_thread(
                    request, "POST", f"{self.stack.http}/v1/batch", {"batch": bodies}, key
                )
            except (OSError, HTTPException):
                status, answer = 0, None
            self.tries[f"HTTP {status or 'no answer'}"] += 1
            if status == 200:
                self.acked |= {m.body["messageId"] for m in batch}
                return
            assert status == 0 or status >= 500, (status, answer)
            await asyncio.sleep(min(1.0, 0.1 * (again + 1)))
        raise AssertionError("the endpoint takes nothing")

    def _timed(self, m: traffic.Planned, now_s: float) -> Json:
        sent_ms = round((now_s + m.skew_s) * 1000)
        happened_ms = sent_ms - round(m.age_s * 1000)
        self.lags[m.body["messageId"]].add(sent_ms - happened_ms)
        return {**m.body, "originalTimestamp": iso(happened_ms), "sentAt": iso(sent_ms)}

    async def poison(self) -> None:
        for p in self.plan.poison:
            await asyncio.sleep(max(0.0, self.began_s + p.at - time.monotonic()))
            for _ in range(100):
                producer = AIOKafkaProducer(bootstrap_servers=self.stack.settings.kafka)
                try:
                    await producer.start()
                    await producer.send_and_wait(p.topic, p.value, partition=p.partition, key=b"poison")
                    break
                except (KafkaError, OSError):
                    await asyncio.sleep(0.5)
                finally:
                    await producer.stop()

    async def unmerge(self) -> None:
        """Now and then an operator takes an id off a profile that has others."""
        times = max(3, round(self.duration_s / 12))
        for n in range(times):
            at_s = self.began_s + self.duration_s * (n + 1) / (times + 0.5)
            await asyncio.sleep(max(0.0, at_s - time.monotonic()))
            for _ in range(100):  # Redis or Kafka may be away
                if await self._take_somebody_apart():
                    break
                await asyncio.sleep(0.3)

    async def _take_somebody_apart(self) -> bool:
        s = self.stack.settings
        keys = [f"{{s:{self.site.name}}}:id:{id.replace('=', ':')}" for ids in self.people for id in ids]
        try:
            async with state.connected(s.redis) as redis:
                owners = iter(await state.run_all(redis, [("GET", key) for key in keys]))
        except (RedisError, OSError):
            return False
        of_profile: dict[tuple[int, Any], list[str]] = defaultdict(list)
        for n, ids in enumerate(self.people):
            for id, owner in zip(ids, owners, strict=False):
                of_profile[n, owner].append(id)
        several = [(n, ids) for (n, owner), ids in of_profile.items() if owner is not None and len(ids) > 1]
        if not several:
            return False
        person, ids = self.operator.choice(several)
        id = self.operator.choice(ids)
        env: Json = {"kafka": s.kafka, "redis": s.redis, "config": self.stack.config, "partitions": s.partitions}
        done = await asyncio.to_thread(cli, "profile", "unmerge", self.site.name, id, cwd=self.stack.folder, **env)
        if done.returncode:
            return False
        del self.people[person]
        self.say(f"an operator: {done.stdout.strip()} ({id})")
        return True

    # -- disturbances: each leaves at least one worker running

    async def kill_a_worker(self) -> None:
        worker = self.draw.choice(self.workers)
        self.say(f"kill -9 of {worker.name}")
        worker.kill()
        await asyncio.sleep(self.draw.random() * 2)
        worker.start()

    async def add_a_worker(self) -> None:
        name = f"w{len(self.stack.others) + 1}-{self.stack.settings.worker_id}"
        self.say(f"{name} is added")
        self.workers.append(await asyncio.to_thread(self.stack.add_worker, name))

    async def remove_a_worker(self) -> None:
        if len(self.workers) == 1:
            await self.add_a_worker()
        worker = self.workers.pop()
        self.say(f"{worker.name} is removed")
        code = await asyncio.to_thread(worker.stop)
        assert code == 0, worker.reason()

    async def freeze_a_worker(self) -> None:
        if len(self.workers) == 1:
            await self.add_a_worker()
        worker = self.draw.choice(self.workers)
        seconds = SESSION_S + 3
        self.say(f"{worker.name} is frozen for {seconds:g} s, the session is {SESSION_S:g} s")
        before = await self._epochs()
        await frozen(worker, seconds)
        taken = sum(epoch > before.get(tag, 0) for tag, epoch in (await self._epochs()).items())
        self.say(f"{worker.name} goes on; {taken} partitions were claimed meanwhile")
        assert taken > 0

    async def _epochs(self) -> dict[str, int]:
        async with state.connected(self.stack.settings.redis) as redis:
            tags = [f"{tag}{p}" for tag in "ep" for p in range(self.stack.settings.partitions)]
            return {tag: int(await redis.hget(f"{{{tag}}}:head", "epoch") or 0) for tag in tags}

    def _redis(self) -> list[Child]:
        return [child for name, child in self.stack.servers.children.items() if name.startswith("redis")]

    async def freeze_redis(self) -> None:
        seconds = MAX_POLL_S + 2
        self.say(f"Redis is frozen for {seconds:g} s, max_poll_interval is {MAX_POLL_S:g} s")
        await asyncio.gather(*(frozen(child, seconds) for child in self._redis()))

    async def rewind_redis(self) -> None:
        """A server is killed, and the last LOST_BYTES of what it did are gone."""
        url = self.stack.settings.redis
        partitions = self.stack.settings.partitions
        child = self.draw.choice(self._redis())
        # The workers hold their breath, so that the heads are those at the time of the kill.
        for worker in self.workers:
            os.kill(worker.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(0.1)
            before = await state.heads(url, partitions)
            await asyncio.to_thread(child.kill)
        finally:
            for worker in self.workers:
                os.kill(worker.pid, signal.SIGCONT)
        await rewind_redis(child, LOST_BYTES)
        after = await eventually(lambda: read_heads(url, partitions), 20, every_s=0.01)
        back = [f"{tag}{p} {next} -> {after.get((tag, p), 0)}" for (tag, p), next in before.items()
                if after.get((tag, p), 0) < next]  # fmt: skip
        self.say(f"Redis was killed and lost {LOST_BYTES} bytes: {len(back)} heads went back, as {', '.join(back[:3])}")
        assert back, "no head went back: Redis lost nothing"

    async def restart_kafka(self) -> None:
        kill = self.draw.random() < 0.5
        self.say(f"Kafka is {'killed' if kill else 'stopped'} and started")
        await restart_kafka(self.stack.servers, kill=kill, away_s=self.draw.random() * 2)

    # -- the whole

    async def go(self, disturbances: list[Callable[[], Awaitable[None]]]) -> None:
        """Traffic, and one disturbance after the other."""
        self.began_s = time.monotonic()
        sending = asyncio.gather(self.send(), self.poison(), self.unmerge())
        try:
            for disturb in disturbances:  # which take 2 to 15 s each
                await asyncio.sleep(max(1.5, self.duration_s / len(disturbances) - 7))
                await disturb()
            await sending
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending
        self.say(f"all is sent: {dict(self.tries)}")

    async def settle(self, timeout_s: float) -> None:
        """Until everything sent has its effect: then every writer is ended, between two clock records."""
        stack, partitions = self.stack, self.stack.settings.partitions

        def drained() -> bool:
            status, answer = request("GET", f"{stack.http}/readyz")
            return status == 200 and answer["status"] == "ready"

        await eventually(lambda: asyncio.to_thread(drained), timeout_s)
        await asyncio.to_thread(stack.endpoint.stop)
        end_s = time.monotonic() + timeout_s
        while True:
            if await self._at_the_end():
                for worker in self.workers:
                    os.kill(worker.pid, signal.SIGSTOP)
                await asyncio.sleep(0.3)  # what was on its way to Kafka or Redis arrives
                if await self._at_the_end() and not await state.waiting_triggers(stack.settings.redis, partitions):
                    break
                for worker in self.workers:
                    os.kill(worker.pid, signal.SIGCONT)
            assert time.monotonic() < end_s, f"not at the end after {timeout_s} s: {await self._behind()}"
            await asyncio.sleep(0.05)
        for worker in self.workers:
            worker.kill()
        self.say("heads = ends of the logs, nothing waits in an outbox")
        for child in self._redis():  # What was torn by a crash before would come back now.
            await asyncio.to_thread(child.stop)
            child.start()
            await asyncio.to_thread(await_redis, child, f"redis://127.0.0.1:{redis_port(child)}/0")
        await eventually(lambda: read_heads(stack.settings.redis, partitions), 30)

    async def _at_the_end(self) -> bool:
        return not await self._behind()

    async def _behind(self) -> list[str]:
        """Partitions whose head is not the end of their log. Heads first: they only follow."""
        s = self.stack.settings
        nexts = await state.heads(s.redis, s.partitions)
        found = []
        for tag, topic in (("e", EVENTS), ("p", PROFILE_EVENTS)):
            for p, end in (await state.ends(s.kafka, topic, s.partitions)).items():
                if nexts.get((tag, p), 0) != end:
                    found.append(f"{tag}{p} is at {nexts.get((tag, p), 0)} of {end}")
        return found


async def read_heads(url: str, partitions: int) -> dict[tuple[str, int], int]:
    """Nothing while a cluster still waits for a node."""
    try:
        return await state.heads(url, partitions)
    except RedisError:
        return {}


def iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


# -- what came of it


@dataclass
class Outcome:
    differences: list[str] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)
    logs: dict[str, dict[int, list[tuple[int, bytes | None]]]] = field(default_factory=dict)

    def keep(self, file: Path) -> None:
        """The logs, to fold them again without servers: a line a record, [topic, partition, offset, text]."""
        with file.open("w", encoding="utf-8") as f:
            for topic, log in self.logs.items():
                for partition, records in log.items():
                    for offset, value in records:
                        text = None if value is None else value.decode("utf-8", "replace")
                        f.write(json.dumps([topic, partition, offset, text]) + "\n")


async def outcome(run: Run) -> Outcome:
    """Read everything, fold it naively, compare."""
    s = run.stack.settings
    events_log = await state.log_of(s.kafka, EVENTS, s.partitions)
    profiles_log = await state.log_of(s.kafka, PROFILE_EVENTS, s.partitions)
    letters = [json.loads(value or b"{}") for _, value in (await state.log_of(s.kafka, DEAD_LETTERS, 1))[0]]
    triggers: dict[str, list[Json]] = defaultdict(list)
    for kind in TRIGGER_KINDS:
        for _, value in (await state.log_of(s.kafka, kind.topic, 1))[0]:
            trigger = json.loads(value or b"{}")
            triggers[trigger["id"]].append({"topic": kind.topic, **trigger})
    merge_log = await state.log_of(s.kafka, MERGES, 1)
    found = await state.dump(s.redis)

    out = Outcome(logs={EVENTS: events_log, PROFILE_EVENTS: profiles_log, MERGES: merge_log})
    events = {p: EventsFold(p) for p in events_log}
    for p, log in events_log.items():
        for offset, value in log:
            events[p].take(offset, value)
    profiles = fold_profiles(profiles_log, Rules.of(s))

    out.differences += accepted(run, events, letters)
    originals = {(p, offset): event for p, fold in events.items() for offset, event in fold.passed.items()}
    decided, wrong = passed_on(originals, profiles_log, s.partitions)
    out.differences += wrong
    merged, wrong = merges(merge_log[0], profiles_log)
    out.differences += wrong
    history, unmerges = unmerged(merge_log[0]), unmerged(*profiles_log.values())
    out.differences += [f"unmerge {id} is not in the merge log" for id in unmerges.keys() - history.keys()]
    one = [*merged, *((u["profileId"], u["newProfileId"]) for u in history.values())]
    out.differences += people.wrong_decisions(originals, decided, one)
    out.differences += people.identifiers_in_redis(found, merged)
    out.differences += people.taken_off(found, list(unmerges.values()), merged)
    out.differences += [] if unmerges else ["nobody was taken apart"]
    out.differences += people.purchases_in_redis(found, originals, decided, one)
    out.differences += folded_once(originals, decided, profiles)
    out.differences += sent_on(profiles_log, profiles)
    expected: Json = {}
    folds: list[EventsFold | ProfilesFold] = [*events.values(), *profiles.values()]
    for fold in folds:
        expected |= fold.redis()
    out.differences += compare.differences(expected, found)
    told: dict[str, list[Json]] = defaultdict(list)
    for fold in profiles.values():
        for id, trigger in fold.triggers.items():
            told[id].append(trigger)
    out.differences += compare.trigger_differences(told, triggers)
    out.differences += dead_letters(events, profiles, letters)
    out.counts = {
        "sent": len(run.plan.messages), "late": run.plan.late, "skewed": run.plan.skewed,
        "events": sum(len(log) for log in events_log.values()), "repeats": sum(e.repeats for e in events.values()),
        "passed on": sum(len(e.passed) for e in events.values()),
        "left behind": sum((e := parsed(v, "profileId", "src")) is not None and e["src"][0] >= LEFT
                           for log in profiles_log.values() for _, v in log),
        "delivered again to hop 2": sum(f.repeats for f in profiles.values()),
        "clock records": sum((v or b"").startswith(b'{"clockMs":') for log in profiles_log.values() for _, v in log),
        "poison": sum(len(f.poison) for f in folds),
        "merges": len(merged), "unmerges": len(unmerges),
        "profiles merged": sum(len(f.merged) for f in profiles.values()),
        "sent on": sum(len(f.goes) for f in profiles.values()),
        "profiles": sum(len(f.profiles) for f in profiles.values()), "keys": len(found),
        "triggers": dict(Counter(each[0]["type"] for each in told.values())),
        "published again": sum(len(each) - 1 for each in triggers.values()),
        "suppressed": dict(sum((f.suppressed for f in profiles.values()), Counter[str]())),
    }  # fmt: skip
    return out


def accepted(run: Run, events: dict[int, EventsFold], letters: list[Json]) -> list[str]:
    """What was acked is in the log or, where it had to be refused, in the dead letters; times are corrected."""
    out = []
    by_id: dict[str, Json] = {}
    for fold in events.values():
        for event in fold.passed.values():
            id, lag_ms = event["messageId"], event["receivedAtMs"] - event["timestampMs"]
            by_id[id] = event
            if id not in run.lags:
                out.append(f"event {id} was never sent")
            elif not (lag_ms in run.lags[id] or (lag_ms == 0 and min(run.lags[id]) > 7 * 86_400_000)):
                out.append(f"event {id} is {lag_ms} ms late, sent were {sorted(run.lags[id])}")
    nobody = {id for id in run.acked if id.endswith("-nobody")}
    lost = run.acked - by_id.keys() - run.plan.refused - nobody
    out += [f"event {id} was acked and is lost" for id in sorted(lost)]
    out += [f"event {id} was to be refused" for id in sorted(run.plan.refused & by_id.keys())]
    refused = sum(letter["stage"] == "endpoint" for letter in letters)
    if refused < len(run.plan.refused):
        out.append(f"{refused} dead letters of the endpoint for {len(run.plan.refused)} refused events")
    return out


def passed_on(
    originals: dict[people.Place, Json], log: dict[int, Log], partitions: int
) -> tuple[dict[people.Place, set[str]], list[str]]:
    """Every event stands in profile-events as it was, in its profile's partition. -> the profiles of each as decided by
    hop 1, and what is wrong."""
    out, decided = [], defaultdict[people.Place, set[str]](set)
    for partition, records in log.items():
        for offset, value in records:
            if (merge := parsed(value, "mergeId", "loser")) is not None:
                if crc32(merge["loser"].encode()) % partitions != partition:
                    out.append(f"merge of {merge['loser']} is in partition {partition}")
                continue
            event = parsed(value, "profileId", "src")
            if event is None:
                continue  # a clock record, or poison
            id, (source, place, index) = event.pop("profileId"), event.pop("src")
            if crc32(id.encode()) % partitions != partition:
                out.append(f"profile {id} is in partition {partition}")
            if source >= LEFT:
                source -= LEFT
            elif source >= FORWARDED:
                continue  # see sent_on
            if index != 0 or originals.get((source, place)) != event:
                out.append(f"profile-events[{partition}]@{offset} is not what it came from, {(source, place)}")
            decided[source, place].add(id)
    return decided, out + [f"event {place} was not passed on" for place in originals.keys() - decided.keys()]


def merges(log: Log, profiles_log: dict[int, Log]) -> tuple[list[tuple[str, str]], list[str]]:
    """(winner, loser) of the merge log; and which merges are not in both logs, the same in each."""
    history = {m["mergeId"]: m for _, value in log if (m := parsed(value, "mergeId")) is not None}
    told = {
        m["mergeId"]: m for records in profiles_log.values() for _, value in records
        if (m := parsed(value, "mergeId")) is not None and "hops" not in m
    }  # fmt: skip
    pairs = [(m["winner"], m["loser"]) for m in history.values()]
    both = sorted(history.keys() | told.keys())
    return pairs, [
        f"merge {id} is {history.get(id)} in one log, {told.get(id)} in the other" for id in both
        if history.get(id) != told.get(id)
    ]  # fmt: skip


def sent_on(logs: dict[int, Log], folds: dict[int, ProfilesFold]) -> list[str]:
    """Whatever came for a profile that was merged, and its state, stands in its winner's partition: all of it, as it
    was, and nothing else."""
    out = []
    came: dict[people.Place, set[tuple[str, str | None]]] = defaultdict(set)
    at = {p: dict(records) for p, records in logs.items()}
    for partition, records in logs.items():
        for offset, value in records:
            if (record := parsed(value, "profileId", "src")) is None or not FORWARDED <= record["src"][0] < LEFT:
                continue
            place = (record["src"][0] - FORWARDED, record["src"][1])
            came[place].add((record["profileId"], record.get("handover")))
            before = parsed(at.get(place[0], {}).get(place[1])) or {}
            if "mergeId" in before or "unmergeId" in before:
                continue
            differ = {k for k in before.keys() | record.keys() if before.get(k) != record.get(k)}
            if differ - {"profileId", "src", "hops"} or record.get("hops") != before.get("hops", 0) + 1:
                out.append(f"profile-events[{partition}]@{offset} is not what was sent on, {place}")
    goes = {
        (p, offset): to
        for p, fold in folds.items()
        for offset, to in fold.goes.items()
        if not has_no_src(at[p][offset], to)
    }
    for place in sorted(goes.keys() | came.keys()):
        if came.get(place, set()) != {goes.get(place)}:
            out.append(f"profile-events {place}: to be sent to {goes.get(place)}, was to {came.get(place)}")
    handed = next(iter(folds.values())).handed
    return out + [f"{sorted(left)} of {loser} never arrived" for (_, loser), left in handed.items() if left]


def has_no_src(value: bytes | None, to: tuple[str, str | None]) -> bool:
    """A merge or an unmerge that was sent on: it has no `src`, and may be done twice."""
    return to[1] is None and (parsed(value, "mergeId") or parsed(value, "unmergeId")) is not None


def unmerged(*logs: Log) -> dict[str, Json]:
    """The unmerges of logs as they were said, by id."""
    records = (parsed(value, "unmergeId", "profileId") for log in logs for _, value in log)
    return {record["unmergeId"]: record for record in records if record is not None and "hops" not in record}


def folded_once(
    originals: dict[people.Place, Json], decided: dict[people.Place, set[str]], folds: dict[int, ProfilesFold]
) -> list[str]:
    """Every event has been folded into one profile, once, wherever its profile went."""
    n = sum((fold.folded for fold in folds.values()), Counter[tuple[str, str]]())
    times = {place: n[event["site"], event["messageId"]] for place, event in originals.items()}
    return [
        f"event {place} of {sorted(decided.get(place, ()))} was folded {k} times"
        for place, k in times.items()
        if k != 1
    ]


def dead_letters(
    events: dict[int, EventsFold], profiles: dict[int, ProfilesFold], letters: list[Json]
) -> list[str]:  # fmt: skip
    """Poison is there, and nothing else: once or, after a redelivery, more often."""
    wanted = {(EVENTS, p, offset, reason) for p, f in events.items() for reason, offset in f.poison}
    wanted |= {(PROFILE_EVENTS, p, offset, reason) for p, f in profiles.items() for reason, offset in f.poison}
    found = {(x["topic"], x["partition"], x["offset"], x["reason"]) for x in letters if x["stage"] != "endpoint"}
    return [f"dead letter is missing: {x}" for x in sorted(wanted - found)] + [
        f"dead letter is invented: {x}" for x in sorted(found - wanted)
    ]
