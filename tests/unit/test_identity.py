from __future__ import annotations

import pytest

from stream.core.identity import usable
from stream.resolve import identifiers
from tracker.contract.events import EventHead


@pytest.mark.parametrize(
    "value",
    ["", " ", "null", "None", '"null"', "NaN", "guest", "anonymous", "undefined", "0", "000", "0-0", "-1", "---",
     "[object Object]", "true", "x" * 201],
)  # fmt: skip
def test_a_value_that_everybody_sends_means_nobody(value: str) -> None:
    assert usable(value) is None


@pytest.mark.parametrize(
    "value", ["u1", "a@shop.example", "00000000-0000-4000-8000-00000000000a", "x" * 200, "nullable"]
)
def test_an_ordinary_value_is_kept_as_it_is(value: str) -> None:
    assert usable(value) == value


def test_alias_says_that_the_previous_id_is_the_same_person() -> None:
    head = EventHead(
        site="s", type="alias", message_id="m", received_at_ms=0, user_id="u1", anonymous_id=None, previous_id="a1"
    )
    assert identifiers(head) == ("a1", "u1")
