"""Fits of the churn models: `lifetimes` on CDNOW as oracle, and what is published, refused and held back."""

from __future__ import annotations

import asyncio
import csv
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from stream import metrics
from stream.core.cart_state import Line
from stream.core.churn import COLD, Params, band, bg_p_alive, p_alive, risk
from stream.core.expected import mean_purchases
from stream.core.orders import Order
from stream.core.reorder import Basket, Reorder
from stream.core.value import ValueParams, factors, lifetime_value
from stream.fit import likelihood, nightly, run
from stream.fit.gaps import Gaps
from stream.fit.histories import Found
from stream.fit.likelihood import Histories, compressed, fit_purchases, fit_values
from stream.signals.purchase import Purchases
from tracker.contract.durations import DAY_MS
from tracker.contract.models import Model
from tracker.contract.settings import Settings
from tracker.contract.sites import Site
from tracker.contract.windows import Zone

NOW_MS = 1_790_000_000_000


@pytest.fixture(scope="module")
def lifetimes() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lifetimes

        return lifetimes


@pytest.fixture(scope="module")
def cdnow(lifetimes: Any) -> dict[str, Any]:
    """2,357 customers: x, t_x, T in weeks, mean value of the repeats."""
    path = Path(lifetimes.__file__).parent / "datasets" / "cdnow_customers_summary_with_transactions.csv"
    with path.open() as file:
        rows = list(csv.DictReader(file))
    columns = {name: np.array([float(row[name]) for row in rows]) for name in ("x", "t_x", "T", "zbar")}
    assert (len(rows), columns["x"].sum(), (columns["x"] == 0).sum()) == (2357, 2457, 1411)
    return columns


@pytest.fixture(scope="module")
def histories(cdnow: dict[str, Any]) -> Histories:
    return Histories(cdnow["x"].astype(np.int64), cdnow["t_x"], cdnow["T"], np.ones(2357, dtype=np.int64))


