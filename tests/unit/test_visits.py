"""Who was there last: of one chunk what several chunks would leave in the sorted set, the latest minute."""

from __future__ import annotations

import pytest

from stream.core.visitors import Visits
from tracker.contract.windows import Zone

ZONE = Zone("Asia/Ho_Chi_Minh")


@pytest.mark.parametrize("minutes", [(29_923_198, 29_923_140), (29_923_140, 29_923_198)])
def test_a_merge_sets_the_minute_of_the_same_chunk_not_back(minutes: tuple[int, int]) -> None:
    """It knows of use by the hour, and of nothing that was before (`last`)."""
    visits = Visits()
    for minute in minutes:
        visits.add("shop", "used", "p1", minute, None, ZONE)
    assert visits.blob(2**40)["visits"] == [["shop:used", [29_923_198, "p1"]]]


def test_an_event_that_comes_late_sets_the_minute_not_back() -> None:
    visits = Visits()
    visits.add("shop", "used", "p1", 100, 90, ZONE)
    visits.add("shop", "used", "p1", 95, 100, ZONE)
    visits.add("shop", "used", "p2", 80, 90, ZONE)
    assert visits.blob(2**40)["visits"] == [["shop:used", [100, "p1"]]]
