from __future__ import annotations

import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.contract import codec
from tracker.contract.events import decode_profile_event, profile_prefix, with_profile


@given(st.text(max_size=40), st.text(max_size=40))
def test_profile_ids_are_uuid5_of_site_type_and_value(site: str, value: str) -> None:
    assert codec.new_profile_id(site, "user_id", value) == str(uuid.uuid5(codec.NAMESPACE, f"{site}\0user_id\0{value}"))


def test_a_key_has_the_partition_that_librdkafka_gives_it() -> None:
    # kcat -P -t T -p -1 -X partitioner=consistent with these keys, 64 partitions: crc32 mod partitions.
    assert codec.partition_of(b"", 64) == 0
    assert codec.partition_of(b"123456789", 64) == 0xCBF43926 % 64


def test_the_splice_is_the_event_with_two_fields_in_front() -> None:
    event = {"site": "s", "type": "page", "messageId": "m", "timestampMs": 1, "receivedAtMs": 2}
    value = with_profile(json.dumps(event).encode(), profile_prefix(b"pid", 3), 17, 0)
    assert json.loads(value) == {"profileId": "pid", "src": [3, 17, 0]} | event
    assert decode_profile_event(value).src == (3, 17, 0)


@given(st.uuids())
def test_the_texts_and_bytes_of_uuids_are_pythons(id: uuid.UUID) -> None:
    assert codec.uuid_text(id.bytes) == str(id)
    assert codec.uuid_bytes(str(id)) == id.bytes


@pytest.mark.parametrize("text", ["", "0" * 31, "0" * 33, "x" * 32, "0" * 30])
def test_what_is_no_uuid_has_no_bytes(text: str) -> None:
    with pytest.raises(ValueError, match=r"UUID|hexadecimal"):
        codec.uuid_bytes(text)
