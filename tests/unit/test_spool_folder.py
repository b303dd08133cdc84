"""A folder of the spool: written, read back, acked, damaged, opened by two."""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tracker.spool import folder as spool_folder
from tracker.spool.folder import Folder, InUse, Where
from tracker.spool.format import HEADER, Record, encode

TOPIC = "events"


@pytest.fixture
def told() -> Counter[str]:
    """What was repaired, by kind."""
    return Counter()


@pytest.fixture
def made(tmp_path: Path, told: Counter[str]) -> Folder:
    return opened(tmp_path, told)


def opened(
    path: Path, told: Counter[str] | None = None, segment_bytes: int = 1000, corrupt_bytes: int = 4096
) -> Folder:
    def tell(kind: str) -> None:
        if told is not None:
            told[kind] += 1

    return Folder(path, segment_bytes=segment_bytes, corrupt_bytes=corrupt_bytes, repaired=tell).open()


def record(n: int, partition: int = 0, size: int = 60) -> Record:
    return Record(TOPIC, partition, 1_000_000 + n, b"k%d" % n, b"%0*d" % (size, n))


def write(folder: Folder, *records: Record) -> None:
    frames = [encode(r.topic.encode(), *r[1:]) for r in records]
    folder.append(frames, len(frames), records[0].timestamp_ms)


def left(folder: Folder, limit_bytes: int = 300) -> list[Record]:
    """All that is not acked, read in chunks."""
    found: list[Record] = []
    position, whole = folder.start, False
    while not whole:
        records, position, whole = folder.read(position, limit_bytes)
        found += [each for _, each in records]
    assert position == max(folder.tail, folder.start)
    return found


def position_of(folder: Folder, wanted: Record) -> int:
    return next(at for at, each in folder.read(folder.start, 1 << 30).records if each == wanted)


def segments(folder: Folder) -> list[Path]:
    return sorted(folder.path.glob("*.spool"))


def test_records_come_back_in_their_order_over_segments_and_restarts(tmp_path: Path, made: Folder) -> None:
    records = [record(n, n % 3) for n in range(40)]
    for n in range(0, 40, 5):
        write(made, *records[n : n + 5])
    assert left(made) == records
    assert len(segments(made)) > 3
    assert made.bytes == sum(path.stat().st_size for path in segments(made))
    made.close()
    again = opened(tmp_path)
    assert left(again) == records
    assert (again.records, again.oldest_ms) == (40, records[0].timestamp_ms)
    assert again.places == {(TOPIC, 0), (TOPIC, 1), (TOPIC, 2)}
    write(again, record(40))
    assert left(again) == [*records, record(40)]


def test_a_record_larger_than_a_segment_has_one_of_its_own(tmp_path: Path, made: Folder) -> None:
    records = [record(1), record(2, size=5000), record(3)]
    write(made, *records)
    assert left(made) == records
    made.close()
    assert left(opened(tmp_path)) == records


def test_what_is_acked_is_not_read_again_and_its_segments_go(tmp_path: Path, made: Folder) -> None:
    records = [record(n) for n in range(40)]
    write(made, *records)
    before = len(segments(made))
    chunk = made.read(made.start, 2000)
    made.ack(chunk.end, {}, len(chunk.records), chunk.records[-1][1].timestamp_ms)
    assert left(made) == records[len(chunk.records) :]
    assert made.records == 40 - len(chunk.records)
    assert len(segments(made)) < before
    made.close()
    again = opened(tmp_path)
    assert left(again) == records[len(chunk.records) :]
    assert again.records == 40 - len(chunk.records)
    again.ack(again.tail, {}, again.records)
    assert (again.bytes, again.records, again.oldest_ms, segments(again), left(again)) == (0, 0, 0, [], [])
    write(again, record(99))  # numbers go on: an old position never means a new record
    assert left(again) == [record(99)]


