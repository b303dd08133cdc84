"""What a site says of its score: weights, half-lives, amounts, sessions, indicators of its own."""

from __future__ import annotations

import random
from itertools import permutations
from math import exp2, fsum, log2
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core import score as core
from stream.signals.base import Result
from stream.signals.score import Score
from tests.unit.score_play import SIGNAL, D, at, e_of, order, page, play, settings, site_total
from tests.unit.shop_events import context, event
from tests.unit.shop_toml import SHOP
from tracker.contract import scoring
from tracker.contract.events import ORDER_COMPLETED, ProfileEvent
from tracker.contract.loading import SettingsError, load
from tracker.contract.scoring import WEIGHTS, ScoreRules


def test_other_weights_need_no_event_again() -> None:
    state = play([page(0), page(0), event("Product Reviewed", 0)])
    assert e_of(state, 0) == pytest.approx(14)
    assert e_of(state, 0, WEIGHTS | {"page": 5.0, "product_review": 1}) == pytest.approx(22)


def test_a_changed_half_life_holds_from_the_next_event_or_revision_on() -> None:
    state = play([page(0), page(0)])
    slower = context(settings=settings(ScoreRules(half_life_d=30)))
    assert e_of(play([page(7 * D)], slower, state), 7 * D) == pytest.approx(1 + 1)
    assert e_of(play([page(7 * D)], slower, state), 37 * D) == pytest.approx(1)
    revised = SIGNAL.revise(state, at(7 * D), slower).state
    assert e_of(revised, 7 * D) == pytest.approx(1)
    assert e_of(revised, 37 * D) == pytest.approx(0.5)
    assert e_of(state, 37 * D) == pytest.approx(2 * 2 ** (-37 / 7))  # one that nobody touched goes on as it was


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("score = { weights = { likes = 3 } }", "site 'shop': score.weights: unknown indicator 'likes'"),
        ("score = { weights = { page = nan } }", "score.weights.page"),
        ("score = { half_lives_d = { page = 0 } }", "half-life of 0.0 days"),
        ("score = { half_lives_d = { page = 1, form = 30, review = 90 } }", "4 different half-lives, 3 at most"),
        ("score = { half_life = 3 }", "half_life"),
        ("score = { indicators = [{ name = 'page', event = 'X' }] }", "score.indicators: 'page': a name"),
        ("score = { indicators = [{ name = 'x', event = '' }] }", "event: a name of 1 to 200 characters"),
        ("score = { indicators = [{ name = 'x', event = 'X', weight = inf }] }", "weight: inf is beyond"),
        ("lead = { mql = 80, sql = 50 }", "lead.sql must be above lead.mql"),
        ("lead = { grades = [10, 20, 30] }", "lead.grades"),
        ("lead = { fit = [{ trait = 'plan', points = 3 }] }", "the rule on trait 'plan' needs one condition"),
        ("lead = { fit = [{ trait = 'plan', points = 3, is = 'a', given = true }] }", "needs one condition"),
    ],
)
def test_settings_that_can_not_be_used_are_told_in_one_line(tmp_path: Any, table: str, told: str) -> None:
    path = tmp_path / "tracker.toml"
    path.write_text(f"{SHOP}{table}\n")
    with pytest.raises(SettingsError) as error:
        load({}, path)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name",
    ["Brand Mentioned", "Live Chat Conversation Started", "Call Logged", "Content Posted", "Content Replied"],
)
def test_events_without_a_weight_are_counted_and_get_one_without_an_event_again(name: str) -> None:
    state = play([event(name, n) for n in range(3)])
    indicator = scoring.OF_EVENT[name]
    assert SIGNAL.explain(state, at(3), context())["score"] == 0
    weighted = context(settings=settings(ScoreRules(weights={indicator: 4})))
    said = SIGNAL.explain(state, at(3), weighted)
    assert (said["raw"], said["indicators"][indicator]["events"]) == (12, 3)
    assert said["score"] == pytest.approx(12, rel=1e-4)


