"""`tracker fit`, and the worker's nightly one: read a site's histories, fit, judge, publish.

New parameters are a record on every partition of profile-events, so each owner takes them up at one place of its log;
nobody else writes a partition's keys. What came of a fit stands in {s:SITE}:fit; a lock there lets one fit at a time.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import exp, log
from time import time
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from msgspec import Struct

from stream.core.churn import BANDS, COLD, HIGH_BAND, LOW_BAND, Params
from stream.fit.histories import Found, read
from stream.kafka_out import acked
from stream.metrics import Producing
from stream.signals import SIGNALS
from stream.signals.churn import ChurnSignal, params_of
from tracker.contract import keys
from tracker.contract.durations import DAY_MS
from tracker.contract.models import SIGNALS as MODELLED
from tracker.contract.models import Confidence, Model, Models, Value, decode_model, encode_model
from tracker.contract.producer import KafkaOut
from tracker.contract.redis_url import admin
from tracker.contract.settings import Settings
from tracker.contract.sites import DEFAULT_TIME_ZONE
from tracker.contract.topics import PROFILE_EVENTS, TOPICS
from tracker.contract.windows import Zone

if TYPE_CHECKING:
    from stream.fit.likelihood import Histories

MIN_CUSTOMERS: Final = 25
"""Fewer: the prior alone."""
OK_CUSTOMERS: Final = 500
OK_DAYS: Final = 180
NEWEST: Final = 0.2
MAX_FALL: Final = 0.02
"""A fit is refused under which the newest fifth's log-likelihood a customer is worse by more than this part."""
PRIOR_SITES: Final = 5
"""From so many sites with good parameters on, the prior is their mean."""
HIGH: Final = 0.1
"""The highest tenth of customers by predicted value is flagged."""
LOCK_S: Final = 1800
MISSING: Final = "the fit needs numpy and scipy: pip install 'event-streaming-tracker[fit]'"

Status = Literal["published", "unchanged", "refused", "would publish"]


class Busy(Exception):
    """Another fit of the site is under way."""


class Missing(Exception):
    """numpy or scipy is not there. One line."""


class Report(Struct, frozen=True, kw_only=True):
    """What came of a fit of one signal: JSON in {s:SITE}:fit."""

    site: str
    signal: str
    at_ms: int
    status: Status
    reason: str
    customers: int
    days: int
    """Age of the oldest history."""
    model: Model | None = None
    """What was fitted; refused ones, too."""
    ll: float | None = None
    """Log-likelihood a customer."""
    seconds: float = 0.0
    bands: dict[str, int] = {}
    """How many customers have a low, medium or high risk, by the parameters that are in effect then."""


