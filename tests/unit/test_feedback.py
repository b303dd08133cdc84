"""NPS, CSAT, CES, ratings, reviews, support times and reasons by the vectors of domain.md, through the real fold."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from typing import Any

import pytest

from stream.core.feedback import MAX_CASES, Answer, Feedback, Whose, difference
from stream.signals.feedback import FeedbackSignal
from tests.unit.counting import T0_MS, Counting, track
from tests.unit.shop_events import context
from tracker.reports.feedback import feedback

DAY_MS = 86_400_000


def survey(type: str, score: Any, pid: str = "p1", at_ms: int = T0_MS, **more: Any) -> dict[str, Any]:
    return track("Survey Response Received", at_ms, pid, type=type, score=score, **more)


def total(found: Counting, metric: str) -> Any:
    return feedback(found.net("feedback"))["total"][metric]


def by(found: Counting, what: str) -> dict[str, Any]:
    return {g["key"]: g for g in feedback(found.net("feedback"), what)["groups"]}


@pytest.mark.parametrize(
    ("scores", "nps", "margin"),
    [
        ((10, 9, 8, 7, 6, 0), 0.0, 196 * (2 / 3 / 6) ** 0.5),
        ((7, 8), 0.0, 0.0),
        ((), None, None),
        ((9, 9, 0, 8), 25.0, 196 * (0.6875 / 4) ** 0.5),
    ],
)
def test_the_nps_of_the_spec(scores: tuple[int, ...], nps: float | None, margin: float | None) -> None:
    found = Counting().take(*(survey("nps", score, f"p{i}") for i, score in enumerate(scores)))
    answer = total(found, "nps")
    assert (answer["nps"], answer["n"]) == (nps, len(scores))
    assert answer["margin"] == (None if margin is None else pytest.approx(margin, abs=1e-3))


@pytest.mark.parametrize("score", [11, 6.5, -1, "x", None, True, [9]])
def test_what_is_no_answer_on_nps_is_rejected_and_counted(score: Any) -> None:
    assert total(Counting().take(survey("nps", score)), "nps") == {
        "n": 0, "promoters": 0, "passives": 0, "detractors": 0, "nps": None, "margin": None, "rejected": 1,
    }  # fmt: skip


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_one_answer_a_visitor_and_survey_counts_the_latest_in_any_order(order: tuple[int, ...]) -> None:
    answers = [survey("nps", score, at_ms=T0_MS + i * DAY_MS, campaign_id=f"c{i}") for i, score in enumerate((0, 3, 9))]
    found = Counting().take(*(answers[i] for i in order))
    assert (total(found, "nps")["n"], total(found, "nps")["nps"]) == (1, 100.0)
    assert {key: g["nps"]["n"] for key, g in by(found, "campaign").items() if g["nps"]["n"]} == {"c2": 1}
    found.take(survey("nps", 2, survey_id="other"), survey("nps", 5, "p2"))
    assert total(found, "nps")["n"] == 3


def test_an_answer_of_each_of_two_profiles_that_are_one_person_is_one() -> None:
    one = Feedback({"s": Answer(5, 9, Whose("email"))})
    other = Feedback({"s": Answer(7, 2, Whose("site")), "t": Answer(1, 7, Whose())})
    result = FeedbackSignal().merge(one, other, T0_MS, context())
    assert result == FeedbackSignal().merge(other, one, T0_MS, context())
    assert result.state.nps == {"s": Answer(7, 2, Whose("site")), "t": Answer(1, 7, Whose())}
    assert result.counts_at == (("feedback_undone|nps|9|email", 1, 5),)


@pytest.mark.parametrize(
    ("answers", "percent", "mean"),
    [
        ([(5, None), (5, None), (4, 5), (3, 5), ("1", "5")], 60.0, 3.6),
        ([(6, 7), (5, 7)], 50.0, 55 / 14),
        ([(3, 3), (2, 3)], 50.0, 25 / 6),
        ([("up", "thumbs"), (False, "thumbs")], 50.0, 3.75),
        ([], None, None),
    ],
)
def test_the_csat_of_the_spec(answers: list[tuple[Any, Any]], percent: float | None, mean: float | None) -> None:
    found = Counting().take(*(survey("csat", score, scale=scale) for score, scale in answers))
    answer = total(found, "csat")
    assert (answer["n"], answer["percent"], answer["rejected"]) == (len(answers), percent, 0)
    assert answer["mean"] == (None if mean is None else pytest.approx(mean))
    assert sum(answer["distribution"].values()) == len(answers)


@pytest.mark.parametrize(("score", "scale"), [(6, 5), (0, 5), (4.5, 5), (3, 4), (8, 7), ("maybe", "thumbs"), (1, [5])])
def test_what_is_out_of_its_scale_is_rejected(score: Any, scale: Any) -> None:
    answer = total(Counting().take(survey("csat", score, scale=scale)), "csat")
    assert (answer["n"], answer["rejected"], answer["percent"]) == (0, 1, None)


@pytest.mark.parametrize(
    ("answers", "mean", "easy"),
    [
        ([{"score": s} for s in (7, 6, 5, 2)], 5.0, 75.0),
        ([{"score": 1, "scale": 5, "inverted": True}, {"score": 5, "scale": 5, "inverted": True}], 4.0, 50.0),
        ([{"score": 2, "scale": 5}], 2.5, 0.0),
        ([], None, None),
    ],
)
def test_the_ces_of_the_spec(answers: list[dict[str, Any]], mean: float | None, easy: float | None) -> None:
    found = Counting().take(*(survey("ces", a.pop("score"), **a) for a in [dict(a) for a in answers]))
    assert (total(found, "ces")["mean"], total(found, "ces")["easy_percent"]) == (mean, easy)
    assert total(Counting().take(survey("ces", 8)), "ces")["rejected"] == 1


def test_the_mean_rating_of_the_spec_by_product() -> None:
    found = Counting().take(*(track("Product Reviewed", rating=r, product_id="A") for r in (5, "4", 4)))
    found.take(track("Product Reviewed", product_id="B", rating=2.5), track("Product Reviewed", rating=6))
    assert by(found, "product")["A"]["rating"]["mean"] == pytest.approx(4.333, abs=1e-3)
    assert total(found, "rating") == {
        "n": 4, "mean": 3.875, "distribution": {"2.5": 1, "4": 2, "5": 1}, "rejected": 1,
    }  # fmt: skip
    assert total(Counting(), "rating")["mean"] is None


def test_the_review_rate_is_of_the_requests() -> None:
    found = Counting()
    for i in range(4):
        found.take(survey("nps", 9, f"p{i}"), track("Order Delivered", T0_MS, f"p{i}", order_id=f"o{i}"))
    assert total(found, "reviews")["rate"] is None
    found.clock(T0_MS + 8 * DAY_MS).take(track("Product Reviewed", T0_MS + 9 * DAY_MS, rating=5, order_id="o1"))
    assert total(found, "reviews") == {"requested": 4, "received": 1, "rate": 0.25}


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_support_times_in_any_order(order: tuple[int, ...]) -> None:
    case: dict[str, Any] = {"ticket_id": "t1", "agent_id": "an"}
    events = [
        track("Ticket Opened", T0_MS, **case), track("Ticket Answered", T0_MS + 60_000, **case),
        track("Ticket Resolved", T0_MS + 600_000, **case),
    ]  # fmt: skip
    found = Counting().take(*(events[i] for i in order), track("Call Logged", channel="call"))
    support = total(found, "support")
    assert (support["tickets"], support["calls"], support["resolved"]) == (1, 1, 1)
    assert support["first_response"] == {"n": 1, "mean_s": 60.0, "median_s": pytest.approx(60, rel=0.09)}
    assert support["resolution"] == {"n": 1, "mean_s": 600.0, "median_s": pytest.approx(600, rel=0.09)}
    assert by(found, "agent")["an"]["support"]["resolution"]["mean_s"] == 600.0


def test_chats_and_cases_that_nobody_can_tell_apart() -> None:
    chat: dict[str, Any] = {"conversation_id": "c1"}
    found = Counting().take(
        track("Live Chat Conversation Started", **chat),
        track("Live Chat Message Received", T0_MS + 5000, **chat),
        track("Live Chat Message Received", T0_MS + 9000, **chat),
        track("Live Chat Conversation Ended", T0_MS + 20_000, **chat),
        track("Ticket Opened"), track("Ticket Opened"), track("Ticket Resolved", T0_MS + 1000),
    )  # fmt: skip
    support = total(found, "support")
    assert (support["chats"], support["tickets"], support["resolved"]) == (1, 2, 2)
    assert (support["first_response"]["mean_s"], support["resolution"]["mean_s"]) == (5.0, 20.0)


def test_cases_are_bounded_and_what_was_counted_stays() -> None:
    found = Counting().take(*(track("Ticket Opened", T0_MS + i, ticket_id=i) for i in range(MAX_CASES + 5)))
    state = found.profiles["demo", "p1"].states["feedback"]
    assert len(state.cases) == MAX_CASES
    assert total(found, "support")["tickets"] == MAX_CASES + 5
    assert difference(state, state) == []


def test_reasons_are_shared_out_by_kind_of_survey() -> None:
    found = Counting()
    for type, reason in (("churn", "Price"), ("churn", " price"), ("churn", "Moved"), ("nps", "great"), ("??", "x")):
        found.take(survey(type, 5, reason=reason))
    found.take(track("Subscription Cancelled", reason="price"))
    reasons = {(r["survey"], r["key"]): r["share"] for r in feedback(found.net("feedback"))["reasons"]}
    assert reasons == {
        ("churn", "price"): pytest.approx(2 / 3), ("churn", "moved"): pytest.approx(1 / 3), ("nps", "great"): 1.0,
        ("other", "x"): 1.0, ("cancellation", "price"): 1.0,
    }  # fmt: skip


def test_channels_are_the_whole() -> None:
    found = Counting().take(
        *(track("Survey Response Received", channel=c, pid=c, type="nps", score=9) for c in ("email", "zalo", "site"))
    )
    groups = by(found, "channel")
    assert Counter({key: g["nps"]["n"] for key, g in groups.items()}) == {"email": 1, "zalo": 1, "site": 1}
    assert total(found, "nps")["n"] == 3