def test_amounts_add_up_where_they_have_a_weight() -> None:
    """Active minutes (A107), marks of surveys (A112)."""
    rules = settings(ScoreRules(weights={"active_minutes": 2, "nps": 0.5, "csat": 1, "ces": 1, "survey": 0, "page": 0}))
    ctx = context(settings=rules)
    beats = [event("Page Engaged", 0, {"engaged_ms": ms}, id=f"b{ms}") for ms in (0, 15_000, 15_001, 170_000)]
    said = [("NPS", 10, None), ("nps", 6.5, None), ("csat", 4, None), ("csat", 7, 7), ("ces", 7, None), ("x", 3, None)]
    answers = [
        event("Survey Response Received", 0, {"type": t, "score": s, **({"scale": of} if of else {})}, id=f"{t}{s}")
        for t, s, of in said
    ]
    state = play([*beats, *answers, page(0)], ctx)
    indicators = SIGNAL.explain(state, at(0), ctx)["indicators"]
    found = {name: indicators[name]["events"] for name in ("active_minutes", "nps", "csat", "ces", "survey")}
    assert found == {"active_minutes": pytest.approx(1.0, rel=1e-4), "nps": 10, "csat": 9, "ces": 7, "survey": 6}
    assert e_of(state, 0, core.rules_of(rules.sites["demo"].score).weights) == pytest.approx(2 + 5 + 9 + 7, rel=1e-4)
    assert play([page(0), *beats]).indicators.keys() == {"page"}
    assert "Page Engaged" in (SIGNAL.asks(rules.sites["demo"]) or ())
    assert "Page Engaged" not in (SIGNAL.asks(None) or ())


def test_a_site_has_indicators_of_its_own() -> None:
    watched = scoring.OwnIndicator("watched_minutes", "Video Watched", "minutes", 0.2)
    visited = scoring.OwnIndicator("store_visit", "Store Visit", weight=7)
    bought = scoring.OwnIndicator("spent", ORDER_COMPLETED, "revenue", 0.01)
    site = settings(ScoreRules(indicators=(watched, visited, bought), weights={"store_visit": 8}))
    ctx = context(settings=site)
    videos = [event("Video Watched", 0, {"minutes": m}, id=f"v{m}") for m in (30, "12.5", 0, -3, None, "x", True)]
    visits = [event("Store Visit", n) for n in range(25)]
    state = play([*videos, *visits, event(ORDER_COMPLETED, 0, {"order_id": "o", "revenue": 500})], ctx)
    said = SIGNAL.explain(state, at(0), ctx)["indicators"]
    assert (said["watched_minutes"]["events"], said["store_visit"]["events"], said["spent"]["events"]) == (
        42.5,
        25,
        500,
    )
    assert e_of(state, 0, core.rules_of(site.sites["demo"].score).weights) == pytest.approx(
        42.5 * 0.2 + 20 * 8 + 20 + 5, rel=1e-3
    )
    assert state == msgspec.json.decode(msgspec.json.encode(state), type=Score)
    one, other = play(videos, ctx), play(visits, ctx)
    both = SIGNAL.merge(one, other, at(30), ctx).state
    assert both == SIGNAL.merge(other, one, at(30), ctx).state
    result = SIGNAL.fold(None, visits[0], ctx)
    assert (result.engaged, [name for name, _, _ in result.sums]) == (True, ["store_visit"])
    assert SIGNAL.rank(play(visits, ctx), "demo", site) == pytest.approx(
        log2(8) + play(visits, ctx).indicators["store_visit"].log
    )


def test_what_an_own_indicator_adds_up_of_orders_counts_each_once() -> None:
    spent = scoring.OwnIndicator("spent", ORDER_COMPLETED, "revenue", 0.01)
    ctx = context(settings=settings(ScoreRules(indicators=(spent,))))
    paid = [event(ORDER_COMPLETED, n, {"order_id": id, "revenue": 500}) for n, id in enumerate(("o1", "o1", "o2"))]
    assert play(paid, ctx).indicators["spent"].n == 1000


SESSIONS = settings(ScoreRules(weights={"session": 5, "page": 0}))


