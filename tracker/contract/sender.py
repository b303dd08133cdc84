"""Batches to Kafka's brokers: an idempotent producer in one request a broker, over aiokafka's connections.

aiokafka's own sender takes 35 us a batch, mostly for tasks, futures and tuples by schema, and at low rates over many
partitions a batch holds a record or two. Its client keeps what is hard: connections, TLS, SASL, metadata.

    send -> one request to each leader -> its answer -> `finished(batch, None)`
                                                    \\-> may be tried again: after a pause, to whoever leads then
                                                     \\-> may not: `finished(batch, error)`

A broker has one request under way: what comes meanwhile collects (`takes` says no), so batches grow with the load. A
partition has one batch under way; it is sent again, the same bytes under the same sequence number, until Kafka has
it or the sender is closed: Kafka knows a repeat by (producer id, partition, sequence).
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable, Collection, Coroutine, Iterable
from contextlib import suppress
from functools import partial
from io import BytesIO
from typing import Any, Final

from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import (
    DuplicateSequenceNumber,
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    KafkaError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.api import ResponseHeader_v0
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.structs import TopicPartition

from tracker.contract.batch import Batch, Where

log = logging.getLogger(__name__)

API_KEY: Final = 0
API_VERSION: Final = 7
"""Of Kafka 2.1 and later; the last one without flexible fields that the brokers of today all take."""
ALL_IN_SYNC: Final = -1
PAUSE_S: Final = 0.1
"""Before a batch is tried again."""

# https://kafka.apache.org/protocol: Produce v7
_head: Final = struct.Struct(">ihhih")  # length, API key, version, correlation id, length of the client id
_begin: Final = struct.Struct(">hhii")  # no transaction, acks, timeout_ms, topics
_short: Final = struct.Struct(">h")
_int: Final = struct.Struct(">i")
_part: Final = struct.Struct(">ii")  # partition, length of its batch
_answer: Final = struct.Struct(">ihqqq")  # partition, error, offset, time, offset of the log's start

Finished = Callable[[Batch, BaseException | None], None]


class _Answer:
    """How aiokafka's connection reads the answer: the body as it is; `_codes` takes it apart."""

    RESPONSE_TYPE: Any
    parse_response_header = staticmethod(ResponseHeader_v0.decode)

    @staticmethod
    def decode(body: BytesIO) -> memoryview:
        return body.getbuffer()[body.tell() :]


_Answer.RESPONSE_TYPE = _Answer


