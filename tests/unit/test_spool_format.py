"""The format of a segment: whatever happens to its bytes, what is read was written, and all that is whole is read."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from tracker.spool.format import SYNC, Record, encode, read

RECORDS = st.lists(
    st.builds(
        Record,
        st.text(st.characters(codec="ascii"), max_size=40),
        st.integers(0, 2**31 - 1),
        st.integers(-(2**63), 2**63 - 1),
        st.none() | st.binary(max_size=30),
        st.binary(max_size=60),
    ),
    max_size=8,
)


def bytes_of(records: list[Record]) -> list[bytes]:
    return [encode(r.topic.encode(), *r[1:]) for r in records]


def records_of(data: bytes) -> list[Record]:
    return [record for _, _, record in read(data) if record is not None]


def whole(data: bytes) -> bool:
    """What `read` tells covers the bytes, each once and in order."""
    ends = [0]
    for start, end, _ in read(data):
        assert start == ends[-1] < end
        ends.append(end)
    return ends[-1] == len(data)


@given(RECORDS)
def test_what_was_written_is_read(records: list[Record]) -> None:
    assert records_of(b"".join(bytes_of(records))) == records


@given(RECORDS, st.data())
def test_any_prefix_has_all_its_whole_records(records: list[Record], data: st.DataObject) -> None:
    frames = bytes_of(records)
    file = b"".join(frames)
    size = data.draw(st.integers(0, len(file)))
    fit = 0
    while fit < len(frames) and sum(map(len, frames[: fit + 1])) <= size:
        fit += 1
    assert records_of(file[:size]) == records[:fit]
    assert whole(file[:size])
    # Where more follows, the cut record is left for later, and nothing behind it is touched.
    ends = [end for _, end, _ in read(file[:size], final=False)]
    assert (ends or [0])[-1] == sum(map(len, frames[:fit]))


@given(RECORDS.filter(bool), st.data())
def test_a_flipped_byte_costs_its_record_and_no_other(records: list[Record], data: st.DataObject) -> None:
    frames = bytes_of(records)
    file = bytearray(b"".join(frames))
    at = data.draw(st.integers(0, len(file) - 1))
    file[at] ^= data.draw(st.integers(1, 255))
    hit = next(i for i in range(len(frames)) if at < sum(map(len, frames[: i + 1])))
    assert records_of(bytes(file)) == [*records[:hit], *records[hit + 1 :]]
    assert whole(bytes(file))


@given(RECORDS, st.data())
def test_bytes_in_between_cost_no_record(records: list[Record], data: st.DataObject) -> None:
    frames = bytes_of(records)
    junk = [data.draw(st.binary(max_size=20)) for _ in range(len(frames) + 1)]
    file = b"".join(a + b for a, b in zip(junk, [*frames, b""], strict=True))
    assert records_of(file) == records
    assert whole(file)


@given(st.binary(max_size=200))
@example(SYNC)
@example(SYNC * 10)
@example(SYNC + b"\xff\xff\xff\xff" + b"\0" * 40)
def test_any_bytes_are_read_to_their_end(file: bytes) -> None:
    assert records_of(file) == []
    assert whole(file)


@given(st.integers(0, 17), st.binary(min_size=17, max_size=17))
def test_a_frame_too_short_to_be_one_is_not_read_though_its_checksum_fits(length: int, body: bytes) -> None:
    frame = SYNC + length.to_bytes(4, "little") + xxh3_64_intdigest(body[:length], length).to_bytes(8, "little") + body
    assert records_of(frame) == []
    assert whole(frame)


def test_a_frame_of_another_version_is_not_read() -> None:
    frame = encode(b"t", 0, 0, b"k", b"v")
    assert records_of(frame.replace(SYNC, SYNC[:-1] + b"2") + frame) == [Record("t", 0, 0, b"k", b"v")]
