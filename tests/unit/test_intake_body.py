"""Bodies: compression under the cap, text, the batch around the events."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib

import cramjam
import msgspec
import pytest

from tests.unit.intake import call, inside
from tracker.contract.events import MAX_ID_CHARS
from tracker.intake import take
from tracker.intake.body import Batch, inflate, mend, read_batch, read_key, read_text
from tracker.intake.decode import read_event
from tracker.rejections import Refusal

CAP = 100_000
MANY = 2500

# -- the body


def test_gzip_is_known_by_its_first_bytes_whatever_it_is_called() -> None:
    body = b'{"a":1}' * 1000
    for encoding in ("gzip", "", "br"):
        assert inflate(gzip.compress(body, mtime=0), encoding, CAP) == body
    assert inflate(body, "gzip", CAP) == body  # inflated by a proxy that left the header


def test_deflate_is_read_with_and_without_its_wrapper() -> None:
    body = b'{"a":1}' * 1000
    bare = zlib.compressobj(wbits=-15)
    assert inflate(zlib.compress(body), "deflate", CAP) == body
    assert inflate(bare.compress(body) + bare.flush(), "deflate", CAP) == body


@pytest.mark.parametrize(("size", "fits"), [(CAP, True), (CAP + 1, False), (100_000_000, False)])
def test_a_bomb_is_cut_at_the_cap(size: int, fits: bool) -> None:
    packer = zlib.compressobj(wbits=31)
    packed = b"".join(packer.compress(b"\0" * min(1 << 20, size - i)) for i in range(0, size, 1 << 20)) + packer.flush()
    result = inflate(packed, "gzip", CAP)
    if fits:
        assert result == b"\0" * size
    else:
        assert isinstance(result, Refusal)
        assert result.rejection.name == "request_too_large"


@pytest.mark.parametrize(
    ("body", "encoding", "name"),
    [
        (gzip.compress(b"x" * 1000, mtime=0)[:-4], "gzip", "bad_compression"),
        (gzip.compress(b"x" * 1000, mtime=0)[:30] + b"garbage" * 9, "gzip", "bad_compression"),
        (gzip.compress(b"x", mtime=0) + b"more", "gzip", "bad_compression"),
        (b"\x1f\x8b", "gzip", "bad_compression"),
        (b"xx", "deflate", "bad_compression"),
        (b"", "deflate", "bad_compression"),
        (b"{}", "compress", "unsupported_encoding"),
    ],
)
def test_damaged_compression_is_refused(body: bytes, encoding: str, name: str) -> None:
    result = inflate(body, encoding, CAP)
    assert isinstance(result, Refusal)
    assert result.rejection.name == name


def test_half_a_surrogate_pair_does_not_cost_the_batch() -> None:
    # JSON.stringify("\u{1F600}".slice(0, 1)): a text cut in the middle of an emoji.
    body = rb'{"batch":[{"x":"a\ud83d"},{"x":"\ude00"},{"x":"\ud83d\ude00 \\ud83d \uD83Dx"}]}'
    text = mend(body)
    assert json.loads(text)["batch"] == [{"x": "a\ufffd"}, {"x": "\ufffd"}, {"x": "😀 \\ud83d \ufffdx"}]
    assert isinstance(read_batch(text, CAP, CAP, MANY), Batch)


def test_text_that_is_no_utf_8_is_refused() -> None:
    result = read_text(b'{"x":"\xe9"}')
    assert isinstance(result, Refusal)
    assert result.rejection.name == "invalid_json"
    assert read_text("\ufeff{}".encode()) == b"{}"


def test_a_batch_is_an_object_with_a_list() -> None:
    for body, name in ((b"[]", "invalid_batch"), (b"{}", "invalid_batch"), (b'{"batch":1}', "invalid_batch"),
                       (b'{"batch":[],"context":[]}', "invalid_batch"), (b"{", "invalid_json"),
                       (b'{"batch":[' + b"[" * 5000, "too_deep")):  # fmt: skip
        result = read_batch(body, CAP, CAP, MANY)
        assert isinstance(result, Refusal)
        assert result.rejection.name == name
    batch = read_batch(b'{"batch":[1,{"a":[2]}],"sentAt":"x","context":null,"writeKey":"k"}', CAP, CAP, MANY)
    assert isinstance(batch, Batch)
    assert [isinstance(event, Refusal) for event in batch.events] == [True, False]
    assert [batch.original(i) for i in (1, 0)] == [b'{"a":[2]}', b"1"]
    assert (batch.around.sent_at, batch.around.context, batch.around.write_key) == ("x", msgspec.UNSET, "k")


def test_an_event_that_is_too_large_is_refused_alone() -> None:
    small, large = b'{"userId":"u"}', b'{"userId":"u","properties":{"x":"%s"}}' % (b"y" * 100)
    batch = read_batch(b'{"batch":[%s,%s,%s]}' % (small, large, small), 100, CAP, MANY)
    assert isinstance(batch, Batch)
    first, second, third = batch.events
    assert isinstance(second, Refusal)
    assert second.rejection.name == "event_too_large"
    assert first == third == read_event(small, 100)
    assert batch.original(1) == large


def test_the_key_in_a_body_is_found() -> None:
    assert read_key(b'{"event":"A","writeKey":"k"}') == "k"
    for body in (b'{"writeKey":1}', b'{"writeKey":', b'["writeKey"]', b"{}", b""):
        assert read_key(body) is None


# -- br and zstd

PACK = {"br": cramjam.brotli.compress, "zstd": cramjam.zstd.compress}


@pytest.mark.parametrize("encoding", PACK)
def test_br_and_zstd_are_inflated_where_they_are_declared(encoding: str) -> None:
    for body in (b"", b"{}", b'{"a":1}' * 14_000):
        assert inflate(bytes(PACK[encoding](body)), encoding, CAP) == body


@pytest.mark.parametrize("encoding", PACK)
@pytest.mark.parametrize(("size", "fits"), [(CAP, True), (CAP + 1, False), (CAP + 2, False), (20_000_000, False)])
def test_their_bombs_are_cut_at_the_cap(encoding: str, size: int, fits: bool) -> None:
    packed = bytes(PACK[encoding](b"\0" * size))
    tracemalloc.start()
    result = inflate(packed, encoding, CAP)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * CAP
    if fits:
        assert result == b"\0" * size
    else:
        assert isinstance(result, Refusal)
        assert result.rejection.name == "request_too_large"


@pytest.mark.parametrize("encoding", PACK)
def test_their_damage_is_refused(encoding: str) -> None:
    packed = bytes(PACK[encoding](bytes(range(256)) * 10))
    for damaged in (b"", packed[:-1], packed[: len(packed) // 2], packed + b"more", b"garbage" * 9, b'{"event":"A"}'):
        result = inflate(damaged, encoding, CAP)
        assert isinstance(result, Refusal), damaged
        assert result.rejection.name == "bad_compression"


def test_several_streams_in_one_body_are_one_text_or_refused_but_never_half_read() -> None:
    two = {name: bytes(pack(b'{"a":')) + bytes(pack(b"1}")) for name, pack in PACK.items()}
    assert inflate(two["zstd"], "zstd", CAP) == b'{"a":1}'  # RFC 8878: frames follow each other
    many = b"".join(bytes(PACK["zstd"](b"x" * 1000)) for _ in range(101))
    for packed, encoding in ((two["br"], "br"), (gzip.compress(b"{}", mtime=0) * 2, "gzip"), (many, "zstd")):
        assert isinstance(inflate(packed, encoding, CAP), Refusal)


# -- text


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-32", "cp1258"])
def test_text_of_another_encoding_is_refused(codec: str) -> None:
    body = '{"batch":[{"event":"Áo","userId":"u","type":"track"}]}'.encode(codec)
    text = read_text(body)
    result = read_batch(text, CAP, CAP, MANY) if isinstance(text, bytes) else text
    assert isinstance(result, Refusal)
    assert result.rejection.name == "invalid_json"


def test_nul_bytes_and_text_behind_the_json_are_refused() -> None:
    for body in (b'{"batch":[]}\x00', b'\x00{"batch":[]}', b'{"batch":[]} {}', b'{"batch":["\x00"]}', b""):
        assert isinstance(read_batch(body, CAP, CAP, MANY), Refusal), body


def test_surrogates_as_bytes_are_refused() -> None:
    assert isinstance(read_text(b'{"x":"\xed\xa0\x80"}'), Refusal)


def test_a_batch_lends_integrations_too() -> None:
    batch = read_batch(b'{"batch":[],"integrations":{"All":false}}', CAP, CAP, MANY)
    assert isinstance(batch, Batch)
    assert inside(batch.around.integrations) == {"All": False}
    assert isinstance(read_batch(b'{"batch":[],"integrations":[]}', CAP, CAP, MANY), Refusal)


@pytest.mark.parametrize("levels", [100, 5000, 200_000])
def test_an_event_that_is_nested_however_deeply_does_not_cost_the_batch(levels: int) -> None:
    bomb = b'{"type":"track","event":"]}","userId":"u","properties":{"a\\"{":%s1%s}}' % (
        b'[{"b":' * levels,
        b"}]" * levels,
    )
    small = b'{"type":"track","event":"[\\\\","userId":"u"}'
    batch = read_batch(b'{"batch":[%s,%s,%s],"sentAt":"x"}' % (small, bomb, small), 1 << 22, 1 << 22, MANY)
    assert isinstance(batch, Batch)
    assert batch.around.sent_at == "x"
    reasons = [
        refusal and refusal.rejection.name for _, refusal in (take(event, call(type=None)) for event in batch.events)
    ]
    assert reasons == [None, "too_deep", None]
    assert batch.original(1).startswith(b'{"type":"track","event":"]}","userId":"u","properties":{"a\\"{":[{"b":[{')
    assert batch.original(2) == small


@pytest.mark.parametrize(
    "text", [b'{"batch":' + b"[" * 100_000, b'{"batch":[' + b"[" * 9000 + b"]" * 9000 + b'"' + b'\\"' * 100_000]
)
def test_a_batch_that_is_nested_too_deeply_to_be_closed_is_refused(text: bytes) -> None:
    refusal = read_batch(text, CAP, CAP, MANY)
    assert isinstance(refusal, Refusal)
    assert refusal.rejection.name in ("too_deep", "invalid_json")


@pytest.mark.parametrize("item", [b"1", b"{}", b'{"type":"page","userId":"u"}'])
def test_of_a_batch_with_too_many_events_none_is_read(item: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(events: int) -> Batch | Refusal:
        return read_batch(b'{"batch":[%s]}' % b",".join([item] * events), 1000, CAP, MANY)

    assert isinstance(read(MANY), Batch)
    monkeypatch.setattr("tracker.intake.body.read_event", lambda *_: pytest.fail("an event was read"))
    for events in (MANY + 1, 40_000):
        refusal = read(events)
        assert isinstance(refusal, Refusal)
        assert refusal.rejection.name == "too_many_events"


def test_the_id_that_a_batch_lends_leaves_room_for_the_places_of_its_events() -> None:
    def read(chars: int) -> Batch | Refusal:
        return read_batch(b'{"batch":[{},{}],"messageId":"%s"}' % (b"m" * chars), CAP, CAP, MANY)

    assert isinstance(read(MAX_ID_CHARS - 2), Batch)
    for chars in (MAX_ID_CHARS - 1, 1000):
        refusal = read(chars)
        assert isinstance(refusal, Refusal)
        assert refusal.rejection.name == "field_too_long"


def test_what_a_batch_lends_counts_for_each_of_its_events() -> None:
    """Else 4 MB could become 2500 events of 32 KB."""
    lent = b'{"x":"%s"}' % (b"y" * 92)
    for name in (b"context", b"integrations"):
        for events, fits in ((10, True), (11, False)):
            result = read_batch(b'{"batch":[%s],"%s":%s}' % (b",".join([b"{}"] * events), name, lent), 1000, 1000, MANY)
            if fits:
                assert isinstance(result, Batch)
            else:
                assert isinstance(result, Refusal)
                assert result.rejection.name == "request_too_large"
