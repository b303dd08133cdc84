"""Usage and engagement that fall: vectors, the timer against a look at every day, hysteresis, merges, any order."""

from __future__ import annotations

import random
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core import answers, usage
from stream.core.falling import NO_FALL, Rules, has_fallen
from stream.signals.base import Result, Signal, Trigger
from stream.signals.engagement import EngagementSignal
from stream.signals.usage import UsageSignal
from stream.signals.visit import VisitSignal
from tests.unit.shop_events import SETTINGS, context
from tracker.contract.durations import DAY_MS
from tracker.contract.events import ProfileEvent
from tracker.contract.retention import FallingRules
from tracker.contract.sites import Site
from tracker.contract.triggers import EngagementFalling, UsageFalling
from tracker.contract.windows import Zone

OFFSET_MS: Final = 7 * 3_600_000
DAY0: Final = 20_700
RULES: Final = Rules(0.5, 0.75, 5, 14 * DAY_MS)


def at_ms(day: float) -> int:
    """Local midnight of a day of the test, and on."""
    return round((DAY0 + day) * DAY_MS) - OFFSET_MS


def event(
    day: float, name: str | None, properties: Any = None, *, kind: str = "track", channel: str = "site"
) -> ProfileEvent:
    return ProfileEvent(
        profile_id="p1", src=(0, 0, 0), site="demo", type=kind, message_id=f"{name or kind}@{day}",
        timestamp_ms=at_ms(day), received_at_ms=at_ms(day), event=name, channel=channel,
        properties=msgspec.Raw(msgspec.json.encode(properties or {})),
    )  # fmt: skip


def minutes(day: float, n: int) -> list[ProfileEvent]:
    """Active minutes on a day, from its noon on: beats of half a minute."""
    return [event(day + 0.5 + i / 2880, "Page Engaged", {"engaged_ms": 30_000}) for i in range(2 * n)]


class Rig:
    """Drives signals as the shell does, with what they read."""

    def __init__(self, *signals: Signal[Any], **rules: Any) -> None:
        falling = FallingRules(**rules)
        site = Site(write_key="w" * 8, secret_key="s" * 8, usage=falling, engagement=falling)
        self.signals = signals
        self.states: dict[str, Any] = {}
        self.ctx = context(settings=msgspec.structs.replace(SETTINGS, sites={"demo": site}), states=self.states)
        self.triggers: list[Trigger] = []

    def _keep(self, signal: Signal[Any], result: Result) -> None:
        if result.state is not None:
            self.states[signal.name] = result.state
        if signal is self.signals[-1]:
            self.triggers += result.triggers

    def clock(self, day: float) -> None:
        now_ms = at_ms(day)
        while True:
            dues = [
                (due, s) for s in self.signals
                if (state := self.states.get(s.name)) is not None and (due := s.due_ms(state)) is not None
                and due <= now_ms
            ]  # fmt: skip
            if not dues:
                return
            due, signal = min(dues, key=lambda d: d[0])
            self._keep(signal, signal.fire(self.states[signal.name], due, self.ctx))
            self._settle(due)

    def _settle(self, now_ms: int) -> None:
        for s in self.signals:
            if s.reads:
                self._keep(s, s.settle(self.states.get(s.name), now_ms, self.ctx))

    def fold(self, e: ProfileEvent) -> None:
        for s in self.signals:
            if s.events is None or e.event in s.events or e.type in s.types:
                self._keep(s, s.fold(self.states.get(s.name), e, self.ctx))
        self._settle(e.timestamp_ms)

    def take(self, *events: ProfileEvent) -> None:
        for e in events:
            self.clock((e.timestamp_ms + OFFSET_MS) / DAY_MS - DAY0)
            self.fold(e)

    def told(self) -> list[tuple[float, str | None]]:
        return [((t.at_ms + OFFSET_MS) / DAY_MS - DAY0, t.suppressed) for t in self.triggers]


# -- usage


def used(*by_day: int, **rules: Any) -> Rig:
    rig = Rig(UsageSignal(), **rules)
    for day, n in enumerate(by_day):
        rig.take(*minutes(day, n))
    return rig


def test_a_week_with_less_than_half_of_a_mean_week_is_told_as_of_the_day_on_which_it_is() -> None:
    rig = used(*[10] * 28, 10, 10, 10)
    rig.clock(60)
    # 10 a day, the last on day 30: on day 35 the week before has days 28, 29, 30: 30 of 70 minutes.
    assert rig.told() == [(35, None)]
    data = rig.triggers[0].data
    assert isinstance(data, UsageFalling)
    assert (data.minutes, data.mean_minutes, data.days_before, data.times) == (30, 70, 28, 1)
    assert data.ratio == pytest.approx(3 / 7)