def test_a_session_counts_when_it_began_in_whatever_order_its_events_come() -> None:
    """Sessions at 0 (to 30 min: exactly 30 minutes are none apart), and at 61 min; then an event that joins them."""
    ctx, log = context(settings=SESSIONS), [page(0), page(1800), page(3660), page(2 * D)]
    for order_ in permutations(log):
        state = play(list(order_), ctx)
        assert state.indicators["session"].n == 3
        direct = fsum(exp2(-(2 * D - s) / (7 * D)) for s in (0, 3660, 2 * D))
        assert e_of(state, 2 * D, {"session": 1}) == pytest.approx(direct, rel=1e-12)
    for order_ in permutations([*log, page(2700)]):
        state = play(list(order_), ctx)
        assert state.indicators["session"].n == 2
        assert e_of(state, 2 * D, {"session": 1}) == pytest.approx(1 + exp2(-2 / 7), rel=1e-12)
    assert state == msgspec.json.decode(msgspec.json.encode(state), type=Score)


def test_sessions_of_two_profiles_that_are_one_person_are_joined() -> None:
    ctx = context(settings=SESSIONS)
    one, other = play([page(0), page(2 * D)], ctx), play([page(1500), page(D)], ctx)
    both = SIGNAL.merge(one, other, at(3 * D), ctx).state
    assert both is not None
    assert both == SIGNAL.merge(other, one, at(3 * D), ctx).state
    assert both.indicators["session"].n == 3
    wanted = fsum(exp2(-d / 7) for d in (3, 2, 1))
    assert e_of(both, 3 * D, {"session": 1}) == pytest.approx(wanted, rel=1e-12)


_stay = st.lists(
    st.tuples(st.integers(0, 600), st.sampled_from("ppppo")).map(
        lambda drawn: page(60.0 * drawn[0]) if drawn[1] == "p" else order(60.0 * drawn[0], None)
    ),
    min_size=1,
    max_size=25,
)


@given(_stay, _stay, st.randoms(use_true_random=False))
def test_any_order_of_arrival_and_any_merge_give_the_same_site_totals(
    one: list[ProfileEvent], other: list[ProfileEvent], rng: random.Random
) -> None:
    """Ten hours: sessions are few enough to be kept one by one. (What is over a day's cap depends on the order.)"""
    ctx = context(settings=settings(ScoreRules(weights={"session": 5}, daily_cap=100)))

    def results(events: list[ProfileEvent]) -> list[Result]:
        out: list[Result] = []
        for e in events:
            out.append(SIGNAL.fold(out[-1].state if out else None, e, ctx))
        return out

    together = results(sorted([*one, *other], key=lambda e: e.timestamp_ms))
    first, second = (results(rng.sample(events, len(events))) for events in (one, other))
    merged = [*first, *second, SIGNAL.merge(first[-1].state, second[-1].state, at(D), ctx)]
    for name, tally in together[-1].state.indicators.items():
        wanted = core.value(tally, at(D))
        assert site_total(together, name, D) == pytest.approx(wanted, rel=1e-9)
        assert site_total(merged, name, D) == pytest.approx(wanted, rel=1e-9)


def test_sessions_beyond_those_that_are_kept_stay_counted() -> None:
    ctx = context(settings=SESSIONS)
    starts = [n * 3600.0 for n in range(40)]
    state = play([page(s) for s in starts], ctx)
    assert state.sessions is not None
    assert len(state.sessions.latest) == 12
    assert state.indicators["session"].n == 40
    wanted = fsum(exp2(-(40 * 3600 - s) / (7 * D)) for s in starts)
    assert e_of(state, 40 * 3600, {"session": 1}) == pytest.approx(wanted, rel=1e-9)


def test_sessions_cost_and_count_nothing_without_a_weight() -> None:
    assert SIGNAL.asks(SESSIONS.sites["demo"]) is None
    assert SIGNAL.asks(settings().sites["demo"]) is not None
    state = play([page(0)])
    assert state.sessions is None
    assert state.indicators.keys() == {"page"}
    results = [SIGNAL.fold(None, e, context(settings=SESSIONS)) for e in (page(0), event("Element Clicked", 0))]
    assert [[name for name, _, _ in r.sums] for r in results] == [["page", "session"], ["session"]]
    assert all(r.engaged for r in results)


def test_a_score_may_have_a_floor() -> None:
    log = [page(0), event("Unsubscribed", 0)]
    for floor, score in ((False, -14), (True, 0)):
        ctx = context(settings=settings(ScoreRules(floor=floor)))
        said = SIGNAL.explain(play(log, ctx), at(0), ctx)
        assert (said["score"], said["points"], said["raw"]) == (pytest.approx(score), pytest.approx(score), -14)
