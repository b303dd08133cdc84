"""An unmerge in the log: the profile is no longer who was taken off it, and keeps what it has done."""

from __future__ import annotations

import json
from typing import Any

from stream.effects import MOVED, Effects
from stream.fold import Folder
from stream.profile import Profile
from stream.records import decode
from stream.signals import SIGNALS
from tracker.contract.loading import load
from tracker.contract.merges import Unmerge, decode_unmerge, encode_unmerge, split_profile_id

T0 = 1_795_000_000_000
SETTINGS = load({"TRACKER_DEMO": "1"})
UNMERGE = Unmerge(
    unmerge_id="1", site="demo", profile_id="P", new_profile_id=split_profile_id("demo", "1"),
    ids=[("user_id", "u"), ("anonymous_id", "b"), ("email", "u@shop.example")], at_ms=T0,
)  # fmt: skip


def folded(profile: Profile, *values: bytes) -> Effects:
    """The effects of a chunk in which `profile` is the only one."""
    return Folder(SIGNALS, SETTINGS).fold(decode(values), {("demo", profile.id): profile}, (), {}, 0)


def event(n: int, **fields: Any) -> bytes:
    said = {
        "profileId": "P", "src": [0, n, 0], "site": "demo", "type": "track", "event": "Product Added",
        "messageId": f"m{n}", "timestampMs": T0 + n, "receivedAtMs": T0 + n, "channel": "site",
    }  # fmt: skip
    return json.dumps(said | fields).encode()


def test_a_profile_is_no_longer_who_was_taken_off_it_and_keeps_what_it_has_done() -> None:
    profile = Profile("demo", "P")
    cart = {"properties": {"product_id": "x", "price": 3}}
    folded(profile, event(1, anonymousId="a", **cart), event(2, anonymousId="b", userId="u", **cart))
    states, due_ms = dict(profile.states), profile.due_ms
    profile.changed.clear()
    fx = folded(profile, encode_unmerge(UNMERGE), encode_unmerge(UNMERGE))
    assert profile.about is not None
    assert (profile.about.user_id, profile.about.anonymous_ids, profile.about.events) == (None, ["a"], 2)
    assert (profile.states, profile.due_ms) == (states, due_ms)
    assert profile.changed == {"about"}
    assert fx.touched == {("demo", "P"): profile}
    assert fx.triggers == []
    folded(profile, event(3, anonymousId="a", userId="v"))
    assert profile.about.user_id == "v"


def test_an_unmerge_of_a_profile_that_was_merged_is_sent_on_to_the_winner() -> None:
    profile = Profile("demo", "P")
    profile.merged_into = "W"
    (sent,) = folded(profile, encode_unmerge(UNMERGE)).triggers
    assert (sent.kind, sent.key) == (MOVED, b"W")
    record = decode_unmerge(sent.value)
    assert (record.profile_id, record.hops, record.ids) == ("W", 1, UNMERGE.ids)


def test_an_unmerge_of_a_profile_that_nobody_knows_does_nothing() -> None:
    fx = folded(Profile("demo", "P"), encode_unmerge(UNMERGE))
    assert fx.touched == {}
    assert fx.triggers == []
