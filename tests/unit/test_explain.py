"""What comes next, as stream/explain.py foretells it: by the signals' own timers and the gate's rules."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from stream.core import churn as churn_core
from stream.core.gate import Gate, Held, Told
from stream.explain import Asked, churn, explain
from stream.signals.cart import CartSignal
from tests.unit.shop_events import T0_MS, context, event
from tracker.contract.examples import MODEL
from tracker.contract.models import Models
from tracker.contract.settings import Settings
from tracker.contract.sites import Site, TriggerPolicy
from tracker.contract.triggers import rfc3339

ADDED: Final = event("Product Added", 0, {"product_id": "A", "price": 10}, id="m1")
STATE: Final = CartSignal().fold(None, ADDED, context()).state
DEFAULT: Final = TriggerPolicy()
PROBLEM: Final = '{"_v":99}'


def said(policy: TriggerPolicy = DEFAULT, gate: Gate | None = None, **settings: Any) -> dict[str, Any]:
    site = Site("wk_12345678", "sk_12345678", time_zone="UTC", triggers=policy)
    fields = {"cart": '{"_v":2,' + msgspec.json.encode(STATE).decode()[1:]}
    if gate is not None:
        fields["gate"] = msgspec.json.encode(gate).decode()
    return explain(asked(Settings(sites={"s": site}, **settings), fields), T0_MS)


def asked(settings: Settings, fields: dict[str, str], models: Models | None = None) -> Asked:
    return Asked(settings=settings, site="s", profile_id="p", about={}, fields=fields, models=models or {})


def test_the_next_timers_are_fired_ahead_and_change_nothing() -> None:
    cart = said()["cart"]
    due = STATE.due_ms
    assert cart["due"] == rfc3339(due)
    assert cart["next"][0] == {"time": rfc3339(due), "what": "cart_abandoned", "outcome": "published"}
    assert [step["what"] for step in cart["next"]] == ["cart_abandoned", "cart.lost"]
    assert cart["state"]["state"] == "OPEN"
    assert said() == said()


def test_a_trigger_goes_by_the_rules_of_the_gate() -> None:
    def outcome(policy: TriggerPolicy, gate: Gate | None = None) -> str:
        return str(said(policy, gate)["cart"]["next"][0]["outcome"])

    assert outcome(TriggerPolicy(consent="required")) == "suppressed: no_consent"
    assert outcome(TriggerPolicy(cap=1), Gate(told=(Told("x", "churn_risk", T0_MS),))) == "suppressed: cap"
    assert outcome(TriggerPolicy(cap=1), Gate(told=(Told("x", "churn_risk", T0_MS - 90_000_000),))) == "published"
    all_day = [TriggerPolicy(quiet_hours=hours, quiet="suppress") for hours in ("00:00-12:00", "12:00-00:00")]
    assert sorted(map(outcome, all_day)) == ["published", "suppressed: quiet"]
    delayed = [TriggerPolicy(quiet_hours=hours) for hours in ("00:00-12:00", "12:00-00:00")]
    assert sorted(map(outcome, delayed))[0].startswith("held until ")


def test_what_waits_for_the_morning_and_is_not_so_any_more_is_void() -> None:
    told = CartSignal().fire(STATE, STATE.due_ms, context()).triggers[0].data
    data = msgspec.json.encode(msgspec.structs.replace(told, cart_id="gone"))
    held = Held("cart_abandoned", "t1", T0_MS, T0_MS + 1000, "cart", msgspec.Raw(data))
    found = said(gate=Gate(held=(held,)))
    assert found["cart"]["held"][0]["until"] == rfc3339(T0_MS + 1000)
    assert found["gate"]["next"] == [{"time": rfc3339(T0_MS), "what": "cart_abandoned", "outcome": "suppressed: void"}]


def test_a_signal_that_is_off_stands_still_and_a_state_that_cant_be_read_is_said_so() -> None:
    cart = said(signals_off="cart")["cart"]
    assert (cart["off"], cart["due"], cart["next"]) == (True, None, [])
    site = Settings(sites={"s": Site("wk_12345678", "sk_12345678")})
    broken = explain(asked(site, {"cart": PROBLEM, "unknown": "1"}), T0_MS)
    assert broken.keys() == {"cart"}
    assert broken["cart"]["state"] is None
    assert "version 99" in broken["cart"]["unreadable"]


def test_churn_is_told_as_of_now_and_by_the_parameters_that_are_named() -> None:
    """MBG/NBD's vector of domain.md 4.3: x 2, t_x 30.43, T 38.86 weeks, horizon 39. No event, no timer in between."""
    week_ms, first_d = 7 * 86_400_000, 20_000
    days = [first_d, first_d + 100, first_d + 213]
    zero_ms = first_d * 86_400_000
    fields = {"purchase": msgspec.json.encode({"_v": 2, "days": days, "zero_ms": zero_ms}).decode()}
    settings = Settings(sites={"s": Site("wk_12345678", "sk_12345678", time_zone="UTC")}, churn_horizon_d=273)
    model = msgspec.structs.replace(MODEL, r=0.525, alpha=6.183, a=0.891, b=1.614, version=7, site="s")

    def now(weeks: float, **models: Any) -> dict[str, Any]:
        return churn(asked(settings, fields, models.get("models", {})), zero_ms + round(weeks * week_ms))["purchase"]

    fitted = now(38.86, models={("s", "purchase"): model})
    t_x = 213 / 7
    assert (fitted["x"], fitted["model"], fitted["confidence"]) == (2, "mbg_nbd:7", model.confidence)
    p = churn_core.p_alive(churn_core.Params(0.525, 6.183, 0.891, 1.614), 2, t_x, 38.86)
    assert abs(fitted["p_alive"] - p) < 1e-9
    assert abs(fitted["p_alive"] - 0.706202265118) < 1e-3, "t_x is 30.43 there"
    later = [now(weeks) for weeks in (31, 40, 60, 100)]
    risks = [each["risk"] for each in later]
    assert risks == sorted(risks)
    assert later[0]["band"] != "high"
    assert later[-1]["band"] == "high"
    assert later[0]["model"] == "mbg_nbd:prior-1"
    assert churn(asked(settings, {"purchase": PROBLEM}), T0_MS) == {}
