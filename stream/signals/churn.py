"""Churn risk, by purchase days, visit days and days of answering messages: `churn_risk` triggers at the crossing.

One implementation, three signals (stream/signals/purchase.py, visit.py, message_engage.py) with parameters of their
own by site and signal (tracker/contract/models.py). The rules are stream/core/churn_watch.py's.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

from stream.core import churn_watch
from stream.core.churn import COLD, Params, band, p_alive, p_at_least_one
from stream.core.churn_watch import Rule, Watched
from stream.signals.base import Context, Result, Signal, Trigger
from tracker.contract.codec import emission_id
from tracker.contract.durations import DAY_MS
from tracker.contract.models import Model
from tracker.contract.triggers import CHURN_RISK, ChurnRisk, TriggerKind, rfc3339

COLD_MODEL: Final = "mbg_nbd:prior-1"
LIKELIHOOD_D: Final = 90
OF_DAYS: Final = ("t_days", "risk", "band", "p_alive", "likelihood", "mean_value", "clv", "high_value")
"""What `explain` says of those only who have a day."""

W = TypeVar("W", bound=Watched)


class ChurnSignal(Signal[W]):
    tells = frozenset((CHURN_RISK.name,))
    horizon: str
    """The setting that says how far it looks ahead."""
    gauge: str
    counts_all: bool = False
    """Whether those with too few repeats to be told cross, and are counted."""
    common: frozenset[str] = frozenset(
        ("churn_enter", "churn_leave", "churn_gap_d", "churn_min_repeats", "churn_recheck_d")
    )

    def rule(self, ctx: Context) -> Rule:
        s = ctx.settings
        return Rule(
            params=params_of(model_of(self.name, ctx)),
            horizon_d=getattr(s, self.horizon),
            enter=s.churn_enter,
            leave=s.churn_leave,
            gap_ms=round(s.churn_gap_d * DAY_MS),
            min_x=s.churn_min_repeats,
            counts_all=self.counts_all,
            recheck_ms=round(s.churn_recheck_d * DAY_MS),
        )

    def seen(self, before: W, ts_ms: int, ctx: Context) -> W:
        """The state after an event on that day: the same when the day is known, which costs nothing more."""
        day = (ts_ms + ctx.utc_offset_ms) // DAY_MS
        if day in before.days:
            return before
        return churn_watch.seen(before, day, ctx.zone.begins_ms(day), ts_ms, self.rule(ctx))

    def moved(self, before: W, after: W) -> tuple[tuple[str, int], ...]:
        n = after.on - before.on
        return ((self.gauge, n),) if n else ()

    def due_ms(self, state: W) -> int | None:
        return state.due_ms

    def fire(self, state: W, now_ms: int, ctx: Context) -> Result:
        if state.due_ms is None or state.due_ms > now_ms:
            return Result(state=state)
        rule = self.rule(ctx)
        crossed = churn_watch.fired(state, now_ms, rule)
        if crossed is None:
            return Result(state=churn_watch.rearmed(state, now_ms, rule))
        after, at_ms, reason = crossed
        trigger = Trigger(
            kind=CHURN_RISK,
            id=emission_id(
                ctx.site, f"{ctx.profile_id}/{self.name}/{state.days[-1]}", CHURN_RISK.name, after.crossings
            ),
            at_ms=at_ms,
            suppressed=reason,
            data=self.told(state, at_ms, rule, ctx, brief=reason is not None),
        )
        return Result(state=after, triggers=(trigger,), gauges=self.moved(state, after))

    def told(self, state: W, at_ms: int, rule: Rule, ctx: Context, *, brief: bool = False) -> ChurnRisk:
        """brief: it is counted only, so nothing is computed that takes long."""
        model = model_of(self.name, ctx)
        age, t_x = state.age_weeks(at_ms), state.t_x_days / 7
        risk = churn_watch.risk_at(state, at_ms, rule)
        return ChurnRisk(
            profile_id=ctx.profile_id,
            signal=self.name,
            risk=risk,
            p_alive=p_alive(rule.params, state.x, t_x, age),
            band=band(risk),
            x=state.x,
            t_x_days=state.t_x_days,
            t_days=age * 7,
            horizon_days=rule.horizon_d,
            likelihood=p_at_least_one(rule.params, state.x, t_x, age, LIKELIHOOD_D / 7),
            model=model.name if model is not None else COLD_MODEL,
            version=model.version if model is not None else 0,
            confidence=model.confidence if model is not None else "cold",
            **({} if brief else self.worth(state, at_ms, rule, ctx)),
        )

    def worth(self, state: W, at_ms: int, rule: Rule, ctx: Context) -> dict[str, Any]:
        """Fields of ChurnRisk: what the customer's purchases were and will be worth."""
        return {}

    def merge(self, one: W, other: W, now_ms: int, ctx: Context) -> Result:
        """The union of the days."""
        after = churn_watch.merged(one, other, {*one.days, *other.days})
        return Result(state=churn_watch.settled(after, after, now_ms, self.rule(ctx)))

    def still_true(self, state: W, kind: TriggerKind, data: Any) -> bool:
        return state.on

    def gauges(self, state: W) -> tuple[tuple[str, int], ...]:
        return ((self.gauge, 1),) if state.on else ()

    def explain(self, state: W, now_ms: int, ctx: Context) -> dict[str, Any]:
        """What is known, what follows from it now, and what will happen when nothing more comes. Of nobody who has no
        day yet (of whose order only a refund has come) there is a risk."""
        rule, model = self.rule(ctx), model_of(self.name, ctx)
        told = self.told(state, now_ms, rule, ctx)
        crosses = churn_watch.crossing_ms(state, rule) if not state.on else None
        found = {
            "on": state.on,
            "days": len(state.days) + state.more,
            "x": told.x,
            "t_x_days": told.t_x_days,
            "t_days": told.t_days,
            "risk": told.risk,
            "band": told.band,
            "p_alive": told.p_alive,
            "likelihood": told.likelihood,
            "horizon_days": rule.horizon_d,
            "crosses": rfc3339(crosses) if crosses is not None else None,
            "crossings": state.crossings,
            "told": rfc3339(state.told_ms) if state.told_ms is not None else None,
            "model": told.model,
            "confidence": told.confidence,
            "params": {"r": rule.params.r, "alpha": rule.params.alpha, "a": rule.params.a, "b": rule.params.b},
            "customers": model.customers if model is not None else 0,
            "values": told.values,
            "currency": told.currency,
            "mean_value": told.mean_value,
            "clv": told.clv,
            "high_value": told.high_value,
        }
        return found if state.days else found | dict.fromkeys(OF_DAYS)


def model_of(signal: str, ctx: Context) -> Model | None:
    """The site's parameters; None: the prior."""
    return ctx.models.get((ctx.site, signal))


def params_of(model: Model | None) -> Params:
    return COLD if model is None else Params(model.r, model.alpha, model.a, model.b)