def fit_site(
    settings: Settings,
    site: str,
    signals: Sequence[str] = MODELLED,
    *,
    dry_run: bool = False,
    progress: Callable[[str, int], None] = lambda what, n: None,
) -> list[Report]:
    """Fit a site's signals and publish what is good.

    Raises Busy, Missing, RedisError, ProduceError, OSError, StateError.
    """
    try:
        import stream.fit.likelihood  # noqa: F401  # said before anything is read
    except ImportError:
        raise Missing(MISSING) from None
    redis = admin(settings.redis)
    try:
        with _lock(redis, site, dry_run):
            now_ms = int(time() * 1000)
            current = {(m.site, m.signal): m for m in map(_decode, _values(redis, 0)) if m is not None}
            zone = Zone(settings.sites[site].time_zone if site in settings.sites else DEFAULT_TIME_ZONE)
            today = (now_ms + zone.offset_s(now_ms // 1000) * 1000) // DAY_MS
            chosen = [s for s in SIGNALS if s.name in signals]
            found = read(redis, site, chosen, today, settings.fit_max_customers, lambda n: progress("read", n))
            reports = []
            for name, histories in found.items():
                progress(name, 0)
                reports.append(judged(settings, site, name, histories, current, now_ms))
            if dry_run:
                return [
                    msgspec.structs.replace(r, status="would publish") if r.status == "published" else r
                    for r in reports
                ]
            models = [r.model for r in reports if r.status == "published" and r.model is not None]
            if models:
                asyncio.run(publish(settings, models))
            for report in reports:
                redis.hset(keys.fit_key(site), report.signal, msgspec.json.encode(report).decode())
            return reports
    finally:
        redis.close()


def judged(settings: Settings, site: str, signal: str, found: Found, current: Models, now_ms: int) -> Report:
    """Fit one signal's histories and say what is to become of it."""
    import numpy as np

    from stream.fit import likelihood

    began_s = time()
    old, customers = current.get((site, signal)), len(found)
    prior = prior_of(signal, site, current)
    days = max(found.t_days, default=0)

    def report(status: Status, reason: str, model: Model | None = None, ll: float | None = None) -> Report:
        bands = bands_of(settings, signal, found, model if status == "published" else old)
        return Report(
            site=site, signal=signal, at_ms=now_ms, status=status, reason=reason, customers=customers, days=days,
            model=model, ll=ll, seconds=round(time() - began_s, 3), bands=bands,
        )  # fmt: skip

    def model(p: Params, confidence: Confidence, value: Value | None = None) -> Model:
        version = old.version + 1 if old is not None else 1
        return Model(
            model_id=f"{site}/{signal}/{version}", site=site, signal=signal, version=version, fitted_at_ms=now_ms,
            r=p.r, alpha=p.alpha, a=p.a, b=p.b, customers=customers, confidence=confidence, value=value,
            gaps=found.gaps.medians(),
        )  # fmt: skip

    if customers < MIN_CUSTOMERS:
        before = COLD if old is None else Params(old.r, old.alpha, old.a, old.b)
        few = f"{customers} customers are fewer than {MIN_CUSTOMERS}: the prior"
        if before == prior:
            return report("unchanged", few)
        return report("published", few, model(prior, "cold"))
    x, t_x, t = (np.frombuffer(column, dtype=np.int64) for column in (found.x, found.t_x_days, found.t_days))
    rows = likelihood.compressed(x, t_x, t)
    fit = likelihood.fit_purchases("mbgnbd", rows, prior)
    fitted = Params(*fit.values)
    confidence: Confidence = "ok" if customers >= OK_CUSTOMERS and days >= OK_DAYS else "low"
    ll = fit.ll / customers
    if fit.at_bound:
        return report("refused", "a parameter is at its bound", model(fitted, confidence), ll)
    if old is not None:
        newest = np.argsort(t, kind="stable")[: max(1, int(customers * NEWEST))]
        part = likelihood.compressed(x[newest], t_x[newest], t[newest])
        fall = fall_of(part, Params(old.r, old.alpha, old.a, old.b), fitted)
        if fall > MAX_FALL:
            reason = f"the log-likelihood of the newest fifth falls by {fall:.1%}, more than {MAX_FALL:.0%}"
            return report("refused", reason, model(fitted, confidence), ll)
    value = fitted_value(settings, found, fitted, x, t_x, t) if signal == "purchase" else None
    return report("published", "", model(fitted, confidence, value), ll)


def bands_of(settings: Settings, signal: str, found: Found, model: Model | None) -> dict[str, int]:
    """Band -> customers. Of a sample each stands for as many as it was drawn from."""
    import numpy as np

    from stream.fit import likelihood

    if not len(found):
        return dict.fromkeys(BANDS, 0)
    x, t_x, t = (np.frombuffer(column, dtype=np.int64) for column in (found.x, found.t_x_days, found.t_days))
    horizon_d = next(getattr(settings, s.horizon) for s in SIGNALS if s.name == signal and isinstance(s, ChurnSignal))
    risks = likelihood.risks(params_of(model), x, t_x / 7, t / 7, horizon_d / 7)
    low, high = int((risks < LOW_BAND).sum()), int((risks > HIGH_BAND).sum())
    return {band: n * found.share for band, n in zip(BANDS, (low, len(found) - low - high, high), strict=True)}


def fall_of(part: Histories, old: Params, new: Params) -> float:
    """By which part of itself the log-likelihood of these histories is worse under the new parameters."""
    from stream.fit import likelihood

    before, after = (likelihood.log_likelihood("mbgnbd", part, p) for p in (old, new))
    return (before - after) / max(abs(before), 1e-9)


def fitted_value(settings: Settings, found: Found, p: Params, x: Any, t_x: Any, t: Any) -> Value | None:
    """Gamma-Gamma of the currency that most customers paid in, and where the highest tenth begins."""
    import numpy as np

    from stream.core.value import ValueParams, factors
    from stream.fit import likelihood

    if not found.means:
        return None
    currency = max(found.means, key=lambda cur: (len(found.means[cur][0]), cur))
    places, means = (np.array(column) for column in found.means[currency])
    some = (x[places] > 0) & (means > 0)
    if int(some.sum()) < MIN_CUSTOMERS:
        return None
    fit = likelihood.fit_values(x[places][some], means[some])
    if fit is None or fit.at_bound:
        return None
    params = ValueParams(*fit.values)
    by_week = factors(settings.clv_weeks, settings.clv_discount_rate)
    clv = likelihood.lifetime_values(p, params, x[places], t_x[places] / 7, t[places] / 7, means, by_week)
    return Value(p=params.p, q=params.q, v=params.v, currency=currency, high=float(np.quantile(clv, 1 - HIGH)))


def prior_of(signal: str, site: str, current: Mapping[tuple[str, str], Model]) -> Params:
    """The mean of the logarithms of the other sites' good parameters, once there are five; else the cold prior."""
    others = [m for (of, name), m in sorted(current.items()) if name == signal and of != site and m.confidence == "ok"]
    if len(others) < PRIOR_SITES:
        return COLD
    logs = [[log(v) for v in (m.r, m.alpha, m.a, m.b)] for m in others]
    return Params(*(exp(sum(column) / len(others)) for column in zip(*logs, strict=True)))


async def publish(settings: Settings, models: Sequence[Model]) -> None:
    """To every partition, all acked. Raises ProduceError, TimeoutError (an OSError) when Kafka does not answer."""
    out = KafkaOut(
        settings.kafka,
        linger_ms=1.0,
        max_pending_bytes=64 << 20,
        produce_timeout_s=settings.produce_timeout_s,
        client_id="tracker-fit",
        observer=Producing(),
    )
    await out.start({topic.name: None for topic in TOPICS})
    try:
        async with asyncio.timeout(settings.produce_timeout_s):
            while not out.ready:  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.05)
        await acked(
            {
                out.append(PROFILE_EVENTS, None, encode_model(model), None, partition)
                for model in models
                for partition in range(settings.partitions)
            }
        )
    finally:
        await out.stop(settings.produce_timeout_s)


def _values(redis: Any, partition: int) -> list[str]:
    values: list[str] = redis.hvals(keys.models_key(partition))
    return values


def _decode(text: str) -> Model | None:
    try:
        return decode_model(text)
    except msgspec.DecodeError:
        return None  # of a newer version


@contextmanager
def _lock(redis: Any, site: str, dry_run: bool) -> Iterator[None]:
    if dry_run:
        yield
        return
    key, mine = f"{keys.fit_key(site)}:lock", uuid.uuid4().hex
    if not redis.set(key, mine, nx=True, ex=LOCK_S):
        raise Busy(f"another fit of {site} is under way (or died: its lock expires within {LOCK_S // 60} minutes)")
    try:
        yield
    finally:
        if redis.get(key) == mine:
            redis.delete(key)