def test_a_partition_that_is_stuck_holds_up_no_other(tmp_path: Path, made: Folder) -> None:
    records = [record(n, n % 4) for n in range(40)]
    write(made, *records)
    stuck: dict[Where, int] = {(TOPIC, 2): position_of(made, records[10])}
    made.ack(made.tail, stuck, 32)
    of_stuck = [each for each in records[10:] if each.partition == 2]
    assert left(made) == of_stuck
    made.close()
    again = opened(tmp_path)
    assert left(again) == of_stuck
    assert again.places == {(TOPIC, 2)}
    write(again, record(50, 1), record(51, 2))
    assert left(again) == [*of_stuck, record(50, 1), record(51, 2)]


@pytest.mark.parametrize("lost", [1, 20, 100])
def test_a_truncated_segment_keeps_its_whole_records(
    tmp_path: Path, made: Folder, told: Counter[str], lost: int
) -> None:
    records = [record(n) for n in range(5)]
    write(made, *records)
    made.close()
    (segment,) = segments(made)
    os.truncate(segment, segment.stat().st_size - lost)
    again = opened(tmp_path, told)
    assert left(again) == records[:4]
    assert told == {"truncated": 1}
    (kept,) = again.path.glob("*.corrupt")
    frame = encode(TOPIC.encode(), *records[4][1:])
    assert kept.read_bytes() == frame[:-lost]
    assert segment.stat().st_size == again.bytes == len(HEADER) + 4 * len(frame)
    again.close()
    assert left(opened(tmp_path, told)) == records[:4]
    assert told == {"truncated": 1}


def test_a_damaged_record_is_set_aside_and_told_once(tmp_path: Path, made: Folder, told: Counter[str]) -> None:
    records = [record(n) for n in range(20)]
    write(made, *records)
    frame = encode(TOPIC.encode(), *records[0][1:])
    segment = segments(made)[0]
    data = bytearray(segment.read_bytes())
    at = data.index(records[2].value)
    data[at] ^= 1
    segment.write_bytes(data)
    assert left(made) == [*records[:2], *records[3:]]  # met by a process that runs
    made.close()
    again = opened(tmp_path, told)
    assert left(again) == [*records[:2], *records[3:]]
    assert told == {"corrupt": 1}
    (kept,) = again.path.glob("*.corrupt")
    assert kept.read_bytes() == bytes(data[len(HEADER) + 2 * len(frame) : len(HEADER) + 3 * len(frame)])


def test_a_damaged_header_costs_no_record(tmp_path: Path, made: Folder, told: Counter[str]) -> None:
    records = [record(n) for n in range(5)]
    write(made, *records)
    made.close()
    (segment,) = segments(made)
    segment.write_bytes(b"X" + segment.read_bytes()[1:])
    assert left(opened(tmp_path, told)) == records
    assert told == {"corrupt": 1}


def test_what_is_kept_of_damage_is_bounded(tmp_path: Path, told: Counter[str]) -> None:
    made = opened(tmp_path, segment_bytes=100_000)
    write(made, *(record(n, size=500) for n in range(20)))
    made.close()
    (segment,) = segments(made)
    data = bytearray(segment.read_bytes())
    for n in range(0, 20, 2):
        data[data.index(record(n, size=500).value)] ^= 1
    segment.write_bytes(data)
    assert left(opened(tmp_path, told, corrupt_bytes=3000)) == [record(n, size=500) for n in range(1, 20, 2)]
    kept = [path.stat().st_size for path in tmp_path.glob("*.corrupt")]
    assert len(kept) == 5
    assert sum(kept) <= 3000
    assert told == {"corrupt": 10}


@pytest.mark.parametrize("content", [b"", b"nonsense", b"0000000000000000 {}", b"\xff\xfe"])
def test_a_damaged_note_of_what_is_acked_repeats_all_that_is_there(
    tmp_path: Path, made: Folder, content: bytes
) -> None:
    records = [record(n) for n in range(5)]
    write(made, *records)
    made.ack(position_of(made, records[3]), {}, 3)
    made.close()
    (tmp_path / "acked").write_bytes(content)
    assert left(opened(tmp_path)) == records