def test_just_half_has_not_fallen() -> None:
    rig = used(*[10] * 28, *[5] * 7, *[10] * 7)
    assert rig.told() == []
    rig = used(*[10] * 28, *[5] * 6, 4, *[10] * 7)
    assert rig.told() == [(35, None)]


def test_usage_that_falls_day_by_day_is_told_while_it_is_still_used() -> None:
    rig = used(*[20] * 28, *[4] * 14)
    assert [at for at, _ in rig.told()] == [33]


def test_too_few_days_before_tell_nothing() -> None:
    rig = used(*[30] * 4)
    rig.clock(100)
    assert rig.told() == []
    rig = used(*[30] * 5)
    rig.clock(100)
    assert len(rig.told()) == 1


def test_it_is_over_when_usage_is_back_and_then_may_fall_again_but_not_soon() -> None:
    rig = used(*[10] * 31)
    rig.clock(36)
    assert rig.states["usage"].fall.on
    rig.take(*minutes(36, 50))
    assert not rig.states["usage"].fall.on
    rig.clock(48)
    assert [reason for _, reason in rig.told()] == [None, "gap"]
    assert rig.states["usage"].fall.times == 2


def test_usage_that_comes_to_light_late_ends_it_and_the_same_fall_is_not_told_again() -> None:
    rig = used(*[10] * 31)
    rig.clock(40)
    for e in minutes(33, 60):
        rig.fold(e)
    assert not rig.states["usage"].fall.on
    rig.clock(40.5)
    assert rig.told() == [(35, None)]
    rig.clock(60)
    assert [at for at, _ in rig.told()] == [35, 41]


def test_less_of_a_share_than_leave_does_not_end_it() -> None:
    rig = used(*[10] * 31)
    rig.clock(36)
    rig.take(*minutes(36, 5))
    assert rig.states["usage"].fall.on
    assert rig.states["usage"].fall.due_ms is None


def test_nothing_is_made_of_a_beat_that_says_nothing() -> None:
    rig = used(3)
    before = rig.states["usage"]
    for nothing in (0, 0.0, -5):
        rig.fold(event(0.7, "Page Engaged", {"engaged_ms": nothing}))
        assert rig.states["usage"] is before
    rig.fold(event(0.7, "Page Engaged", {"engaged_ms": 10**9}))
    assert rig.states["usage"].ms == 3 * 60_000 + 30_000
    rig.fold(event(0.7, "Page Engaged", {"engaged_ms": "x"}))
    rig.fold(event(0.7, "Feature Used"))
    rig.fold(event(0.7, None, kind="screen"))
    assert rig.states["usage"].ms == 3 * 60_000 + 30_000 + 15_000 + 2 * 30_000


@pytest.mark.parametrize("told", [True, False])
def test_beats_at_0_15_30_and_200_s_are_60_s(told: bool) -> None:
    """Domain: A107. Each beat says how long it was since the last one, or nothing."""
    rig, last_s = Rig(UsageSignal()), 0.0
    for at_s in (0, 15, 30, 200):
        rig.fold(event(0.5 + at_s / 86_400, "Page Engaged", {"engaged_ms": 1000 * (at_s - last_s)} if told else {}))
        last_s = at_s
    assert rig.states["usage"].ms == 60_000


def test_sites_may_not_want_it_and_programs_use_nothing() -> None:
    rig = Rig(UsageSignal(), enter=0)
    rig.take(*minutes(0, 2))
    assert rig.states["usage"].fall == NO_FALL
    rig = Rig(UsageSignal())
    rig.take(msgspec.structs.replace(minutes(0, 1)[0], bot="spider"))
    assert rig.states == {}


by_day = st.lists(st.integers(0, 4), min_size=1, max_size=60)


@given(by_day)
@settings(max_examples=150)
def test_the_timer_finds_the_first_day_that_a_look_at_every_day_finds(by_day: list[int]) -> None:
    rig = used(*by_day)
    rig.clock(200)
    if sum(by_day) == 0:
        return
    known = {DAY0 + d: n for d, n in enumerate(by_day) if n}

    def fallen(day: int) -> bool:
        recent = sum(n for d, n in known.items() if day - 7 <= d < day)
        before = [n for d, n in known.items() if day - 35 <= d < day - 7]
        return len(before) >= 5 and recent < 0.5 * sum(before) / 4

    first = next((d for d in range(200) if fallen(DAY0 + d)), None)
    assert [at for at, _ in rig.told()][:1] == ([] if first is None else [first])


