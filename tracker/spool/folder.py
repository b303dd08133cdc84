"""One folder of the spool: segments written at the end, read from the begin, deleted when all of them is acked.

    lock                     held (flock) by the process whose folder it is; the kernel frees it, whatever happens
    000000000007.spool       segments, by number; a new one at each start and when one is full
    acked                    how far it is acked, with a checksum; renamed into place, not fsynced: an old one repeats
    000000000007-512.corrupt bytes of segment 7 from byte 512 on that are no record, kept for a person to look at

A position is one integer: number of the segment << 32 | byte in it. `done` is the position before which all is acked,
but for the partitions in `stuck`: of those, all before theirs. So one partition that Kafka does not take holds up
nobody else.

All methods block, and belong to one thread; the plain attributes may be looked at from others.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from errno import ENOENT
from pathlib import Path
from typing import Final, NamedTuple

from xxhash import xxh3_64_hexdigest

from tracker.spool.format import HEADER, Record, encode, read

log = logging.getLogger(__name__)

Where = tuple[str, int]
"""Topic and partition."""

WINDOW_BYTES: Final = 1 << 20
"""What is read at once; more where one record is larger."""
_OFFSET: Final = (1 << 32) - 1


class InUse(OSError):
    """Another process has this folder."""


class Chunk(NamedTuple):
    records: list[tuple[int, Record]]
    """With their positions."""
    end: int
    """Position after the last one."""
    whole: bool
    """There was nothing more to read."""


class Folder:
    def __init__(
        self, path: Path, *, segment_bytes: int, corrupt_bytes: int, repaired: Callable[[str], None] = lambda kind: None
    ) -> None:
        """`corrupt_bytes`: how much is kept of what can't be read. `repaired` is told of each such place: 'truncated'
        at a segment's end, 'corrupt' elsewhere; 'refused' is what Kafka does not take."""
        self.path = path
        self._segment_bytes = segment_bytes
        self._corrupt_bytes = corrupt_bytes
        self._repaired = repaired
        self._sizes: dict[int, int] = {}
        """Segments that are there: number -> bytes of whole writes, in the order of numbers."""
        self._lock = self._file = -1
        self._number = 0
        """Of the newest segment, open for writing if `_file` is."""
        self.bytes = 0
        """Of all segments."""
        self.records = 0
        """That are not acked yet."""
        self.oldest_ms = 0
        """Time of the oldest of them; 0: there is none."""
        self.places: set[Where] = set()
        """Partitions that had records when it was opened."""
        self.done = 0
        self.stuck: dict[Where, int] = {}
        self._synced = 0
        """Bytes of the newest segment that are surely on disk."""
        self._told: set[Path] = set()

    # -- opening and closing

    def open(self) -> Folder:
        """Take it, and look through what an earlier process left. Raises InUse, OSError."""
        try:
            self._take()
            self._scan()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        self._end_segment()
        self._unlock()

    def _take(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._unlock()
            raise InUse(f"{self.path} is in use") from None

    def _locked(self) -> bool:
        """The lock is where others look for it; not after somebody has removed the folder."""
        try:
            return os.path.samestat(os.stat(self.path / "lock"), os.fstat(self._lock))
        except OSError:
            return False

    def _unlock(self) -> None:
        if self._lock >= 0:
            lock, self._lock = self._lock, -1
            os.close(lock)

    def _scan(self) -> None:
        numbers = sorted(int(path.stem) for path in self.path.glob("*.spool") if path.stem.isdecimal())
        self._sizes = {number: self._segment(number).stat().st_size for number in numbers}
        self._read_acked()
        self._number = max([self.done >> 32, *numbers])
        self.bytes = sum(self._sizes.values())
        for number in numbers:
            for start, end, record in self._walk(number, 0):
                if record is None:
                    if end == self._sizes[number]:
                        self._cut(number, start)
                elif not self.acked(number << 32 | start, (record.topic, record.partition)):
                    self._count(record)
                    self.places.add((record.topic, record.partition))
        self.ack(self.done, self.stuck, 0)

    def _cut(self, number: int, size: int) -> None:
        """Shorten a segment to its whole records."""
        os.truncate(self._segment(number), size)
        self.bytes -= self._sizes[number] - size
        self._sizes[number] = size

    def _count(self, record: Record) -> None:
        self.records += 1
        self.oldest_ms = self.oldest_ms or record.timestamp_ms

    # -- writing

    @property
    def tail(self) -> int:
        """Position after the last record."""
        return self._number << 32 | self._sizes.get(self._number, 0)

    def append(self, frames: Iterable[bytes], records: int, oldest_ms: int) -> None:
        """Write frames and fsync them, once for all. Raises OSError: then none of them counts as written."""
        try:
            part: list[bytes] = []
            room = self._room()
            for frame in frames:
                if len(frame) > room:
                    self._write(part)
                    part, room = [], self._room(len(frame))
                part.append(frame)
                room -= len(frame)
            self._write(part)
            self._sync()
        except OSError:
            self._give_up_segment()
            raise
        self.records += records
        self.oldest_ms = self.oldest_ms or oldest_ms

    def _room(self, needed: int = 1) -> int:
        """Bytes that still go into the segment that is written. It takes at least one frame, however large."""
        if self._file >= 0:
            room = self._segment_bytes - self._sizes[self._number]
            if room >= needed:
                return room
            self._sync()
            self._end_segment()
        number = self._number + 1
        if not self._locked():
            log.error("%s was removed: it is made again", self.path)
            self._unlock()
            self._take()
        self._file = os.open(
            self._segment(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        self._number, self._sizes[number], self._synced = number, 0, 0
        self._write([HEADER])
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)  # the file's name is part of its being there
        finally:
            os.close(folder)
        return max(needed, self._segment_bytes - len(HEADER))

    def _write(self, part: list[bytes]) -> None:
        data = memoryview(b"".join(part))
        while data:
            written = os.write(self._file, data)
            self._sizes[self._number] += written
            self.bytes += written
            data = data[written:]

    def _sync(self) -> None:
        os.fdatasync(self._file)
        if not os.fstat(self._file).st_nlink:  # written, but nobody would ever find it
            raise FileNotFoundError(ENOENT, "the segment was removed")
        self._synced = self._sizes[self._number]

    def _give_up_segment(self) -> None:
        """After an error nobody knows what of it is on disk: the next write begins a new segment, and what was not
        synced in this one goes. Its senders are told to send it again."""
        if self._file < 0:
            return
        try:
            self.bytes -= self._sizes[self._number] - self._synced
            self._sizes[self._number] = self._synced
            os.ftruncate(self._file, self._synced)
            self._end_segment()
            if not self._synced:  # a full disk must not collect empty segments
                self._segment(self._number).unlink(missing_ok=True)
                del self._sizes[self._number]
        except OSError as e:
            log.warning("%s: %s", self.path, e)

    def _end_segment(self) -> None:
        if self._file >= 0:
            file, self._file = self._file, -1
            os.close(file)

    # -- reading

    @property
    def start(self) -> int:
        """Position of the oldest record that is not acked, or before it."""
        return min((self.done, *self.stuck.values()))

    def acked(self, position: int, where: Where) -> bool:
        return position < self.stuck.get(where, self.done)

    def read(self, position: int, limit_bytes: int) -> Chunk:
        """What is not acked from `position` on, some `limit_bytes` of it. Raises OSError."""
        records: list[tuple[int, Record]] = []
        taken = 0
        for number in [number for number in self._sizes if number >= position >> 32]:
            for start, end, record in self._walk(number, position & _OFFSET if number == position >> 32 else 0):
                position = number << 32 | end
                taken += end - start
                if record is not None:
                    at = number << 32 | start
                    if not self.acked(at, (record.topic, record.partition)):
                        records.append((at, record))
                if taken >= limit_bytes:
                    return Chunk(records, position, False)
        return Chunk(records, max(position, self.tail if self._sizes else position), True)

    def _walk(self, number: int, offset: int) -> Iterator[tuple[int, int, Record | None]]:
        """(begin, end, record) of a segment, in its bytes; None for a place that can't be read, which is set aside."""
        size = self._sizes[number]
        try:
            file = self._segment(number).open("rb", buffering=0)
        except FileNotFoundError:
            self._forget(number)
            return
        with file:
            if offset < len(HEADER):
                offset = min(size, len(HEADER))
                if (header := os.pread(file.fileno(), offset, 0)) != HEADER[:offset]:
                    self._keep(number, 0, header, "corrupt")
            window = WINDOW_BYTES
            gap = -1
            while offset < size:
                data = os.pread(file.fileno(), min(window, size - offset), offset)
                final = offset + len(data) >= size or not data
                base, begun = offset, offset
                for start, end, record in read(data, 0, final):
                    offset = base + end
                    if record is None:
                        gap = base + start if gap < 0 else gap
                        continue
                    if gap >= 0:
                        yield self._gap(file.fileno(), number, gap, base + start, size)
                        gap = -1
                    yield base + start, offset, record
                if final:
                    break
                window = WINDOW_BYTES if offset > begun else window * 2
            if gap >= 0:
                yield self._gap(file.fileno(), number, gap, size, size)

    def _forget(self, number: int) -> None:
        """Somebody removed a segment: what was in it can't be sent, all others are."""
        if number == self._number:
            self._end_segment()
        size = self._sizes.pop(number)
        self.bytes -= size
        self._repaired("corrupt")
        log.error("%s with %d bytes was removed: they are lost", self._segment(number), size)

    def _gap(self, file: int, number: int, start: int, end: int, size: int) -> tuple[int, int, None]:
        kind = "truncated" if end == size else "corrupt"
        data = os.pread(file, min(end - start, self._corrupt_bytes), start)
        self._keep(number, start, data, kind, f"can't be read, to byte {end}")
        return start, end, None

    def _keep(self, number: int, start: int, data: bytes, kind: str, what: str = "can't be read") -> None:
        """Keep bytes that can't be used, and tell of them once: at the next start their file is there already."""
        path = self.path / f"{number:012d}-{start}.corrupt"
        if path.exists() or path in self._told:
            return
        self._told.add(path)
        kept = sum(each.stat().st_size for each in self.path.glob("*.corrupt"))
        try:
            if kept + len(data) <= self._corrupt_bytes:
                path.write_bytes(data)
        except OSError as e:
            log.warning("%s: %s", path, e)
        self._repaired(kind)
        log.error(
            "%s: what is there from byte %d on %s (%s): %s; all others are used",
            self._segment(number), start, what, kind,
            f"{len(data)} bytes are kept in {path.name}" if path.exists() else "dropped",
        )  # fmt: skip

    def set_aside(self, position: int, record: Record, why: str) -> int:
        """Keep a record that Kafka refuses, as the frame it is, instead of sending it for ever; -> where the next
        one begins."""
        frame = encode(record.topic.encode(), *record[1:])
        self._keep(position >> 32, position & _OFFSET, frame, "refused", f"Kafka refuses as {why}")
        return position + len(frame)

    # -- acknowledging

    def ack(self, done: int, stuck: Mapping[Where, int], records: int, oldest_ms: int = 0) -> None:
        """All before `done` is acked, but for the `stuck` partitions; `records` more than before. `oldest_ms`: of what
        is not. Deletes the segments that nobody needs any more. Raises no OSError: at worst more is repeated."""
        self.done, self.stuck = done, dict(stuck)
        self.records = max(0, self.records - records)
        if oldest_ms:
            self.oldest_ms = oldest_ms
        start = self.start
        if done >= self.tail and not self.stuck:  # also where a file can't be deleted
            self.records = self.oldest_ms = 0
        try:
            for number, size in [*self._sizes.items()]:
                if number << 32 | size > start:
                    break
                if number == self._number:
                    self._end_segment()
                self._segment(number).unlink(missing_ok=True)
                self.bytes -= size
                del self._sizes[number]
            self._write_acked()
        except OSError as e:
            log.warning("%s: what is acked can't be noted, so it may be repeated after a restart: %s", self.path, e)

    def _write_acked(self) -> None:
        state = json.dumps({"done": self.done, "stuck": [[*where, at] for where, at in self.stuck.items()]})
        new = self.path / "acked.new"
        new.write_text(f"{xxh3_64_hexdigest(state.encode())} {state}\n", "utf-8")
        new.replace(self.path / "acked")

    def _read_acked(self) -> None:
        """What is not there or not whole is as if nothing were acked: it is sent again."""
        try:
            check, _, state = (self.path / "acked").read_text("utf-8").strip().partition(" ")
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as e:
            log.warning("%s/acked: %s", self.path, e)
            return
        if check != xxh3_64_hexdigest(state.encode()):
            log.warning("%s/acked is damaged: all that is spooled is sent again", self.path)
            return
        found = json.loads(state)
        self.done = found["done"]
        self.stuck = {(topic, partition): at for topic, partition, at in found["stuck"]}

    def _segment(self, number: int) -> Path:
        return self.path / f"{number:012d}.spool"
