"""Whatever breaks, the state in Redis and the triggers are those of a naive fold of the logs (tests/oracle).

A short run with the suite; a long one, every disturbance in it, by

    make oracle

and the run that failed again by ORACLE_SEED=... as printed. ORACLE_SECONDS: how long it sends; ORACLE_LOGS: the folder
that gets the logs of a run that fails.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.harness import Cluster, Servers, Stack
from tests.oracle.run import SETTINGS, Run, outcome

pytestmark = pytest.mark.integration
EVENTS = int(os.environ.get("ORACLE_EVENTS", "6000"))
SEED = int(os.environ.get("ORACLE_SEED", "5"))
SHORT = EVENTS < 20_000
SECONDS = float(os.environ.get("ORACLE_SECONDS", "20" if SHORT else "150"))


def disturbances(run: Run) -> list[Callable[[], Awaitable[None]]]:
    """In the seed's order. The short run leaves out what the others of its kind show: it has a minute."""
    some: list[Callable[[], Awaitable[None]]] = [run.kill_a_worker, run.freeze_a_worker, run.rewind_redis]
    if not SHORT:
        some += [run.add_a_worker, run.remove_a_worker, run.freeze_redis, run.restart_kafka, run.kill_a_worker]
        some += [run.rewind_redis, run.add_a_worker, run.remove_a_worker]
    random.Random(SEED).shuffle(some)
    return some


async def judge(stack: Stack) -> None:
    """The oracle over any stack whose servers the test may break."""
    run = Run(stack, SEED, EVENTS, SECONDS)
    plan = disturbances(run)
    print(
        f"\nORACLE_SEED={SEED} ORACLE_EVENTS={EVENTS} ORACLE_SECONDS={SECONDS:g}: {', '.join(d.__name__ for d in plan)}"
    )
    try:
        await run.go(plan)
        await run.settle(60 if SHORT else 180)
        began_s = time.monotonic()
        result = await outcome(run)
        run.say(f"folded and compared in {time.monotonic() - began_s:.1f} s")
    finally:
        print("\n".join(run.said))
    print(result.counts)
    if result.differences:
        result.keep(logs := Path(os.environ.get("ORACLE_LOGS", stack.folder)) / f"oracle-{SEED}.jsonl")
        print(f"the logs: {logs}")
    more = f"\n... and {len(result.differences) - 20} more" if len(result.differences) > 20 else ""
    assert not result.differences, f"ORACLE_SEED={SEED}\n" + "\n".join(result.differences[:20]) + more


async def test_state_and_triggers_are_those_of_the_naive_fold(own_stack: Callable[..., Stack]) -> None:
    await judge(own_stack(**SETTINGS))


async def test_the_same_over_a_redis_cluster_of_three_nodes(
    own_servers: Callable[[], Servers], own_cluster: Callable[[], Cluster], tmp_path: Path
) -> None:
    servers, cluster = await asyncio.to_thread(own_servers), await asyncio.to_thread(own_cluster)
    servers.children.pop("redis").stop()
    servers.redis, servers.children = cluster.url, {**servers.children, **cluster.children}
    stack = Stack(tmp_path / "stack", servers, **SETTINGS)
    try:
        await judge(await asyncio.to_thread(stack.start))
    finally:
        await asyncio.to_thread(stack.stop)