@given(by_day, st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_any_order_of_arrival_ends_in_the_same(by_day: list[int], draw: random.Random) -> None:
    """The times are the same at once; the fall, when the latest day is over, which is when the timer looks again."""
    events = [e for day, n in enumerate(by_day[:30]) for e in minutes(day, n)]
    if not events:
        return
    rigs = []
    for arrival in (events, draw.sample(events, len(events))):
        rig = Rig(UsageSignal())
        for e in arrival:
            rig.fold(e)
        rigs.append(rig)
    one, other = (rig.states["usage"] for rig in rigs)
    assert (one.day, one.ms, one.days, one.times) == (other.day, other.ms, other.days, other.times)
    for rig in rigs:
        rig.clock(100)
    assert rigs[0].states == rigs[1].states
    assert [t.id for t in rigs[0].triggers] == [t.id for t in rigs[1].triggers]


def test_the_usage_of_two_profiles_adds_up() -> None:
    one, two, both = used(*[10, 0] * 15), used(*[0, 10] * 15), used(*[10] * 30)
    signal = UsageSignal()
    merged = signal.merge(one.states["usage"], two.states["usage"], at_ms(30), one.ctx).state
    assert merged == signal.merge(two.states["usage"], one.states["usage"], at_ms(30), one.ctx).state
    whole = both.states["usage"]
    assert (merged.day, merged.ms, merged.days, merged.times) == (whole.day, whole.ms, whole.days, whole.times)
    one.states["usage"] = merged
    one.clock(100)
    both.clock(100)
    assert one.told() == both.told()


def test_a_state_is_bounded() -> None:
    rig = used(*[1] * 200)
    assert len(rig.states["usage"].days) == usage.KEPT_D - 1


# -- visits and messages


def came(*days: int) -> Rig:
    rig = Rig(VisitSignal(), EngagementSignal())
    for day in days:
        rig.take(event(day + 0.4, None, kind="page"))
    return rig


def test_visits_at_less_than_half_of_the_rate_before() -> None:
    rig = came(*range(0, 56, 2))  # every second day, the last on day 54
    rig.clock(200)
    # As of day 63: 3 of 14 days (50, 52, 54) against 28 - 3 = 25 of 56 would be .48; as of day 61 4 against 24: .67.
    assert rig.told() == [(63, None)]
    data = rig.triggers[0].data
    assert isinstance(data, EngagementFalling)
    assert (data.signal, data.n_before) == ("visit", 25)
    assert data.ratio == pytest.approx((3 / 14) / (25 / 56))


def test_a_visit_in_time_puts_it_off_and_the_same_day_again_changes_nothing() -> None:
    rig = came(*range(0, 56, 2), 62)
    state = rig.states["engagement"]
    rig.take(event(62.6, None, kind="page"))
    assert rig.states["engagement"] is state
    rig.clock(64)
    assert rig.told() == []


def test_few_visits_make_no_state() -> None:
    assert "engagement" not in came(0, 2, 4, 6).states


@given(st.lists(st.integers(0, 90), min_size=1, max_size=40, unique=True).map(sorted))
@settings(max_examples=150)
def test_the_timer_of_visits_finds_the_first_day_that_a_look_at_every_day_finds(days: list[int]) -> None:
    rig = came(*days)
    rig.clock(300)

    def fallen(day: int) -> bool:
        known = [d for d in days if d < day]
        recent = [d for d in known if d >= day - 14]
        before = [d for d in known if day - 70 <= d < day - 14]
        return len(before) >= 5 and len(recent) / 14 < 0.5 * len(before) / 56

    first = next((d for d in range(300) if fallen(d)), None)
    assert [at for at, _ in rig.told()][:1] == ([] if first is None else [first])


def mail(day: int, *, opened: bool, id: str | None = None, opened_after: float = 0.5) -> list[ProfileEvent]:
    about = {"campaign_id": id or f"letter-{day}"}
    out = [event(day + 0.3, "Email Delivered", about, channel="email")]
    return [*out, event(day + 0.3 + opened_after, "Email Opened", about, channel="email")] if opened else out


def mailed(*opened: bool, every_d: int = 1, opened_after: float = 0.5) -> Rig:
    rig = Rig(VisitSignal(), EngagementSignal())
    events = [
        e for i, o in enumerate(opened) for e in mail(i * every_d, opened=o, opened_after=opened_after)
    ]  # fmt: skip
    rig.take(*sorted(events, key=lambda e: e.timestamp_ms))
    return rig


def test_an_open_rate_of_a_tenth_after_four_tenths_is_a_quarter() -> None:
    """The vector of A461: 40 of 100 before, 1 of 10 now."""
    messages: answers.Messages = ()
    for i in range(50):
        messages = answers.heard(messages, DAY0 + i, f"a{i}", i % 5 < 2)
    for i in range(10):
        messages = answers.heard(messages, DAY0 + 56 + i, f"b{i}", i == 0)
    level = answers.series(messages, Zone("Asia/Ho_Chi_Minh")).level(DAY0 + 70)
    assert level is not None
    assert (level.recent, level.before, level.n) == (0.1, 0.4, 50)
    assert level.ratio == pytest.approx(0.25)
    assert has_fallen(level, RULES)


def test_messages_that_are_no_longer_opened() -> None:
    rig = mailed(*[True] * 10, *[False] * 10, every_d=3)
    rig.clock(200)
    ((at, reason),) = rig.told()
    data = rig.triggers[0].data
    assert isinstance(data, EngagementFalling)
    assert (data.signal, reason, data.rate_before) == ("message", None, 1.0)
    # Letters on days 0, 3, ... 27 were opened. As of day 37 those of days 24 and 27 are 2 of 5; as of day 36 of 4.
    assert at == 37
    assert data.rate == pytest.approx(0.4)


def test_who_never_opened_and_who_gets_nothing_any_more_is_not_told() -> None:
    rig = mailed(*[False] * 30, every_d=3)
    rig.clock(300)
    assert rig.told() == []
    rig = mailed(*[True] * 20, every_d=3)
    rig.clock(300)
    assert rig.told() == []


def test_of_one_message_delivery_and_openings_count_once_in_any_order() -> None:
    events = [*mail(3, opened=True), *mail(5, opened=True, id="letter-3"), *mail(4, opened=False)]
    found = set()
    for seed in range(20):
        rig = Rig(EngagementSignal())
        for e in random.Random(seed).sample(events, len(events)):
            rig.fold(e)
        found.add(rig.states["engagement"].messages)
    assert found == {
        (
            answers.Message(DAY0 + 3, "email letter-3", True),
            answers.Message(DAY0 + 4, "email letter-4", False),
        )
    }


def test_mails_of_one_campaign_are_told_apart_by_what_the_segment_spec_calls_them() -> None:
    rig = Rig(EngagementSignal())
    for n, id in enumerate(("18", 18.0, "19")):
        rig.fold(event(n, "Email Delivered", {"campaign_id": "tet", "email_id": id}, channel="email"))
    rig.fold(event(2, "Email Opened", {"campaign_id": "tet", "email_id": 18}, channel="email"))
    assert rig.states["engagement"].messages == (
        answers.Message(DAY0, "email 18 tet", True), answers.Message(DAY0 + 2, "email 19 tet", False),
    )  # fmt: skip


def test_of_machines_and_of_channels_that_can_not_tell_nothing_is_concluded() -> None:
    rig = Rig(EngagementSignal())
    rig.fold(event(0, "Email Opened", {"campaign_id": "a", "machine_open": True}, channel="email"))
    rig.fold(event(0, "Message Delivered", {"campaign_id": "a", "channel": "sms"}, channel="sms"))
    assert rig.states == {}
    rig.fold(event(0, "Message Seen", {"campaign_id": "a"}, channel="zalo"))
    assert rig.states["engagement"].messages == (answers.Message(DAY0, "zalo a", True),)


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.sampled_from([1, 2, 3, 7]))
@settings(max_examples=100)
def test_the_timer_of_messages_finds_the_first_day_that_a_look_at_every_day_finds(
    opened: list[bool], every_d: int
) -> None:
    rig = mailed(*opened, every_d=every_d, opened_after=0.0001)
    rig.clock(400)

    def fallen(day: int) -> bool:
        known = [(i * every_d, o) for i, o in enumerate(opened) if i * every_d < day]
        recent = [o for d, o in known if d >= day - 14]
        before = [o for d, o in known if day - 70 <= d < day - 14]
        if not recent or len(before) < 5 or not any(before):
            return False
        return sum(recent) / len(recent) < 0.5 * sum(before) / len(before)

    first = next((d for d in range(400) if fallen(d)), None)
    assert [at for at, _ in rig.told()][:1] == ([] if first is None else [first])
