"""Where a command goes: to the one server, or to the node of a Redis Cluster that owns its key's slot.

Commands given in one turn of the event loop leave as one pipeline a node, and a node that is slow holds up no other.
Nothing is sent twice here. A redirection (MOVED, ASK), a node that is gone or was demoted: the command fails, the map
of slots is asked for anew, and whoever gave the command claims its partition again (stream/lanes.py).

ASK is never followed. While a slot moves, half of a partition's keys are on either node: a script would take the other
half for missing. Scripts that write several keys ask for one first that never exists (tag:none), which the old node
refuses from the first moved key on, before anything is written. The partition waits until its slot has moved.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Sequence, Set
from math import inf
from time import monotonic, perf_counter
from typing import Any, Final

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from stream import metrics
from stream.redis_log import renew_after_start
from stream.refusals import KEPT_S, REFUSALS, refusal
from tracker.contract.redis_url import parse

log = logging.getLogger(__name__)

SLOTS: Final = 16_384
LOOK_EVERY_S: Final = 0.5
"""Least time between two looks at a cluster's map."""
LOOK_TIMEOUT_S: Final = 2.0

Unavailable: Final = (RedisConnectionError, RedisTimeoutError, OSError)
"""Errors after which the outcome of a write is unknown: whoever wrote asks Redis where it stands (a new claim)."""
Moving: Final = (AskError, ClusterDownError, ReadOnlyError, TryAgainError)  # A MovedError is an AskError.
"""Errors of a cluster that changes; nothing was written."""
_LOOK_AT: Final = (*Moving, *Unavailable)
"""Errors that say that the map of a cluster may be out of date."""

Address = tuple[str, int]
Command = tuple[Any, ...]


class Node:
    """One server."""

    def __init__(self, address: Address, nodes: Nodes) -> None:
        self.address = address
        self.client = nodes.client(address)
        """For single commands that are not of the stream."""
        # redis-py's timer for each answer would cost more than the answer.
        self._stream = nodes.client(address, socket_timeout=None)
        self._nodes = nodes
        self._queue: list[tuple[Command, asyncio.Future[Any]]] = []
        self._flusher: asyncio.Task[None] | None = None

    def run(self, command: Command, future: asyncio.Future[Any]) -> None:
        self._queue.append((command, future))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())

    async def close(self) -> None:
        """Commands that it has not answered fail. (Cancelled, they would end the tasks that wait for them, unseen.)"""
        if self._flusher is not None:
            self._flusher.cancel()
        self._fail(self._queue)
        self._queue = []
        await self._stream.aclose()
        await self.client.aclose()

    def _fail(self, commands: Sequence[tuple[Command, asyncio.Future[Any]]]) -> None:
        for _, future in commands:
            if not future.done():
                future.set_exception(RedisConnectionError(f"{self.address[0]}:{self.address[1]} is no longer asked"))
                future.exception()  # Nobody may wait any more.

    async def _flush(self) -> None:
        try:
            while self._queue:
                commands, self._queue = self._queue, []
                await self._send(commands)
        finally:
            self._flusher = None

    async def _send(self, commands: Sequence[tuple[Command, asyncio.Future[Any]]]) -> None:
        started = perf_counter()
        answers: list[Any]
        try:
            answers = await self._answers([command for command, _ in commands])
            if any(isinstance(a, NoScriptError) for a in answers):
                await self._nodes.prepare(self.client)  # The server was restarted. The lanes claim again.
        except asyncio.CancelledError:
            self._fail(commands)
            raise
        except Exception as e:
            metrics.REDIS_ERRORS.inc()
            answers = [e] * len(commands)
        metrics.REDIS_SECONDS.observe(perf_counter() - started)
        self._nodes.note_answers(answers)
        if any(isinstance(a, _LOOK_AT) for a in answers):
            self._nodes.failed_s = monotonic()
            self._nodes.look_again()
        for a in answers:
            if isinstance(a, ResponseError) and (code := refusal(a)) is not None:
                self._nodes.refused(code)
                break
        for (_, future), answer in zip(commands, answers, strict=True):
            if future.done():
                continue  # Its waiter was cancelled.
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    async def _answers(self, commands: Sequence[Command]) -> list[Any]:
        """Of a pipeline; errors of single commands are values. redis-py's own takes 1.6 times the CPU for 8 commands,
        1.9 for 32. Raises RedisError, OSError."""
        try:
            async with asyncio.timeout(self._nodes.timeout_s):
                return await self._asked(commands)
        except TimeoutError:
            where = f"{self.address[0]}:{self.address[1]}"
            raise RedisTimeoutError(f"{where} has not answered for {self._nodes.timeout_s:g} s") from None

    async def _asked(self, commands: Sequence[Command]) -> list[Any]:
        pool: Any = self._stream.connection_pool
        connection = await pool.get_connection()
        try:
            await connection.send_packed_command(connection.pack_commands(commands))
            answers: list[Any] = []
            forms = self._stream.response_callbacks  # Of one form, whatever the server's protocol.
            for command in commands:
                try:
                    answer = await connection.read_response()
                except ResponseError as e:
                    answer = e
                else:
                    if (form := forms.get(command[0])) is not None:
                        answer = form(answer)
                answers.append(answer)
            return answers
        except BaseException:
            # Answers may be on their way still: they would be taken for the next pipeline's.
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.release(connection)


