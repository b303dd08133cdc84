"""Lead stages: thresholds with hysteresis, told once a crossing, left by time alone."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from stream.core import lead
from stream.core.lead import CUSTOMER, LEAD, MQL, SQL, VISITOR
from stream.signals.base import Result
from stream.signals.score import Score, ScoreSignal
from tests.unit.score_play import D, at, order, page, settings
from tests.unit.shop_events import context, event
from tracker.contract.events import ProfileEvent
from tracker.contract.scoring import FitRule, LeadRules, ScoreRules
from tracker.contract.triggers import LeadStage

RULES = LeadRules()


def walk(points: list[float], stage: str = LEAD) -> list[tuple[str, ...]]:
    """What is entered at each of these points, one after the other."""
    out = []
    for p in points:
        stage = lead.left(stage, p, RULES)
        out.append(lead.entered(stage, p, RULES, lead=False, customer=False))
        stage = out[-1][-1] if out[-1] else stage
    return out


@pytest.mark.parametrize(
    ("points", "entered"),
    [
        ([49, 51], [(), (MQL,)]),
        ([51, 45, 52], [(MQL,), (), ()]),
        ([51, 39, 52], [(MQL,), (), (MQL,)]),
        ([51, 40, 52], [(MQL,), (), ()]),
        ([50 - 1e-12, 40 - 1e-12, 52], [(MQL,), (), ()]),
        ([51, 39.999, 49.999, 50], [(MQL,), (), (), (MQL,)]),
        ([85, 65, 81], [(MQL, SQL), (), ()]),
        ([85, 63, 81], [(MQL, SQL), (), (SQL,)]),
        ([85, 39, 85], [(MQL, SQL), (), (MQL, SQL)]),
    ],
)
def test_a_threshold_tells_once_a_crossing(points: list[float], entered: list[tuple[str, ...]]) -> None:
    assert walk(points) == entered


def test_who_is_no_lead_becomes_none_by_points_and_a_customer_stays_one() -> None:
    assert lead.entered(VISITOR, 500, RULES, lead=False, customer=False) == ()
    assert lead.entered(VISITOR, 60, RULES, lead=True, customer=False) == (LEAD, MQL)
    assert lead.entered(VISITOR, 0, RULES, lead=False, customer=True) == (CUSTOMER,)
    assert lead.entered(CUSTOMER, 500, RULES, lead=True, customer=True) == ()
    assert lead.left(CUSTOMER, 0, RULES) == CUSTOMER


@pytest.mark.parametrize(
    ("points", "grade"), [(100, "A"), (80, "A"), (79.9, "B"), (50, "B"), (20, "C"), (19.9, "D"), (-3, "D")]
)
def test_grades_go_by_points(points: float, grade: str) -> None:
    assert lead.grade(points, RULES) == grade


@pytest.mark.parametrize(
    ("rule", "fits", "does_not"),
    [
        ({"equals": "Gold"}, ["gold", "GOLD"], ["silver", None, 1, ["gold"], {}]),
        ({"equals": True}, [True], [1, "true", None, False]),
        ({"equals": 5}, [5, 5.0], [True, "5", 6]),
        ({"one_of": ("hn", "HCM")}, ["HN", "hcm"], ["dn", None, 3]),
        ({"contains": "cafe"}, ["Quán Cafe", ["bar", "CAFE"]], ["bar", 7, None, {"cafe": 1}]),
        ({"at_least": 10.0}, [10, "12.5", 1e300], [9, "x", None, True, float("nan"), 1e999, []]),
        ({"at_least": 10.0, "at_most": 20.0}, [10, 20], [21, 9.9, 10**400]),
        ({"given": True}, ["x", 0, False, [1]], [None, "", [], {}]),
        ({"given": False}, [None, ""], ["x", 0]),
    ],
)
def test_fit_rules(rule: dict[str, Any], fits: list[Any], does_not: list[Any]) -> None:
    made = FitRule(trait="t", points=7, **rule)
    for value in fits:
        assert lead.fit((made,), {"t": value}) == 7, value
    for value in does_not:
        assert lead.fit((made,), {"t": value}) == 0, value


def test_points_of_rules_add_up_and_may_be_negative() -> None:
    rules = (FitRule(trait="a", points=5, given=True), FitRule(trait="b", points=-8, given=True))
    assert lead.fit(rules, {"a": 1, "b": 2}) == -3
    assert lead.fit(rules, None) == 0


# -- the signal ------------------------------------------------------------------------------------------------------


def identify(at_s: float, id: str = "i") -> ProfileEvent:
    return replace(event("identify", at_s, id=id), type="identify", event=None)


class Person:
    """One profile, driven as the shell does."""

    def __init__(self, lead: LeadRules | None = None, score: ScoreRules | None = None, **traits: Any) -> None:
        self.signal = ScoreSignal()
        self.settings = settings(score, lead)
        self.traits = traits
        self.state: Score | None = None
        self.told: list[LeadStage] = []
        self.ids: list[str] = []
        self.gauges: dict[str, int] = {}

    def take(self, *events: ProfileEvent) -> list[str]:
        """Stages told."""
        before = len(self.told)
        for e in events:
            self.until(e.timestamp_ms)
            self._keep(self.signal.fold(self.state, e, self._ctx()))
        return [t.stage for t in self.told[before:]]

    def until(self, now_ms: int) -> None:
        if self.state is not None and self.state.due_ms is not None and self.state.due_ms <= now_ms:
            self._keep(self.signal.fire(self.state, now_ms, self._ctx()))

    def _ctx(self) -> Any:
        return context(settings=self.settings, traits=self.traits or None)

    def _keep(self, result: Result) -> None:
        self.state = result.state if result.state is not None else self.state
        for field, n in result.gauges:
            self.gauges[field] = self.gauges.get(field, 0) + n
        for t in result.triggers:
            assert isinstance(t.data, LeadStage)
            self.told.append(t.data)
            self.ids.append(t.id)

    @property
    def stage(self) -> str:
        return self.state.stage if self.state is not None else VISITOR


@pytest.mark.parametrize("how", ["Form Submitted", "Signed Up", "identify"])
def test_who_can_be_written_to_is_a_lead(how: str) -> None:
    person = Person(email="lan@example.com")
    assert person.take(identify(0) if how == "identify" else event(how, 0)) == [LEAD]
    assert person.take(event("Form Submitted", 1), identify(2)) == []
    assert person.gauges == {"stage_lead": 1}


def test_an_identify_call_without_an_address_makes_no_lead() -> None:
    person = Person(name="Lan", email=" ", phone=7)
    assert person.take(identify(0), page(1)) == []
    assert person.stage == VISITOR


@pytest.mark.parametrize("traits", [{"email": "null"}, {"email": "[object Object]", "phone": "0000000000"}])
def test_an_address_that_everybody_sends_makes_no_lead(traits: dict[str, Any]) -> None:
    person = Person(**traits)
    assert person.take(identify(0)) == []
    assert person.stage == VISITOR


def test_a_phone_number_that_is_sent_as_a_number_makes_a_lead() -> None:
    assert Person(phone=84901234567).take(identify(0)) == [LEAD]


def test_a_visitor_with_many_points_is_qualified_as_soon_as_it_is_a_lead() -> None:
    person = Person(phone="0901234567")
    assert person.take(*(event("Product Reviewed", i) for i in range(5))) == []
    assert person.take(identify(10)) == [LEAD, MQL]
    assert [(t.previous, t.stage) for t in person.told] == [(VISITOR, LEAD), (LEAD, MQL)]
    assert len(set(person.ids)) == 2
    assert person.told[-1].points == pytest.approx(60, rel=1e-4)
    assert person.told[-1].contributions == {"review": 1.0}
    assert person.gauges == {"stage_mql": 1}


NO_DECAY = ScoreRules(half_life_d=3650, weights={"message_click": 1, "ticket": -1, "form": 0.0}, daily_cap=1000)


def moved(person: Person, at_s: float, by: int) -> list[str]:
    name = "Email Link Clicked" if by > 0 else "Ticket Opened"
    return person.take(*(event(name, at_s + i / 1000, id=f"{at_s}/{i}") for i in range(abs(by))))


def test_49_to_51_fires_51_45_52_does_not_again_51_39_52_does() -> None:
    person = Person(score=NO_DECAY)
    person.take(event("Form Submitted", 0))
    assert moved(person, 1, 49) == []
    assert moved(person, 2, 2) == [MQL]
    assert moved(person, 3, -6) == []
    assert moved(person, 4, 7) == []
    assert moved(person, 5, -13) == []
    assert person.stage == LEAD
    assert moved(person, 6, 13) == [MQL]
    assert [t.times for t in person.told if t.stage == MQL] == [1, 2]
    assert len(set(person.ids)) == len(person.ids)


def test_points_that_fall_by_time_leave_a_stage_silently_at_the_moment_they_do() -> None:
    person = Person()
    person.take(event("Form Submitted", 0))
    assert person.take(*(event("Referral Converted", 1 + i, id=f"r{i}") for i in range(3))) == [MQL, SQL]
    assert person.state is not None
    assert person.state.due_ms is not None
    # 10 + 90 points fall below 64 after 7 d x log2(100/64), below 40 after 7 d x log2(100/40).
    assert person.state.due_ms == pytest.approx(at(7 * D * 0.643856), abs=5000)
    told = len(person.told)
    person.until(person.state.due_ms - 1)
    assert person.stage == SQL
    person.until(person.state.due_ms)
    assert person.stage == MQL
    assert person.state.due_ms == pytest.approx(at(7 * D * 1.321928), abs=5000)
    person.until(at(60 * D))
    assert person.stage == LEAD
    assert person.state.due_ms is None
    assert len(person.told) == told
    assert {k: n for k, n in person.gauges.items() if n} == {"stage_lead": 1}
    assert person.take(*(event("Referral Converted", 61 * D + i, id=f"s{i}") for i in range(2))) == [MQL]


def test_a_late_event_does_not_bring_back_a_stage_that_was_left_since() -> None:
    person = Person()
    person.take(event("Form Submitted", 0), *(event("Referral Converted", i, id=f"r{i}") for i in range(2)))
    person.until(at(20 * D))
    assert person.stage == LEAD
    assert person.take(event("Product Reviewed", 1, id="late")) == []
    assert person.stage == LEAD


def test_fit_counts_with_the_score_and_a_trait_alone_may_qualify() -> None:
    rules = LeadRules(fit=(FitRule(trait="employees", points=45, at_least=50),))
    person = Person(rules, email="a@b.vn")
    person.take(event("Form Submitted", 0))
    assert person.stage == LEAD
    person.traits["employees"] = 120
    assert person.take(identify(60)) == [MQL]
    assert (person.told[-1].fit, person.told[-1].grade) == (45, "B")
    assert person.state is not None
    assert person.state.due_ms is None, "45 points of traits alone hold an MQL, who leaves below 40"


def test_an_order_makes_a_customer_once_and_for_ever() -> None:
    person = Person()
    assert person.take(order(0, "o1")) == [CUSTOMER]
    assert person.take(order(1, "o2"), event("Form Submitted", 2), event("Order Refunded", 3, {"order_id": "o1"})) == []
    person.until(at(400 * D))
    assert person.stage == CUSTOMER
    assert person.gauges == {"stage_customer": 1}


def test_two_leads_that_are_one_person_come_as_far_as_their_points_together() -> None:
    one, other = Person(), Person()
    for person, name in ((one, "a"), (other, "b")):
        person.take(event("Form Submitted", 0), *(event("Product Reviewed", i, id=f"{name}{i}") for i in range(2)))
        assert person.stage == LEAD
    assert one.state is not None
    assert other.state is not None
    merged = one.signal.merge(one.state, other.state, at(60), one._ctx())
    assert merged.state.stage == MQL
    assert [t.data.stage for t in merged.triggers if isinstance(t.data, LeadStage)] == [MQL]


def test_what_was_told_of_a_merged_profile_is_not_told_again() -> None:
    one, other = Person(), Person()
    one.take(event("Form Submitted", 0))
    other.take(event("Form Submitted", 0), event("Referral Converted", 1), event("Referral Converted", 2, id="r2"))
    assert one.state is not None
    assert other.state is not None
    merged = one.signal.merge(one.state, other.state, at(60), one._ctx())
    assert merged.triggers == ()
    assert merged.state.stage == MQL


def test_other_rules_move_stages_down_at_once_and_up_with_the_next_event() -> None:
    person = Person()
    person.take(event("Form Submitted", 0), *(event("Referral Converted", i, id=f"r{i}") for i in range(2)))
    assert person.stage == MQL
    person.settings = settings(lead=LeadRules(mql=100, sql=200))
    assert person.state is not None
    person._keep(person.signal.revise(person.state, at(10), person._ctx()))
    assert person.stage == LEAD
    assert person.state.due_ms is None
    person.settings = settings(lead=LeadRules(mql=30, sql=200))
    person._keep(person.signal.revise(person.state, at(20), person._ctx()))
    assert person.stage == LEAD
    assert person.take(page(30)) == [MQL]
