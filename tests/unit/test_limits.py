"""Rates, guesses and connections: what is let through, and that no flood makes the state grow."""

from __future__ import annotations

import sys
import time
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.contract.loading import load
from tracker.intake.draft import DEFAULT_POLICY
from tracker.keys import Owner
from tracker.limits import Connections, Limiter, Limits
from tracker.rejections import (
    INVALID_KEY,
    MISPLACED_SECRET_KEY,
    MISSING_KEY,
    RATE_LIMITED,
    TOO_MANY_BAD_KEYS,
    Refusal,
    refuse,
)

SHOP, OTHER = (Owner(name, "client", frozenset(), DEFAULT_POLICY) for name in ("shop", "other"))


def test_a_burst_goes_through_and_then_what_flows_in() -> None:
    limiter = Limiter(10, 5, 100)
    assert [limiter.take("k", 1, 100.0) for _ in range(5)] == [0.0] * 5
    assert limiter.take("k", 1, 100.0) == pytest.approx(0.1)
    assert limiter.take("k", 1, 100.05) == pytest.approx(0.05)
    assert limiter.take("k", 1, 100.11) == 0.0
    assert limiter.take("k", 1, 100.11) > 0.0


@given(
    st.floats(0.1, 1e5), st.integers(1, 10_000), st.floats(0, 1e6),
    st.lists(st.tuples(st.integers(1, 20_000), st.floats(0, 10)), min_size=1, max_size=60),
)  # fmt: skip
def test_never_more_than_burst_rate_and_one_oversized_take(
    rate_s: float, burst: int, start_s: float, takes: list[tuple[int, float]]
) -> None:
    limiter = Limiter(rate_s, burst, 10)
    now_s, let_through = start_s, 0
    for cost, pause_s in takes:
        now_s += pause_s
        # Before each take, all that went through fits into what has flowed in since, plus one bucket.
        if limiter.take("k", cost, now_s) == 0.0:
            assert let_through + min(cost, burst) <= burst + rate_s * (now_s - start_s) * (1 + 1e-9) + 1e-3 * rate_s + 1
            let_through += cost


@given(st.floats(0.01, 1e5), st.integers(1, 10_000), st.integers(1, 20_000), st.floats(0, 1e9))
def test_after_the_time_it_names_it_lets_through(rate_s: float, burst: int, cost: int, now_s: float) -> None:
    limiter = Limiter(rate_s, burst, 10)
    assert limiter.take("k", cost, now_s) == 0.0  # a full bucket lets anything through: nothing is refused for ever
    while not (wait_s := limiter.take("k", cost, now_s)):
        pass
    assert limiter.take("k", cost, now_s + ceil(wait_s)) == 0.0


def test_one_name_does_not_slow_another() -> None:
    limiter = Limiter(1, 1, 100)
    assert limiter.take("loud", 1, 0.0) == 0.0
    for _ in range(1000):
        assert limiter.take("loud", 1, 0.0) > 0
    assert limiter.take("quiet", 1, 0.0) == 0.0


def test_a_million_made_up_names_add_nothing_and_forget_nobody_who_goes_on() -> None:
    limiter = Limiter(0.001, 2, 2000)
    size = 0
    for i in range(1_000_000):
        limiter.take(f"10.{i}", 1, 0.0)
        if i % 500 == 0:
            taken = limiter.take("loud", 1, 0.0)
            assert (taken == 0.0) == (i < 1000)
            size = max(size, limiter.names)
    assert size <= 2001
    assert sys.getsizeof(limiter._young) + sys.getsizeof(limiter._old) < 500_000


def test_a_take_costs_less_than_the_hot_path_notices() -> None:
    limiter = Limiter(1e9, 10**9, 1000)
    best_s = 1.0
    for _ in range(5):
        started_s = time.perf_counter()
        for i in range(10_000):
            limiter.take("k", 20, i)
        best_s = min(best_s, (time.perf_counter() - started_s) / 10_000)
    assert best_s < 2e-6  # 0.3 us on an idle machine


def rejected(refusal: object) -> tuple[str, int]:
    assert isinstance(refusal, Refusal)
    return refusal.rejection.name, refusal.retry_after_s


def test_without_settings_only_guesses_are_limited() -> None:
    limits = Limits(load({}))
    for _ in range(2000):
        assert limits.request("10.0.0.1", 0.0) is None
        assert limits.events(SHOP, 2500, 0.0) is None
    unknown = refuse(INVALID_KEY)
    assert [limits.guess(unknown, "10.0.0.1", 0.0) for _ in range(100)] == [unknown] * 100
    assert rejected(limits.guess(unknown, "10.0.0.1", 0.0)) == (TOO_MANY_BAD_KEYS.name, 1)


def test_who_has_guessed_too_often_gets_no_answer_to_a_right_guess() -> None:
    limits = Limits(load({}, rate_limit_bad_keys_s=0.5, rate_limit_bad_keys_burst=3))
    secret = SHOP._replace(source="import")
    unknown, misplaced, missing = refuse(INVALID_KEY), refuse(MISPLACED_SECRET_KEY), refuse(MISSING_KEY)
    for _ in range(3):
        for found in (secret, misplaced, unknown):
            assert limits.guess(found, "10.0.0.1", 0.0) is found
    for _ in range(5):  # asking takes nothing
        for found in (secret, misplaced, unknown):
            assert rejected(limits.guess(found, "10.0.0.1", 0.0)) == (TOO_MANY_BAD_KEYS.name, 2)
    for found in (SHOP, missing):
        assert limits.guess(found, "10.0.0.1", 0.0) is found
    assert limits.guess(secret, "10.0.0.2", 0.0) is secret
    assert limits.guess(secret, "10.0.0.1", 2.0) is secret


def test_the_wait_is_told_in_whole_seconds() -> None:
    limits = Limits(load({}, rate_limit_key_events_s=10, rate_limit_key_burst_events=20))
    assert limits.events(SHOP, 100, 0.0) is None  # more than a bucket, but the bucket was full
    assert rejected(limits.events(SHOP, 5, 0.0)) == (RATE_LIMITED.name, 9)
    assert limits.events(OTHER, 20, 0.0) is None
    assert limits.events(SHOP, 5, 9.0) is None


def test_an_ipv6_customer_is_one_address_whatever_host_part_is_made_up() -> None:
    limits = Limits(load({}, rate_limit_ip_requests_s=1, rate_limit_ip_burst_requests=2))
    assert limits.request("2001:db8:1:2::1", 0.0) is None
    assert limits.request("2001:db8:1:2:ffff::9", 0.0) is None
    assert rejected(limits.request("2001:db8:1:2:1:2:3:4", 0.0)) == (RATE_LIMITED.name, 1)
    assert limits.request("2001:db8:1:3::1", 0.0) is None
    assert limits.request("10.0.0.1", 0.0) is None


def test_connections_are_limited_in_all_and_of_one_peer() -> None:
    connections = Connections(3, 2)
    assert [connections.admit("a") for _ in range(3)] == [True, True, False]
    assert [connections.admit("b"), connections.admit("c")] == [True, False]
    connections.leave("a")
    assert connections.admit("c")
    assert connections.open == 3
    for peer in ("a", "b", "c"):
        connections.leave(peer)
    assert connections.open == 0
    assert connections._by_peer == {}


def test_peers_without_a_limit_of_their_own_still_count_in_all() -> None:
    connections = Connections(3, 1)
    assert [connections.admit("") for _ in range(4)] == [True, True, True, False]