@pytest.mark.parametrize(
    ("family", "fitter", "published", "ll"),
    [
        ("bgnbd", "BetaGeoFitter", (0.242593, 4.413531, 0.792886, 2.425753), -9582.4256),
        ("mbgnbd", "ModifiedBetaGeoFitter", (0.524838, 6.182992, 0.891356, 1.614000), -9582.1327),
    ],
)
def test_parameters_and_scores_are_those_of_lifetimes(
    family: Any, fitter: str, published: tuple[float, ...], ll: float, lifetimes: Any, cdnow: dict[str, Any],
    histories: Histories,
) -> None:  # fmt: skip
    fit = fit_purchases(family, histories)
    assert fit.values == pytest.approx(published, abs=1.5e-6)
    assert fit.ll == pytest.approx(ll, abs=1e-4)
    x, t_x, t = cdnow["x"], cdnow["t_x"], cdnow["T"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = getattr(lifetimes, fitter)()
        theirs.fit(x, t_x, t)
        found = Params(*(float(theirs.params_[name]) for name in ("r", "alpha", "a", "b")))
        assert fit.values == pytest.approx((found.r, found.alpha, found.a, found.b), rel=1e-5)
        assert fit.ll >= likelihood.log_likelihood(family, histories, found) - 1e-9
        assert likelihood.log_likelihood(family, histories, found) == pytest.approx(fit.ll, abs=1e-6)
        # Probabilities and expectations of every twentieth customer, both under their parameters.
        some = np.arange(0, 2357, 20)
        alive = theirs.conditional_probability_alive(x[some], t_x[some], t[some])
        bought = theirs.conditional_expected_number_of_purchases_up_to_time(39, x[some], t_x[some], t[some])
    ours = bg_p_alive if family == "bgnbd" else p_alive
    for i, their_alive, their_bought in zip(some, alive, bought, strict=True):
        assert ours(found, x[i], t_x[i], t[i]) == pytest.approx(float(their_alive), rel=1e-6)
        assert mean_purchases(family, found, x[i], t_x[i], t[i], 39) == pytest.approx(float(their_bought), rel=1e-6)


def test_gamma_gamma_is_that_of_lifetimes(lifetimes: Any, cdnow: dict[str, Any]) -> None:
    some = cdnow["x"] > 0
    x, mean = cdnow["x"][some].astype(np.int64), cdnow["zbar"][some]
    fit = fit_values(x, mean, prior=False)
    assert fit is not None
    assert fit.values == pytest.approx((6.248803, 3.744588, 15.447746), rel=1e-6)
    assert fit.ll == pytest.approx(-4055.9232, abs=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = lifetimes.GammaGammaFitter()
        theirs.fit(x, mean)
    assert fit.values == pytest.approx([float(theirs.params_[name]) for name in ("p", "q", "v")], rel=1e-3)
    in_dong = fit_values(x, mean * 25_000, prior=True)
    in_dollars = fit_values(x, mean, prior=True)
    assert in_dong is not None
    assert in_dollars is not None
    assert in_dong.values[:2] == pytest.approx(in_dollars.values[:2], rel=1e-6)
    assert in_dong.values[2] == pytest.approx(in_dollars.values[2] * 25_000, rel=1e-6)


@pytest.mark.parametrize("family", ["bgnbd", "mbgnbd"])
def test_the_gradients_are_the_differences(family: Any, histories: Histories) -> None:
    at = np.array([0.7, 5.0, 1.3, 2.0])
    evaluates = [
        (likelihood._purchases(family, histories), at),
        (likelihood._values(np.array([1.0, 2.0, 7.0]), np.array([0.5, 1.0, 3.0])), np.array([5.0, 4.0, 0.6])),
    ]
    for evaluate, values in evaluates:
        gradient = evaluate(values)[1]
        for i in range(len(values)):
            step = np.zeros(len(values))
            step[i] = 1e-6
            difference = (evaluate(values + step)[0] - evaluate(values - step)[0]) / 2e-6
            assert gradient[i] == pytest.approx(difference, rel=1e-5)


def test_equal_histories_are_one_row_with_the_same_likelihood() -> None:
    x, t_x, t = np.array([0, 2, 0, 2]), np.array([0, 30, 0, 30]), np.array([90, 90, 90, 90])
    rows = compressed(x, t_x, t)
    assert (len(rows.x), rows.customers, sorted(rows.n)) == (2, 4, [2, 2])
    each = Histories(x, t_x / 7, t / 7, np.ones(4, dtype=np.int64))
    assert likelihood.log_likelihood("mbgnbd", rows, COLD) == pytest.approx(
        likelihood.log_likelihood("mbgnbd", each, COLD)
    )


def test_values_of_many_customers_are_those_of_one_at_a_time() -> None:
    p, g, by_week = Params(0.5, 6.0, 0.9, 1.6), ValueParams(6.25, 3.74, 15.44), factors(52, 0.15)
    x, t_x, t = np.array([0, 2, 29, 2]), np.array([0.0, 30, 38, 3]), np.array([38.0, 38, 38, 5])
    mean = np.array([0.0, 22.0, 17.0, 5.0])
    many = likelihood.lifetime_values(p, g, x, t_x, t, mean, by_week)
    for i in range(4):
        one = lifetime_value("mbgnbd", p, g, x[i], t_x[i], t[i], mean[i], by_week)
        assert many[i] == pytest.approx(one, rel=1e-6)


# -- what is to become of a fit


def site_of(customers: int, days: int, seed: int = 1, rate: float = 1.0) -> Found:
    """Histories as the model has them."""
    draw, found = np.random.default_rng(seed), Found(10**6)
    for n in range(customers):
        age = int(draw.integers(1, days + 1)) if n else days
        lam, p = draw.gamma(0.8, rate / 6), draw.beta(0.9, 1.6)
        bought, at = [0], 0.0
        while draw.random() > p:
            at += 7 * draw.exponential(1 / max(lam, 1e-9))
            if at > age:
                break
            if int(at) > bought[-1]:
                bought.append(int(at))
        first = 20_000 - age
        orders = {str(d): Order(d, first + d, round(1e4 * draw.gamma(6, 3)), cur="VND") for d in bought}
        found.take(f"p{n}", Purchases(days=tuple(first + d for d in bought), orders=orders), 20_000)
    return found


def judged(found: Found, current: dict[tuple[str, str], Model] | None = None) -> run.Report:
    return run.judged(Settings(), "shop", "purchase", found, current or {}, NOW_MS)


def published(found: Found, current: dict[tuple[str, str], Model] | None = None) -> Model:
    report = judged(found, current)
    assert (report.status, report.model is None) == ("published", False)
    assert report.model is not None
    return report.model


def test_few_customers_leave_the_prior_and_more_move_it() -> None:
    report = judged(site_of(24, 300))
    assert (report.status, report.model, report.customers) == ("unchanged", None, 24)
    few = published(site_of(25, 300))
    assert (few.confidence, few.version, few.model_id, few.customers) == ("low", 1, "shop/purchase/1", 25)
    assert Params(few.r, few.alpha, few.a, few.b) != COLD
    assert published(site_of(500, 179)).confidence == "low"
    many = published(site_of(500, 180))
    assert many.confidence == "ok"
    assert many.value is not None
    assert many.value.currency == "VND"
    msgspec.json.decode(msgspec.json.encode(many), type=Model)
    again = published(site_of(520, 190), {("shop", "purchase"): many})
    assert again.version == 2
    fewer = published(site_of(3, 190), {("shop", "purchase"): many})
    assert (fewer.version, fewer.confidence, fewer.r) == (2, "cold", COLD.r)


def test_a_product_is_bought_again_after_the_median_of_the_times_between() -> None:
    def baskets(*orders: tuple[int, str]) -> Reorder:
        """(day, products, a letter each)."""
        return Reorder(
            tuple(Basket(day * DAY_MS, f"o{day}", tuple(Line(p, 1.0, None) for p in of)) for day, of in orders)
        )

    found = Gaps()
    for n, gap in enumerate((10, 30, 20, 25, 15)):
        found.take(baskets((n, "ab"), (n + 5, "b"), (n + gap, "ac")), {})
    assert found.medians() == {"a": 20.0, "b": 5.0}, "c was never bought again"
    found.take(baskets((0, "a"), (1, "a")), {"o1": Order(1, 1, value=10, back=10)})
    found.take(baskets((3, "a"), (3, "a")), {})
    assert found.medians()["a"] == 20.0, "given back, or on one day"
    site = site_of(30, 300)
    for n in range(5):
        site.gaps.take(baskets((n, "a"), (n + 20, "a")), {})
    assert published(site).gaps == {"a": 20.0}


def test_a_tenth_of_the_customers_is_flagged() -> None:
    found = site_of(600, 300)
    model = published(found)
    value = model.value
    assert value is not None
    assert value.high is not None
    p, g = Params(model.r, model.alpha, model.a, model.b), ValueParams(value.p, value.q, value.v)
    places, means = found.means["VND"]
    by_week = factors(52, 0.15)
    clv = [
        lifetime_value("mbgnbd", p, g, found.x[i], found.t_x_days[i] / 7, found.t_days[i] / 7, mean, by_week)
        for i, mean in zip(places, means, strict=True)
    ]
    assert sum(v is not None and v >= value.high for v in clv) == 60


def test_a_fit_that_the_newest_customers_speak_against_is_refused() -> None:
    # Those who came first buy ten times a week, the newest fifth once in a blue moon, as the parameters in force say.
    found = site_of(800, 300, rate=8.0)
    slow = Found(10**6)
    for columns, source in ((slow, found),):
        for name in ("x", "t_x_days", "t_days", "hash"):
            getattr(columns, name).extend(getattr(source, name))
    newest = sorted(range(800), key=lambda i: slow.t_days[i])[:170]
    for i in newest:
        slow.x[i], slow.t_x_days[i] = 0, 0
    old = Model(
        model_id="shop/purchase/3", site="shop", signal="purchase", version=3, fitted_at_ms=1, r=0.5, alpha=400.0,
        a=2.0, b=1.0, customers=800, confidence="ok",
    )  # fmt: skip
    report = judged(slow, {("shop", "purchase"): old})
    assert report.status == "refused"
    assert "newest fifth" in report.reason
    assert report.model is not None


def test_a_parameter_at_its_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = site_of(200, 300)
    assert judged(found).status == "published"
    monkeypatch.setattr(likelihood, "HIGH", float(np.log(4.0)))  # alpha is about 6
    report = judged(found)
    assert (report.status, report.reason) == ("refused", "a parameter is at its bound")
    assert report.model is not None
    assert report.model.alpha == pytest.approx(4.0, rel=0.01)


def test_five_good_sites_are_the_prior_of_the_next() -> None:
    def of(n: int, confidence: Any = "ok") -> Model:
        return Model(
            model_id="m", site=f"s{n}", signal="purchase", version=1, fitted_at_ms=1, r=0.5, alpha=4.0 * 4**(n % 2),
            a=1.0, b=2.0, customers=900, confidence=confidence,
        )  # fmt: skip

    sites = {(f"s{n}", "purchase"): of(n) for n in range(6)}
    prior = run.prior_of("purchase", "s0", {**sites, ("s9", "purchase"): of(9, "low"), ("s1", "visit"): of(1)})
    assert (prior.r, prior.a, prior.b) == pytest.approx((0.5, 1.0, 2.0))
    assert prior.alpha == pytest.approx(np.exp((3 * np.log(16) + 2 * np.log(4)) / 5))
    del sites["s5", "purchase"]
    assert run.prior_of("purchase", "s0", sites) == COLD


def test_of_more_histories_than_the_limit_a_sample_by_id_is_kept() -> None:
    found, order = Found(1000), Order(0, 19_000, 10_000, cur="VND")
    for n in range(5000):
        found.take(f"p{n}", Purchases(days=(19_000, 19_000 + n % 50 + 1), orders={"a": order}), 20_000)
    assert 500 <= len(found) <= 1000
    assert len(found) * found.share == pytest.approx(5000, rel=0.2)
    places, means = found.means["VND"]
    assert list(places) == list(range(len(found)))
    assert len(means) == len(found)


def test_a_night_is_done_once() -> None:
    zone, hour = Zone("Asia/Ho_Chi_Minh"), 3
    three = 1_790_000_000 // 86_400 * 86_400 - 4 * 3600  # 20:00 UTC = 3:00 there
    at = three + 5 * 3600
    assert nightly.last_hour_s(at, hour, zone) == three
    assert nightly.last_hour_s(three - 1, hour, zone) == three - 86_400
    assert nightly.is_due(at, hour, zone, None, three - 60)
    assert not nightly.is_due(at, hour, zone, None, three + 60)
    assert nightly.is_due(at, hour, zone, three - 86_400, at)
    assert not nightly.is_due(at, hour, zone, three + 5, at - 10**6)


def test_customers_are_counted_by_their_risk_as_one_at_a_time() -> None:
    found = site_of(200, 300)
    report = judged(found)
    model = report.model
    assert report.status == "published"
    assert model is not None
    p = Params(model.r, model.alpha, model.a, model.b)
    wanted = Counter(
        band(risk(p, x, t_x / 7, t / 7, Settings().churn_horizon_d / 7))
        for x, t_x, t in zip(found.x, found.t_x_days, found.t_days, strict=True)
    )
    assert report.bands == {name: wanted[name] for name in ("low", "medium", "high")}
    assert len(+wanted) > 1
    found.share = 4
    assert sum(judged(found).bands.values()) == 800
    assert judged(Found(10)).bands == {"low": 0, "medium": 0, "high": 0}


def test_the_last_fits_bands_are_shown_by_the_worker_that_may_fit() -> None:
    metrics.declare(["shop"])
    metrics.show_bands("shop", "visit", {"low": 3, "high": 2})
    metrics.show_bands("unknown", "visit", {"low": 3})
    shown = {
        tuple(sample.labels.values()): sample.value
        for family in metrics.CHURN_BANDS.collect()
        for sample in family.samples
    }
    assert {key: n for key, n in shown.items() if n} == {("shop", "visit", "low"): 3, ("shop", "visit", "high"): 2}
    assert shown["shop", "visit", "medium"] == 0
    metrics.forget_bands()
    assert metrics.CHURN_BANDS.labels("shop", "visit", "low")._value.get() == 0


async def test_a_report_that_nobody_can_read_or_a_fit_that_can_not_be_started_ends_no_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Unreadable:
        async def run(self, *_: str) -> list[bytes]:
            return [b'{"at_ms": "soon"']

    asked: list[str] = []

    async def no_memory(site: str, _: Settings) -> None:
        asked.append(site)
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(nightly, "is_due", lambda *_: True)
    monkeypatch.setattr(nightly, "fit", no_memory)
    shop = Site("wk_of_the_tests", "sk_of_the_tests")
    settings = Settings(fit_check_s=0.001, sites={"a": shop, "b": shop})
    store: Any = Unreadable()
    keeping = asyncio.create_task(nightly.keep_fitted(lambda: True, store, lambda: settings))
    async with asyncio.timeout(10):
        while len(asked) < 4 and not keeping.done():  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.001)
    assert asked[:4] == ["a", "b", "a", "b"]
    keeping.cancel()
    await asyncio.wait([keeping])