def test_a_changed_digit_in_that_note_skips_nothing(tmp_path: Path, made: Folder) -> None:
    records = [record(n) for n in range(5)]
    write(made, *records)
    made.ack(position_of(made, records[1]), {}, 1)
    made.close()
    note = (tmp_path / "acked").read_text("utf-8")
    (tmp_path / "acked").write_text(note.replace('"done": 4', '"done": 9'), "utf-8")
    assert note != (tmp_path / "acked").read_text("utf-8")
    assert left(opened(tmp_path)) == records


def test_records_are_read_whole_however_small_the_window(
    tmp_path: Path, made: Folder, told: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [record(n, size=20 * (n % 7)) for n in range(30)]
    write(made, *records)
    segment = segments(made)[1]
    data = bytearray(segment.read_bytes())
    data[len(HEADER) + 3] ^= 1  # of the first frame's SYNC
    segment.write_bytes(data)
    expected = left(made)
    assert len(expected) == 29
    for window in (1, 3, 17, 64, 200):
        monkeypatch.setattr(spool_folder, "WINDOW_BYTES", window)
        assert left(made) == expected
    assert told == {"corrupt": 1}


def test_two_processes_cannot_have_one_folder(tmp_path: Path, made: Folder) -> None:
    with pytest.raises(InUse):
        opened(tmp_path)
    made.close()
    opened(tmp_path).close()


def test_a_write_that_fails_leaves_nothing_of_itself(
    tmp_path: Path, made: Folder, told: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(made, record(1), record(2))
    size, real = made.bytes, os.write
    room = 150

    def full(file: int, data: bytes) -> int:  # a disk that has room for one record and a half
        nonlocal room
        if room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(file, bytes(data)[:room])
        room -= written
        return written

    monkeypatch.setattr(os, "write", full)
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            write(made, record(3), record(4))
    monkeypatch.undo()
    assert (made.bytes, made.records, len(segments(made))) == (size, 2, 1)
    write(made, record(5))
    assert left(made) == [record(1), record(2), record(5)]
    made.close()
    assert left(opened(tmp_path, told)) == [record(1), record(2), record(5)]
    assert told == {}


def test_a_folder_that_is_removed_is_made_again_and_what_goes_nowhere_counts_as_not_written(
    tmp_path: Path, told: Counter[str]
) -> None:
    folder = opened(tmp_path / "0", told)
    write(folder, record(1))
    shutil.rmtree(folder.path)
    with pytest.raises(OSError, match="removed"):  # it is in a file without a name
        write(folder, record(2))
    write(folder, record(3))
    with pytest.raises(InUse):
        opened(folder.path)
    assert left(folder) == [record(3)]
    assert told == {"corrupt": 1}  # that of record 1
    folder.ack(folder.tail, {}, 1)
    assert (folder.bytes, folder.records, segments(folder)) == (0, 0, [])
    folder.close()


def test_a_segment_that_is_removed_holds_up_no_other(made: Folder, told: Counter[str]) -> None:
    records = [record(n) for n in range(40)]
    for each in records:
        write(made, each)
    first, *_, newest = segments(made)
    first.unlink()
    newest.unlink()
    rest = left(made)
    assert 0 < len(rest) < 40
    assert rest == records[records.index(rest[0]) : records.index(rest[-1]) + 1]
    assert told == {"corrupt": 2}
    assert made.bytes == sum(path.stat().st_size for path in segments(made))
    write(made, record(40))
    assert left(made) == [*rest, record(40)]


def test_a_record_that_kafka_refuses_is_kept(made: Folder, told: Counter[str]) -> None:
    write(made, record(1), record(2))
    after = made.set_aside(position_of(made, record(1)), record(1), "too large")
    assert made.read(after, 1 << 30).records == [(after, record(2))]
    (kept,) = made.path.glob("*.corrupt")
    assert kept.read_bytes() == encode(TOPIC.encode(), *record(1)[1:])
    assert told == {"refused": 1}
