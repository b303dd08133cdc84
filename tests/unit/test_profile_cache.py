"""Profiles kept in memory: by bytes, the last used ones, and never those of a claim that is over."""

from __future__ import annotations

import gc
import tracemalloc

from stream.fold import Folder
from stream.profile import ABOUT, PROFILE_BYTES, Profile, ProfileCache
from stream.records import decode
from stream.signals import SIGNALS
from tests.unit.shop_events import T0_MS
from tracker.contract.events import ProfileEvent
from tracker.contract.examples import MESSAGES, profile_event
from tracker.contract.loading import load


def profile(id: str, json_bytes: int = 100) -> Profile:
    made = Profile("s", id)
    made.json_bytes = {ABOUT: json_bytes}
    return made


def test_the_oldest_go_when_the_bytes_are_used_up() -> None:
    cache = ProfileCache(3 * (PROFILE_BYTES + 400))
    view = cache.view()
    for n in range(5):
        view.keep([profile(str(n))])
        view.keep([profile("hot")])
    assert [n for n in range(5) if view.get(("s", str(n)))] == [3, 4]
    assert view.get(("s", "hot"))
    assert cache.bytes == 3 * (PROFILE_BYTES + 400)


def test_a_profile_that_grows_counts_with_its_new_size() -> None:
    cache = ProfileCache(10**6)
    view = cache.view()
    one = profile("1")
    view.keep([one])
    one.json_bytes["cart"] = 1000
    view.keep([one])
    assert cache.bytes == PROFILE_BYTES + 4 * 1100
    assert len(cache) == 1


def test_all_partitions_share_the_bytes_and_no_claim_sees_what_another_kept() -> None:
    cache = ProfileCache(2 * (PROFILE_BYTES + 400))
    before, after = cache.view(), cache.view()
    before.keep([profile("1")])
    assert after.get(("s", "1")) is None
    after.keep([profile("1")])
    before.keep([profile("2")])  # A chunk that comes to its end late puts nothing into the new owner's view.
    assert after.get(("s", "2")) is None
    after.keep([profile("3"), profile("4")])
    assert before.get(("s", "2")) is None
    assert len(cache) == 2


def test_what_redis_forgets_is_not_kept_either() -> None:
    now_s, day_s = 0.0, 86_400
    cache = ProfileCache(10**6, day_s, lambda: now_s)
    view = cache.view()
    view.keep([profile("silent"), profile("seen")])
    now_s = day_s / 2
    view.keep([view.profiles["s", "seen"]])
    now_s = day_s - 1800
    view.keep([])  # a clock record
    assert view.get(("s", "silent")) is None
    assert view.get(("s", "seen"))
    assert cache.bytes == PROFILE_BYTES + 400


def test_no_bytes_is_no_cache() -> None:
    cache = ProfileCache(0)
    view = cache.view()
    view.keep([profile("1")])
    assert (view.get(("s", "1")), cache.bytes, len(cache)) == (None, 0, 0)


def test_the_estimate_is_what_profiles_take() -> None:
    """The estimate must not be far below: a setting in bytes is a promise."""
    folder = Folder(SIGNALS, load({}))
    stored: list[list[str]] = []
    for n in range(500):
        one = Profile("demo", f"p{n}")
        chunk = decode([profile_event(name) for name in MESSAGES])
        for index, event in chunk.items:
            if isinstance(event, ProfileEvent):
                event.profile_id, event.timestamp_ms = one.id, T0_MS + index * 1000
        folder.fold(chunk, {(e.site, one.id): one for _, e in chunk.items if isinstance(e, ProfileEvent)}, [], {}, 0)
        one.changed = {ABOUT, *one.states}
        _, fields = folder.codec.write(one)
        stored.append([x if isinstance(x, str) else bytes(x)[5:].decode() for x in fields])
    gc.collect()
    tracemalloc.start()
    try:
        cache = ProfileCache(10**9)
        view = cache.view()
        for n, fields in enumerate(stored):
            view.keep([folder.codec.decode("demo", f"p{n}", fields)])
        gc.collect()
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.9 * used < cache.bytes < 2 * used, (used, cache.bytes)
