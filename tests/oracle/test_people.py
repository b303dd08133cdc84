"""The union-find sees a wrong decision, and leaves alone what the order of arrival decides."""

from __future__ import annotations

import pytest

from tests.oracle.fold import Json
from tests.oracle.people import Place, wrong_decisions

Who = tuple[str | None, str | None, set[str]]


def judged(*who: Who, merges: tuple[tuple[str, str], ...] = ()) -> list[str]:
    """Events of (anonymousId, userId, decided profile ids)."""
    events: dict[Place, Json] = {
        (0, n): {"site": "s", "type": "page", "anonymousId": anonymous, "userId": user}
        for n, (anonymous, user, _) in enumerate(who)
    }
    return wrong_decisions(events, {(0, n): set(found) for n, (_, _, found) in enumerate(who)}, merges)


def test_two_devices_of_one_user_may_have_a_profile_each_before_they_log_in() -> None:
    assert (
        judged(("a", None, {"A"}), ("b", None, {"B"}), ("a", "u", {"A"}), ("b", "u", {"A"}), ("b", None, {"A"})) == []
    )


def test_a_device_that_two_users_share_is_either_ones() -> None:
    assert judged(("a", None, {"A"}), ("a", "u", {"A"}), ("a", "v", {"V"}), ("a", None, {"V"})) == []


@pytest.mark.parametrize(
    ("who", "says"),
    [
        ([("a", None, {"A", "B"})], "has 2 profiles"),
        ([("a", None, set())], "has 0 profiles"),
        ([("a", "u", {"A"}), (None, "u", {"U"})], "several profiles"),
        ([("a", "u", {"A"}), ("a", "v", {"A"})], "several users"),
        ([("a", None, {"A"}), ("b", None, {"A"})], "share no id"),
        ([("a", None, {"A"}), ("b", "u", {"A"})], "share no id"),
    ],
)
def test_a_wrong_decision_is_told(who: list[Who], says: str) -> None:
    (wrong,) = judged(*who)
    assert says in wrong


def test_profiles_that_were_merged_are_one() -> None:
    split: list[Who] = [("a", "u", {"A"}), (None, "u", {"U"})]
    assert judged(*split, merges=(("A", "U"),)) == []
