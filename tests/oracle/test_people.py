"""The union-find sees a wrong decision, and leaves alone what the order of arrival decides."""

from __future__ import annotations

import pytest

from tests.oracle.events import Json
from tests.oracle.people import Place, identifiers_in_redis, taken_off, wrong_decisions

Who = tuple[str | None, str | None, set[str]]


def judged(*who: Who, merges: tuple[tuple[str, str], ...] = ()) -> list[str]:
    """Events of (anonymousId, userId, decided profile ids)."""
    events: dict[Place, Json] = {
        (0, n): {"site": "s", "type": "page", "anonymousId": anonymous, "userId": user}
        for n, (anonymous, user, _) in enumerate(who)
    }
    return wrong_decisions(events, {(0, n): set(found) for n, (_, _, found) in enumerate(who)}, merges)


def test_two_devices_of_one_user_may_have_a_profile_each_before_they_log_in_which_then_are_merged() -> None:
    who: list[Who] = [
        ("a", None, {"A"}), ("b", None, {"B"}), ("a", "u", {"A"}), ("b", "u", {"A"}), ("b", None, {"A"}),
    ]  # fmt: skip
    assert judged(*who, merges=(("A", "B"),)) == []
    (wrong,) = judged(*who)
    assert "several profiles" in wrong


def test_more_devices_than_a_profile_may_have_are_not_all_merged() -> None:
    who: list[Who] = [(f"a{n}", "u", {"A"}) for n in range(5)]
    assert judged(*who, ("a5", None, {"B"}), ("a5", "u", {"A"})) == []
    assert judged(*who[:4], ("a4", None, {"B"}), ("a4", "u", {"A"})) != []


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


def test_the_keys_of_identifiers_agree_with_each_other_and_with_the_merge_log() -> None:
    good: Json = {
        "{s:s}:id:user_id:u": b"A", "{s:s}:id:anonymous_id:a": b"A", "{s:s}:to:B": b"A",
        "{s:s}:ids:A": {"user_id:u": "1", "anonymous_id:a": "2", "first_seen_ms": "0"},
    }  # fmt: skip
    assert identifiers_in_redis(good, [("A", "B")]) == []
    assert len(identifiers_in_redis(good, [])) == 1
    assert len(identifiers_in_redis(good, [("A", "B"), ("A", "C")])) == 1
    assert len(identifiers_in_redis({**good, "{s:s}:ids:B": {"first_seen_ms": "0"}}, [("A", "B")])) == 1
    assert len(identifiers_in_redis({**good, "{s:s}:id:email:x@y.z": b"A"}, [("A", "B")])) == 1
    assert len(identifiers_in_redis({**good, "{s:s}:id:user_id:u": b"B"}, [("A", "B")])) == 2


def test_who_was_taken_off_a_profile_is_the_new_one_until_they_meet_again() -> None:
    unmerge = {"site": "s", "profileId": "A", "newProfileId": "N", "ids": [["user_id", "u"]]}
    key = "{s:s}:id:user_id:u"
    assert taken_off({key: b"N"}, [unmerge], []) == []
    assert taken_off({key: b"A"}, [unmerge], [("A", "N")]) == []
    (wrong,) = taken_off({key: b"A"}, [unmerge], [("A", "B")])
    assert "is A's" in wrong
    (wrong,) = taken_off({}, [unmerge], [])
    assert "nobody" in wrong


def test_an_order_that_two_people_carry_is_the_first_ones_unless_both_have_users() -> None:
    def judged(*who: tuple[str | None, str | None, str]) -> list[str]:
        events: dict[Place, Json] = {
            (0, n): {"site": "s", "type": "track", "event": "Order Completed", "anonymousId": anonymous, "userId": user,
                     "properties": {"order_id": "o1"}}
            for n, (anonymous, user, _) in enumerate(who)
        }  # fmt: skip
        before: dict[Place, Json] = {
            (1, n): {"site": "s", "type": "page", "anonymousId": anonymous, "userId": user}
            for n, (anonymous, user, _) in enumerate(who)
        }
        own = {(1, n): {(user or anonymous or "").upper()} for n, (anonymous, user, _) in enumerate(who)}
        return wrong_decisions(events | before, own | {(0, n): {id} for n, (_, _, id) in enumerate(who)})

    assert judged(("a", None, "A"), (None, "u", "A")) == []
    assert judged(("a", None, "U"), (None, "u", "U")) == []
    assert judged((None, "v", "V"), (None, "u", "U")) == []
    assert "several profiles" in judged(("a", None, "A"), (None, "u", "U"))[0]
    assert "did not carry" in judged(("a", None, "X"), (None, "u", "X"))[0]


def test_an_order_of_a_cart_that_another_carried_first_is_that_ones_by_whatever_name_it_goes() -> None:
    def event(anonymous: str, **properties: str) -> Json:
        name = "Order Completed" if properties else "Page Read"
        return {"site": "s", "type": "track", "event": name, "anonymousId": anonymous, "properties": properties}

    told = [
        (event("a"), "A"), (event("b"), "B"), (event("b", cart_id="c1"), "B"),
        (event("a", order_id="o1", cart_id="c1"), "B"), (event("a", order_id="o1"), "B"),
    ]  # fmt: skip
    events: dict[Place, Json] = {(0, n): event for n, (event, _) in enumerate(told)}
    decided = {(0, n): {id} for n, (_, id) in enumerate(told)}
    assert wrong_decisions(events, decided) == []
    del events[0, 2], events[0, 3]  # then nobody but a has to do with the order
    assert "several profiles" in wrong_decisions(events, decided)[0]
