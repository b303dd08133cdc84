"""When a partition counts as stuck."""

from __future__ import annotations

from redis.exceptions import OutOfMemoryError, ResponseError

from stream.refusals import REFUSALS, refusal
from stream.watchdog import Progress, Standing

STUCK, BUSY = Standing(5, True), Standing(6, True)


def looks(*steps: tuple[float, dict[str, Standing], bool]) -> list[tuple[float, str | None]]:
    progress = Progress[str]()
    return [progress.look(*step) for step in steps]


def test_a_partition_with_work_that_stands_still_is_told_with_its_time() -> None:
    found = looks((0, {"a": STUCK, "b": STUCK}, False), (9, {"a": STUCK, "b": BUSY}, False), (20, {"a": STUCK}, False))
    assert found == [(0, "a"), (9, "a"), (20, "a")]


def test_without_work_standing_still_is_right() -> None:
    idle = Standing(5, False)
    assert looks((0, {"a": idle}, False), (99, {"a": idle}, False), (100, {"a": STUCK}, False))[-1] == (1, "a")


def test_work_that_never_ends_is_progress_while_the_offset_moves() -> None:
    found = looks(*((n * 10.0, {"a": Standing(n, True)}, False) for n in range(9)))
    assert {s for s, _ in found} == {0}


def test_a_partition_that_is_not_claimed_has_work() -> None:
    assert looks((0, {"a": Standing(-1, True)}, False), (7, {"a": Standing(-1, True)}, False))[-1] == (7, "a")


def test_an_outage_explains_it_and_time_counts_from_its_end() -> None:
    found = looks((0, {"a": STUCK}, False), (50, {"a": STUCK}, True), (55, {"a": STUCK}, False))
    assert found[-1] == (5, "a")


def test_a_partition_that_went_and_came_back_begins_anew() -> None:
    assert looks((0, {"a": STUCK}, False), (50, {}, False), (60, {"a": STUCK}, False))[1:] == [(0.0, None), (0, "a")]


def test_a_refusal_of_writes_is_known_by_its_code_in_whatever_a_script_says() -> None:
    script = "Error running script (call to f_1): @user_script:30: @user_script: 30: -%s command not allowed"
    for code in REFUSALS:
        assert refusal(ResponseError(script % code)) == code
    assert refusal(OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")) == "OOM"
    assert refusal(ResponseError("WRONGTYPE BOOM")) is None
