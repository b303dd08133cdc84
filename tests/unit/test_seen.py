from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream import seen
from stream.seen import Seen

HASHES = st.integers(min_value=0, max_value=2**64 - 1)


def test_a_hash_is_known_after_it_was_added_and_not_before() -> None:
    window = Seen(24)
    assert window.among([5, 6]) == set()
    window.add(100, 5)
    assert window.among([5, 6]) == {5}


@given(st.lists(st.tuples(st.integers(0, 20), HASHES), max_size=300), st.lists(HASHES, max_size=50))
def test_it_answers_as_a_set_would_while_everything_is_in_the_window(
    added: list[tuple[int, int]], asked: list[int]
) -> None:
    window, oracle = Seen(24), set()
    for hour, h in sorted(added):
        window.add(hour, h)
        oracle.add(h)
    assert window.among([*asked, *oracle]) == oracle


def test_many_hashes_go_through_sorted_runs_and_stay_known() -> None:
    window = Seen(24)
    count = 3 * seen.FRESH + 17
    for i in range(count):
        window.add(7, i * 2654435761 % 2**64)
    known = {i * 2654435761 % 2**64 for i in range(count)}
    assert window.among([*known, *(i * 2654435761 % 2**64 for i in range(count, count + 1000))]) == known


def test_hours_out_of_the_window_are_forgotten_as_a_whole() -> None:
    window = Seen(24)
    window.add(0, 1)
    window.add(24, 2)
    window.add(29, 3)
    assert window.among([1, 2, 3]) == {1, 2, 3}  # hours 0 to 5 share a span, and hour 5 is in the window of hour 29
    window.add(30, 4)
    assert window.among([1, 2]) == {2}


def test_what_redis_kept_is_known_after_loading() -> None:
    window = Seen(24)
    hashes = [3, 2**63 + 1, 17]
    window.load(5, b"".join(h.to_bytes(8, "big") for h in hashes))
    assert window.among([*hashes, 4]) == set(hashes)
