"""What Kafka gets of a batch, read back by aiokafka's reader."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.record.default_records import DefaultRecordBatch

from tracker.contract.batch import MAX_BATCH_BYTES, Batch

NO_KEY_TEXT = b"k"


def batch_of(*values: bytes) -> Batch:
    batch = Batch(("topic", 1), asyncio.Future(loop=asyncio.new_event_loop()), 0.0)
    for n, value in enumerate(values):
        assert batch.builder.append(n, 1_700_000_000_000 + n, NO_KEY_TEXT, value, []) is not None
        batch.events += 1
    batch.done.get_loop().close()
    return batch


@pytest.mark.parametrize("values", [(b"x",), (b"a" * 900,) * 3, (b"b" * 20_000,) * 8], ids=["thin", "usual", "blocks"])
def test_what_is_written_is_what_was_added(values: tuple[bytes, ...]) -> None:
    batch = batch_of(*values)
    added = [(1_700_000_000_000 + n, NO_KEY_TEXT, value) for n, value in enumerate(values)]
    assert list(batch.records()) == added
    batch.write(4711, 3, 17)
    read = DefaultRecordBatch(bytes(batch.wire))
    assert read.validate_crc()
    assert (read.producer_id, read.producer_epoch, read.base_sequence) == (4711, 3, 17)
    assert read.last_offset_delta == len(values) - 1
    assert [(record.timestamp, record.key, record.value) for record in read] == added
    assert list(batch.records()) == added


def test_only_what_gets_smaller_is_compressed() -> None:
    for value, codec in ((b"x", 0), (b"x" * 500, 2)):
        batch = batch_of(value)
        batch.write(1, 0, 0)
        assert DefaultRecordBatch(bytes(batch.wire)).compression_type == codec


def test_a_full_batch_says_so() -> None:
    batch = batch_of(b"x" * (MAX_BATCH_BYTES - 1000))
    assert batch.builder.append(1, 0, None, b"x" * 2000, []) is None
    assert len(list(batch.records())) == 1