class Nodes:
    """All servers behind the setting `redis`."""

    def __init__(self, url: str, timeout_s: float, prepare: Callable[[aioredis.Redis], Awaitable[None]]) -> None:
        """`prepare`: what a server needs before its first command (its scripts). Raises ValueError."""
        where = parse(url)
        self.cluster = where.cluster
        self.prepare = prepare
        self.timeout_s = timeout_s
        self._start = where.nodes
        self._options = {**where.options, "socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
        self._nodes: dict[Address, Node] = {}
        self._slots: list[Node | None] = []
        """Of a cluster: the owner of each slot."""
        self._owners: set[Address] = set()
        """Of its slots, also those that could not be asked yet."""
        self._looking: asyncio.Task[None] | None = None
        self._looked = 0.0
        self.failed_s = -inf
        """When a server last did not answer, or not as the owner of a slot; monotonic."""
        self.refusal = ""
        self._refused_s = -inf
        self._silent_since_s: float | None = None

    def note_answers(self, answers: Sequence[object]) -> None:
        """What servers answered, of whom were asked together: anything, or errors of connections."""
        if not all(isinstance(a, Unavailable) for a in answers):
            self._silent_since_s = None
        elif self._silent_since_s is None:
            self._silent_since_s = monotonic()

    def silent_s(self) -> float:
        """For how long no server at all has answered, though asked."""
        return monotonic() - self._silent_since_s if self._silent_since_s is not None else 0.0

    def refused(self, code: str) -> None:
        """A server takes no writes."""
        now_s = monotonic()
        if self.refusal != code or now_s - self._refused_s > KEPT_S:
            log.error("%s", REFUSALS[code])
        metrics.REDIS_REFUSALS.labels(code).inc()
        self.refusal, self._refused_s = code, now_s
        self.failed_s = now_s

    def refusing(self) -> str | None:
        """Why a server takes no writes, if so just now."""
        return REFUSALS[self.refusal] if monotonic() - self._refused_s < KEPT_S else None

    async def start(self) -> None:
        """Raises RedisError / OSError when nothing answers, or a cluster does not cover all slots."""
        if self.cluster:
            await self._look()
            if None in self._slots:
                raise RedisConnectionError(f"{self._slots.count(None)} slots of the cluster have no owner")
        else:
            (address,) = self._start
            node = self._nodes[address] = self._nodes.get(address) or Node(address, self)
            await self.prepare(node.client)

    async def stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        for node in self._nodes.values():
            await node.close()
        self._nodes, self._slots = {}, []

    def run(self, key: str, command: Command) -> asyncio.Future[Any]:
        """A command's answer. Raises Unavailable or ResponseError."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        node = self._of(key)
        if node is None:
            future.set_exception(RedisConnectionError("the cluster's slot has no owner"))
            self.look_again()
        else:
            node.run(command, future)
        return future

    def place(self, key: str) -> Address | None:
        """The server that a key is on."""
        node = self._of(key)
        return node.address if node is not None else None

    async def ping(self) -> None:
        """Every server answers, every slot has an owner. Raises RedisError / OSError."""
        if not self._nodes or (self.cluster and (not self._slots or None in self._slots)):
            self.look_again()
            raise RedisConnectionError("not all slots of the cluster have an owner")
        await self._ask_all(lambda client: client.ping())

    async def evicts(self) -> str | None:
        """The maxmemory-policy of a server that would drop keys for want of memory. Raises RedisError, OSError."""
        told = await asyncio.gather(
            *(node.client.info("memory") for node in self._nodes.values()), return_exceptions=True
        )
        for info in told:
            if isinstance(info, ResponseError):
                continue  # It hides INFO from us.
            if isinstance(info, BaseException):
                raise info
            policy = str(info.get("maxmemory_policy", "noeviction"))
            if policy != "noeviction" and int(info.get("maxmemory", 0)):
                return policy
        return None

    async def renew_logs(self, but: Set[Hashable] = frozenset()) -> set[Address]:
        """See stream/redis_log.py. -> the servers that do not answer; those in `but` are not asked. Raises
        RedisError / OSError when none does."""
        failed = await self._ask_each(renew_after_start, but)
        if failed and len(failed) == len(self._nodes.keys() - but):
            raise next(iter(failed.values()))
        return set(failed)

    async def away(self) -> set[Address]:
        """Owners of slots that do not answer."""
        failed = await self._ask_each(lambda client: client.ping())
        return (failed.keys() & self._owners) | (self._owners - self._nodes.keys())

    async def _ask_all(self, ask: Callable[[aioredis.Redis], Awaitable[object]]) -> None:
        """Raises RedisError / OSError when a server does not answer: then another may be in its place soon."""
        for error in (await self._ask_each(ask)).values():
            raise error

    async def _ask_each(
        self, ask: Callable[[aioredis.Redis], Awaitable[object]], but: Set[Hashable] = frozenset()
    ) -> dict[Address, RedisError | OSError]:
        """-> the servers that do not answer."""
        nodes = [node for node in self._nodes.values() if node.address not in but]
        told = await asyncio.gather(*(ask(node.client) for node in nodes), return_exceptions=True)
        if nodes:
            self.note_answers(told)
        failed: dict[Address, RedisError | OSError] = {}
        for node, error in zip(nodes, told, strict=True):
            if isinstance(error, RedisError | OSError):
                failed[node.address] = error
                self.failed_s = monotonic()
                self.look_again()
            elif isinstance(error, BaseException):
                raise error
        return failed

    def look_again(self) -> None:
        """Ask for the cluster's map soon; nothing to do for one server."""
        if self.cluster and self._looking is None:
            self._looking = asyncio.create_task(self._look_soon())

    def _of(self, key: str) -> Node | None:
        if self.cluster:
            return self._slots[key_slot(key.encode())] if self._slots else None
        return self._nodes.get(self._start[0])

    def client(self, address: Address, **options: Any) -> aioredis.Redis:
        # No retries inside redis-py: a write that came through unseen and is sent again would be refused.
        more = {**self._options, **options}
        return aioredis.Redis(host=address[0], port=address[1], retry=Retry(NoBackoff(), 0), **more)

    async def _look_soon(self) -> None:
        try:
            while True:
                await asyncio.sleep(max(0.0, self._looked + LOOK_EVERY_S - monotonic()))
                try:
                    await self._look()
                except (RedisError, OSError) as e:
                    log.warning("The Redis Cluster does not tell its map: %s: %s", type(e).__name__, e)
                    return  # The next command asks again.
                if None not in self._slots:
                    return
        finally:
            self._looking = None

    async def _look(self) -> None:
        """Learn the map: of all nodes that answer, from the one that is furthest. Raises when none answers."""
        asked = list(dict.fromkeys([*self._nodes, *self._start]))
        told = await asyncio.gather(*(self._ask(address) for address in asked), return_exceptions=True)
        self._looked = monotonic()
        maps = [answer for answer in told if not isinstance(answer, BaseException)]
        if not maps:
            raise next((e for e in told if isinstance(e, RedisError | OSError)), RedisConnectionError("no answer"))
        _, ranges = max(maps, key=lambda answer: answer[0])
        self._owners = owners = {address for _, _, address in ranges}
        for address in owners - set(self._nodes):
            node = Node(address, self)
            try:
                async with asyncio.timeout(LOOK_TIMEOUT_S):
                    await self.prepare(node.client)
            except (RedisError, OSError, TimeoutError):
                await node.close()  # Its slots have no owner until the next look.
            else:
                self._nodes[address] = node
        slots: list[Node | None] = [None] * SLOTS
        for first, last, address in ranges:
            slots[first : last + 1] = [self._nodes.get(address)] * (last + 1 - first)
        self._slots = slots
        for address in set(self._nodes) - owners:
            await self._nodes.pop(address).close()

    async def _ask(self, address: Address) -> tuple[tuple[bool, int], list[tuple[int, int, Address]]]:
        """((whether the cluster works as this node sees it, its epoch), [(first slot, last slot, owner)])."""
        node = self._nodes.get(address)
        client: Any = self.client(address) if node is None else node.client
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                info, rows = await asyncio.gather(
                    client.execute_command("CLUSTER INFO"), client.execute_command("CLUSTER SLOTS")
                )
        finally:
            if node is None:
                await client.aclose()
        facts = info if isinstance(info, dict) else {}
        rank = (facts.get("cluster_state") == "ok", int(facts.get("cluster_current_epoch", 0)))
        return rank, _ranges(rows, address)


def _ranges(rows: Any, asked: Address) -> list[tuple[int, int, Address]]:
    """CLUSTER SLOTS: [[first slot, last slot, [host, port, ...] of the primary, ...]]. No host: the one asked."""
    found = []
    for first, last, (host, port, *_), *_ in rows:
        name = host.decode() if isinstance(host, bytes) else host
        found.append((int(first), int(last), (name or asked[0], int(port))))
    return found
