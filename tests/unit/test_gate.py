"""The gate (stream/core/gate.py), by itself and in the fold: consent, caps, quiet hours, retractions, merges."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from stream import metrics
from stream.core import gate
from stream.core.gate import Gate, Held, Rules, Stopped, Told
from stream.effects import Effects
from tests.harness import ROOT
from tests.unit.shop_toml import SHOP
from tests.unit.test_fold import T0, Owner, record
from tracker.contract.events import CONSENT_ACTIONS, encode_clock
from tracker.contract.loading import SettingsError, load
from tracker.contract.settings import Settings
from tracker.contract.sites import Links, Site, TriggerPolicy, quiet_minutes
from tracker.contract.triggers import INFORMING, TRIGGER_KINDS, Person, TriggerKind
from tracker.contract.windows import Zone

HOUR = 3_600_000
DAY = 24 * HOUR
NIGHT = T0 // DAY * DAY + 15 * HOUR
"""22:00 in Vietnam."""
MORNING = NIGHT + 10 * HOUR
POLICY: dict[str, Any] = {"quiet_hours": "21:00-08:00"}


def owner(links: Links | None = None, **policy: Any) -> Owner:
    site = Site("demo-write-key", "demo-secret-key", triggers=TriggerPolicy(**policy), links=links or Links())
    return Owner(Settings(demo=True, sites={"demo": site}))


class Shop:
    """Events of profile p1, numbered as they come."""

    def __init__(self, links: Links | None = None, **policy: Any) -> None:
        self.owner = owner(links, **policy)
        self.n = 0

    def does(
        self, name: str | None, ts: int, traits: Any = None, received: int | None = None, **properties: Any
    ) -> Effects:
        self.n += 1
        value = record(self.n, ts=ts, name=name, received=received, **properties)
        if name is None:
            value = json.dumps(json.loads(value) | {"type": "identify", "userId": "u1", "traits": traits}).encode()
        return self.owner.take([value])

    def clock(self, ms: int) -> Effects:
        return self.owner.take([encode_clock(ms)])

    def abandons(self, at_ms: int) -> Effects:
        self.does("Product Added", at_ms - HOUR, product_id="A", price=10)
        return self.clock(at_ms)

    @property
    def told(self) -> list[Any]:
        """Without the kinds that pass the gate."""
        told = [json.loads(value) for value in self.owner.triggers]
        passing = {f"tracker.{kind}.v1" for kind in INFORMING}
        return [t for t in told if t["type"] not in passing]

    @property
    def gate(self) -> Gate:
        state = self.owner.profiles["demo", "p1"].states["gate"]
        assert isinstance(state, Gate)
        return state


def test_a_trigger_says_how_its_person_can_be_reached() -> None:
    shop = Shop(Links(cart="https://shop.example/cart"))
    shop.does(None, T0, {"email": "lan@example.com", "phone": "0901234567", "long": "x" * 2000, "name": "Lan"})
    shop.does("Consent Updated", T0 + 1, channel="zns", consent="granted")
    for n in range(10):
        shop.does("Email Delivered", T0 + 2 + n)
    shop.abandons(T0 + 2 * HOUR)
    (trigger,) = shop.told
    data = trigger["data"]
    assert data["channels"] == [
        {"channel": "email", "address": "lan@example.com", "consent": "unknown", "usable": True, "verified": True},
        {"channel": "sms", "address": "+84901234567", "consent": "unknown", "usable": False, "verified": True},
        {"channel": "zns", "address": "+84901234567", "consent": "granted", "usable": True, "verified": True},
    ]
    assert data["preferredChannel"] == "email"
    assert data["links"] == {"cart": "https://shop.example/cart"}
    assert (data["profileId"], data["userId"], data["anonymousId"]) == ("p1", "u1", "a-p1")
    assert data["traits"] == {"email": "lan@example.com", "phone": "0901234567", "name": "Lan"}


@pytest.mark.parametrize(
    ("policy", "traits", "said", "reason"),
    [
        ("optional", {}, None, None),  # nobody can be written to: a page may still show something
        ("optional", {"email": "lan@example.com"}, None, None),
        ("optional", {"phone": "0901234567"}, None, "no_consent"),
        ("optional", {"phone": "0901234567"}, {"channel": "zns", "consent": True}, None),
        ("optional", {"phone": "0901", "email": "lan@example.com"}, {"channel": "email", "consent": False}, "denied"),
        ("optional", {"phone": "0901234567", "email": "l@a.vn"}, {"channel": "email", "consent": False}, "no_consent"),
        ("optional", {"phone": "0901234567"}, {"consent": False}, "denied"),
        ("optional", {}, {"consent": False}, "denied"),
        ("ignore", {"phone": "0901234567"}, None, None),
        ("ignore", {"phone": "0901234567"}, {"consent": "denied"}, "denied"),
        ("required", {}, None, "no_consent"),
        ("required", {"email": "lan@example.com"}, None, "no_consent"),
        ("required", {"email": "lan@example.com"}, {"channel": "email", "consent": True}, None),
    ],
)  # fmt: skip
def test_consent_decides_by_the_sites_policy(policy: Any, traits: Any, said: Any, reason: str | None) -> None:
    shop = Shop(consent=policy)
    shop.does(None, T0, traits)
    if said is not None:
        shop.does("Consent Updated", T0 + 1, **said)
    fx = shop.abandons(T0 + 2 * HOUR)
    assert fx.suppressed == ([("cart_abandoned", reason)] if reason else [])
    assert len(shop.told) == (reason is None)
    assert [s.reason for s in shop.gate.stopped] == ([reason] if reason else [])


def test_a_retraction_goes_out_only_if_what_it_retracts_did() -> None:
    for consent, told in ((True, ["tracker.cart_abandoned.v1", "tracker.cart_abandoned_retracted.v1"]), (False, [])):
        shop = Shop()
        shop.does("Consent Updated", T0, channel="email", consent=consent)
        if not consent:
            shop.does("Unsubscribed", T0 + 1)
        shop.abandons(T0 + 2 * HOUR)
        late = shop.does("Order Completed", T0 + 90 * 60_000, received=T0 + 3 * HOUR, order_id="o1")
        assert [t["type"] for t in shop.told] == told
        assert late.suppressed == ([] if consent else [("cart_abandoned", "not_told")])


def test_caps_count_what_was_let_through_within_their_hours() -> None:
    rules = Rules(cap=3, kind_caps={"survey": 1}, cap_ms=DAY)
    state = Gate()
    for n, (kind, at_ms, expected) in enumerate(
        [
            ("survey", 0, None), ("survey", DAY - 1, "kind_cap"), ("cart_abandoned", DAY - 1, None),
            ("cart_abandoned", DAY - 1, None), ("cart_abandoned", DAY - 1, "cap"), ("survey", DAY, None),
            ("cart_abandoned", DAY, "cap"),
        ]
    ):  # fmt: skip
        assert gate.reason_against(state, kind, f"t{n}", None, rules, T0 + at_ms) == expected, n
        if expected is None:
            state = gate.with_told(state, Told(f"t{n}", kind, T0 + at_ms))
    assert gate.reason_against(state, "survey", "t0", None, Rules(), T0 + 9 * DAY) == "repeat"


def test_what_only_tells_systems_takes_up_no_cap() -> None:
    shop = Shop(cap=1)
    shop.abandons(T0)
    shop.does("Order Completed", T0 + 26 * HOUR, order_id="o1")
    assert any(b"tracker.cart_recovered.v1" in told for told in shop.owner.triggers)
    assert shop.abandons(T0 + 28 * HOUR).suppressed == []
    assert len(shop.told) == 2


def test_a_cap_holds_in_the_fold() -> None:
    shop = Shop(kind_caps={"cart_abandoned": 1})
    shop.abandons(T0 + 2 * HOUR)
    shop.does("Order Completed", T0 + 3 * HOUR, order_id="o1")
    fx = shop.abandons(T0 + 6 * HOUR)
    assert fx.suppressed == [("cart_abandoned", "kind_cap")]
    shop.does("Order Completed", T0 + 7 * HOUR, order_id="o2")
    shop.abandons(T0 + 27 * HOUR)
    assert len(shop.told) == 2


@pytest.mark.parametrize(
    ("local", "until"),
    [
        ("20:59", None),
        ("21:00", "+11:00"),
        ("23:30", "+08:30"),
        ("00:00", "+08:00"),
        ("07:59", "+00:01"),
        ("08:00", None),
    ],
)
def test_quiet_hours_are_the_sites(local: str, until: str | None) -> None:
    def minutes(text: str) -> int:
        hours, minute = text.lstrip("+").split(":")
        return int(hours) * 60 + int(minute)

    rules = gate.rules_of(TriggerPolicy(quiet_hours="21:00-08:00"))
    moment = T0 // DAY * DAY - 7 * HOUR + minutes(local) * 60_000
    found = gate.quiet_until(rules, moment, Zone("Asia/Ho_Chi_Minh"))
    assert found == (None if until is None else moment + minutes(until) * 60_000)
    day = gate.rules_of(TriggerPolicy(quiet_hours="12:00-13:30"))
    noon = T0 // DAY * DAY + 12 * HOUR
    assert gate.quiet_until(day, noon, Zone("UTC")) == noon + 90 * 60_000
    assert gate.quiet_until(day, noon - 1, Zone("UTC")) is None


def test_what_becomes_true_at_night_is_told_in_the_morning_once() -> None:
    shop = Shop(**POLICY)
    fx = shop.abandons(NIGHT)
    assert shop.told == []
    assert fx.suppressed == []
    assert fx.metrics["triggers_held_total", ("cart_abandoned",)] == 1
    assert shop.owner.profiles["demo", "p1"].due_ms == MORNING
    shop.clock(MORNING - 1)
    assert shop.told == []
    shop.does("Consent Updated", MORNING - 1, channel="email", consent=True)
    (outgoing,) = shop.clock(MORNING).triggers
    assert outgoing.at_ms == MORNING  # what its delay is measured from
    (trigger,) = shop.told
    assert trigger["data"]["value"] == 10
    assert trigger["data"]["anonymousId"] == "a-p1"
    assert shop.gate.held == ()
    shop.clock(MORNING + DAY)
    assert len(shop.told) == 1


def test_the_morning_forgets_what_the_night_has_settled() -> None:
    bought = Shop(**POLICY)
    bought.abandons(NIGHT)
    bought.does("Order Completed", NIGHT + HOUR, order_id="o1")
    assert bought.clock(MORNING).suppressed == [("cart_abandoned", "void")]
    unsubscribed = Shop(**POLICY)
    unsubscribed.abandons(NIGHT)
    unsubscribed.does("Unsubscribed", NIGHT + HOUR)
    assert unsubscribed.clock(MORNING).suppressed == [("cart_abandoned", "denied")]
    retracted = Shop(**POLICY)
    retracted.abandons(NIGHT)
    fx = retracted.does("Order Completed", NIGHT - 1, received=NIGHT + HOUR, order_id="o1")
    assert fx.suppressed == [("cart_abandoned", "retracted"), ("cart_abandoned", "not_told")]
    retracted.clock(MORNING)
    for shop in (bought, unsubscribed, retracted):
        assert shop.told == []
        assert shop.gate.held == ()


def test_a_site_may_drop_what_becomes_true_at_night() -> None:
    shop = Shop(**POLICY, quiet="suppress")
    assert shop.abandons(NIGHT).suppressed == [("cart_abandoned", "quiet")]
    shop.clock(MORNING)
    assert shop.told == []


def test_a_worker_that_comes_back_at_night_waits_for_the_morning() -> None:
    shop = Shop(**POLICY)
    shop.does("Product Added", NIGHT - 3 * HOUR, product_id="A", price=10)  # due at 20:00
    shop.clock(NIGHT)
    assert shop.told == []
    shop.clock(MORNING)
    assert len(shop.told) == 1


def test_the_page_has_a_section_of_every_kind_and_every_reason() -> None:
    page = (ROOT / "docs" / "triggers.md").read_text("utf-8")
    assert [kind.name for kind in TRIGGER_KINDS if f"\n## {kind.name}\n" not in page] == []
    table = page.partition("| Reason | |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines()[2:]))) == set(
        metrics.SUPPRESSED
    )
    for name in (*INFORMING, *CONSENT_ACTIONS):
        assert f"`{name}`" in page


@pytest.mark.parametrize("kind", TRIGGER_KINDS, ids=lambda kind: kind.name)
def test_every_kind_says_whom_it_is_about(kind: TriggerKind) -> None:
    assert issubclass(kind.data, Person)
    if kind.retraction is not None:
        assert {"profile_id", "retracts"} <= {f.name for f in msgspec.structs.fields(kind.retraction)}


def test_a_client_whose_clock_is_ahead_brings_the_morning_once() -> None:
    shop = Shop(**POLICY)
    shop.abandons(NIGHT)
    shop.does("Product Viewed", MORNING + 60_000, received=MORNING - 120_000)
    assert len(shop.told) == 1
    assert shop.owner.profiles["demo", "p1"].broken == {}


def test_every_reason_is_declared() -> None:
    reasons = {"denied", "no_consent", "cap", "kind_cap", "quiet", "void", "retracted", "not_told", "repeat", "stale"}
    assert reasons <= set(metrics.SUPPRESSED)


def held(id: str, at_ms: int = 0, size: int = 2) -> Held:
    return Held("cart_abandoned", id, at_ms, at_ms + HOUR, "cart", Raw(b'"%s"' % (b"x" * size)))


def test_its_memory_is_bounded() -> None:
    state = Gate()
    for n in range(100):
        state = gate.with_told(state, Told(f"t{n}", "survey", n))
        state = gate.with_stopped(state, Stopped("survey", f"s{n}", n, "cap"))
        state, dropped = gate.with_held(state, held(f"h{n}", n))
        assert len(dropped) == (n >= gate.MAX_HELD)
    assert [t.id for t in state.told] == [f"t{n}" for n in range(36, 100)]
    assert [s.id for s in state.stopped] == [f"s{n}" for n in range(90, 100)]
    assert [h.id for h in state.held] == [f"h{n}" for n in range(84, 100)]
    state, dropped = gate.with_held(Gate(), held("large", 0, gate.MAX_HELD_BYTES))
    assert (state.held, [h.id for h in dropped]) == ((), ["large"])


ids = st.sampled_from(["a", "b", "c"])
gates = st.builds(
    lambda told, waiting, stopped: Gate(gate._told(told), gate._held(waiting)[0], gate._stopped(stopped)),
    st.lists(st.builds(Told, ids, st.sampled_from(["survey", "rule"]), st.integers(0, 3)), max_size=3),
    st.lists(st.builds(held, ids, st.integers(0, 3)), max_size=3),
    st.lists(st.builds(Stopped, st.just("rule"), ids, st.integers(0, 3), st.sampled_from(["cap", "void"])), max_size=3),
)


@given(one=gates, other=gates)
def test_merged_it_remembers_what_either_was_told_and_sends_nothing_twice(one: Gate, other: Gate) -> None:
    state = gate.merged(one, other)
    assert state == gate.merged(other, one)
    assert {t.id for t in state.told} == {t.id for t in (*one.told, *other.told)}
    assert {h.id for h in state.held}.isdisjoint({t.id for t in state.told})
    assert msgspec.json.decode(msgspec.json.encode(state), type=Gate) == state


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('triggers.quiet_hours = "9-17"', "no time like 21:00-08:00"),
        ('triggers.quiet_hours = "08:00-08:00"', "a whole day"),
        ("triggers.kind_caps = { carts = 1 }", "'carts' is none of"),
        ("triggers.cap = 51", "<= 50"),
        ('links.cart = "javascript:alert(1)"', "no address"),
    ],
)
def test_a_policy_that_can_not_be_is_told(line: str, says: str, tmp_path: Any) -> None:
    path = tmp_path / "tracker.toml"
    path.write_text(f"{SHOP}{line}\n")
    with pytest.raises(SettingsError, match=says):
        load({}, path)


def test_quiet_minutes() -> None:
    assert quiet_minutes("21:00-08:00") == (1260, 480)
    assert quiet_minutes("") is None