class Sender:
    """Of one event loop. Any error that `finished` is told leaves a gap in the partition's sequence: close it then."""

    def __init__(self, bootstrap: str, *, client_id: str, timeout_s: float, finished: Finished) -> None:
        self._timeout_s = timeout_s
        self._client_id = client_id.encode()
        self._finished = finished
        self._client = AIOKafkaClient(
            bootstrap_servers=bootstrap, client_id=client_id, request_timeout_ms=max(1000, int(timeout_s * 1000))
        )
        self._producer_id, self._epoch = -1, -1
        self._sequences: dict[Where, int] = {}
        self._leaders: dict[Where, int | None] = {}
        self._busy: set[int | None] = set()
        self._again: list[Batch] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.closed = False
        """Nothing more is sent, and nothing told of what is under way."""
        self._loop = asyncio.get_running_loop()

    async def start(self, topics: Collection[str]) -> dict[str, int]:
        """Connect and get a producer id; -> partitions of each topic that is there.

        Raises KafkaError, OSError, TimeoutError."""
        await self._client.bootstrap()
        if topics:
            await self._client.set_topics(topics)
        while True:
            try:
                node = self._client.get_random_node()
                answer = await self._client.send(node, InitProducerIdRequest(None, 60_000))
                if not answer.error_code:
                    break
                raise for_code(answer.error_code)()
            except KafkaError as e:
                if not e.retriable:
                    raise
                await asyncio.sleep(PAUSE_S)
                await self._client.force_metadata_update()
        self._producer_id, self._epoch = answer.producer_id, answer.producer_epoch
        found = {}
        for topic in topics:
            with suppress(KafkaError):  # missing, or not to be seen by us
                found[topic] = len(await self._client._wait_on_metadata(topic))
        return found

    def takes(self, where: Where) -> bool:
        """Would a batch of this partition leave at once?"""
        return self._leader(where) not in self._busy

    def send(self, batches: Iterable[Batch]) -> None:
        """Of partitions none of which has a batch under way."""
        if self.closed:
            return
        by_node: dict[int | None, list[Batch]] = {}
        sequences, leaders = self._sequences, self._leaders
        for batch in batches:
            where = batch.where
            if not batch.wire:
                sequence = sequences.get(where, 0)
                batch.write(self._producer_id, self._epoch, sequence)
                sequences[where] = (sequence + batch.events) & 0x7FFFFFFF  # as Kafka counts on from 2^31 - 1
            node = leaders[where] if where in leaders else self._leader(where)
            if node in by_node:
                by_node[node].append(batch)
            else:
                by_node[node] = [batch]
        for node, of_node in by_node.items():
            conn = self._client._conns.get((node, ConnectionGroup.DEFAULT))
            if node is None:
                self._retry(of_node, KafkaConnectionError("a partition has no leader"))
            elif conn is not None and conn.connected():
                self._request(conn, node, of_node)
            else:
                self._busy.add(node)
                self._background(self._connect(node, of_node))

    async def close(self) -> None:
        self.closed = True
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for conn in self._client._conns.values():
            if conn._writer is not None:
                conn._writer.transport.abort()  # what a frozen broker has not read yet must not reach it later
        await self._client.close()

    # -- one request

    def _leader(self, where: Where) -> int | None:
        if where not in self._leaders:
            found = self._client.cluster.leader_for_partition(TopicPartition(*where))
            self._leaders[where] = found if found is not None and found >= 0 else None
        return self._leaders[where]

    async def _connect(self, node: int, batches: list[Batch]) -> None:
        conn = await self._client._get_conn(node)
        self._busy.discard(node)
        if conn is None:
            self._retry(batches, KafkaConnectionError(f"broker {node} can't be reached"))
        else:
            self._request(conn, node, batches)

    def _request(self, conn: AIOKafkaConnection, node: int, batches: list[Batch]) -> None:
        least, most = conn._versions.get(API_KEY, (0, 0))
        if not least <= API_VERSION <= most:
            error = IncompatibleBrokerVersion(f"Produce version {API_VERSION} (Kafka 2.1) is wanted")
            for batch in batches:
                self._loop.call_soon(self._finished, batch, error)
            return
        correlation_id = conn._next_correlation_id()
        message = self._encode(correlation_id, batches)
        answered = self._loop.create_future()
        try:
            conn._writer.write(message)
        except OSError as e:
            conn.close(reason=CloseReason.CONNECTION_BROKEN)
            self._retry(batches, KafkaConnectionError(f"broker {node}: {e}"))
            return
        conn._requests.append((correlation_id, _Answer, answered))
        self._busy.add(node)
        late = self._loop.call_later(self._timeout_s, conn.close, CloseReason.CONNECTION_TIMEOUT)
        answered.add_done_callback(partial(self._answered, node, batches, late))

    def _encode(self, correlation_id: int, batches: list[Batch]) -> bytes:
        """One produce request."""
        by_topic: dict[str, list[Batch]] = {}
        for batch in batches:
            by_topic.setdefault(batch.where[0], []).append(batch)
        client_id, timeout_ms = self._client_id, int(self._timeout_s * 1000)
        parts: list[bytes | bytearray] = [b"", client_id, _begin.pack(-1, ALL_IN_SYNC, timeout_ms, len(by_topic))]
        for topic, of_topic in by_topic.items():
            name = topic.encode()
            parts += _short.pack(len(name)), name, _int.pack(len(of_topic))
            for batch in of_topic:
                parts += _part.pack(batch.where[1], len(batch.wire)), batch.wire
        length = sum(map(len, parts)) + _head.size - _int.size
        parts[0] = _head.pack(length, API_KEY, API_VERSION, correlation_id, len(client_id))
        return b"".join(parts)

    def _answered(
        self, node: int, batches: list[Batch], late: asyncio.TimerHandle, answered: asyncio.Future[memoryview]
    ) -> None:
        late.cancel()
        self._busy.discard(node)
        lost = asyncio.CancelledError() if answered.cancelled() else answered.exception()
        if self.closed:
            return
        if lost is not None:
            self._retry(batches, lost)
            return
        codes = _codes(answered.result())
        failed: dict[int, list[Batch]] = {}
        for batch in batches:
            code = codes.get(batch.where, UnknownTopicOrPartitionError.errno)
            if not code or code == DuplicateSequenceNumber.errno:
                self._finished(batch, None)
            else:
                failed.setdefault(code, []).append(batch)
        for code, of_code in failed.items():
            error = for_code(code)()
            if error.retriable:
                self._retry(of_code, error)
            else:
                for batch in of_code:
                    self._finished(batch, error)

    # -- once more

    def _retry(self, batches: list[Batch], error: BaseException) -> None:
        if not self._again:
            self._background(self._send_again())
            log.info("%d batches are sent again: %r", len(batches), error)
        self._again += batches

    async def _send_again(self) -> None:
        """After a pause, and with fresh metadata: every reason may be a leader that has moved."""
        await asyncio.sleep(PAUSE_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                await self._client.force_metadata_update()
        self._leaders.clear()
        batches, self._again = self._again, []
        self.send(batches)

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _codes(answer: memoryview) -> dict[Where, int]:
    """Partition -> code of its error, 0: none."""
    found: dict[Where, int] = {}
    (topics,) = _int.unpack_from(answer)
    at = _int.size
    for _ in range(topics):
        (length,) = _short.unpack_from(answer, at)
        at += _short.size
        topic = str(answer[at : at + length], "utf-8")
        at += length
        (partitions,) = _int.unpack_from(answer, at)
        at += _int.size
        end = at + partitions * _answer.size
        for partition, code, _, _, _ in _answer.iter_unpack(answer[at:end]):
            found[topic, partition] = code
        at = end
    return found
