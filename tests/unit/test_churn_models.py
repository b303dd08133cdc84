"""The churn and value models against their vectors, an independent computation, and their limits."""

from __future__ import annotations

import json
import random
from math import inf, isfinite
from typing import Any

import mpmath
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.churn import (
    COLD,
    Family,
    Params,
    band,
    bg_p_alive,
    bg_p_at_least_one,
    crossing,
    log_likelihood,
    p_alive,
    p_at_least_one,
    risk,
)
from stream.core.expected import discounted, if_alive, mean_purchases, mean_purchases_of_new
from stream.core.value import ValueParams, factors, lifetime_value, mean_value
from tracker.cli import cli

BG = Params(0.243, 4.414, 0.793, 2.426)
MBG = Params(0.525, 6.183, 0.891, 1.614)
FAMILIES: tuple[Family, ...] = ("bgnbd", "mbgnbd")
VALUE = ValueParams(6.25, 3.74, 15.44)

BG_VECTORS = [
    # x, t_x, T, P(alive), E[Y(39)], P(>= 1 in 39), LL of the customer
    (0, 0, 38.86, 1.0, 0.195098052011, 0.144550540783, -0.554713276438),
    (1, 1.71, 38.86, 0.212100985377, 0.203186987080, 0.116667349383, -4.46909327503),
    (2, 30.43, 38.86, 0.726578570081, 1.22602817477, 0.554627137917, -9.45860630707),
    (2, 35.71, 38.86, 0.784790612614, 1.32425513493, 0.599062770720, -9.53567662781),
    (10, 38, 38.86, 0.921449822161, 6.70587495283, 0.920172470931, -27.4355891604),
    (29, 38, 38.86, 0.955221721242, 19.4522938432, 0.955221714631, -44.4420685251),
    (29, 5, 38.86, 1.62878242861e-18, 3.31687960013e-17, 1.62878241734e-18, -3.52918140718),
    (1, 0.5, 1, 0.730611892024, 3.3283734383, 0.677206795749, -3.1222583536),
    (1000, 10, 500, 0.0, 0.0, 0.0, 3225.14298368),
]


@pytest.mark.parametrize(("x", "t_x", "t", "alive", "bought", "at_least_one", "ll"), BG_VECTORS)
def test_bg_nbd_agrees_with_its_vectors(
    x: int, t_x: float, t: float, alive: float, bought: float, at_least_one: float, ll: float
) -> None:
    assert bg_p_alive(BG, x, t_x, t) == pytest.approx(alive, rel=1e-11, abs=0)
    assert bg_p_at_least_one(BG, x, t_x, t, 39) == pytest.approx(at_least_one, rel=1e-11, abs=0)
    assert mean_purchases("bgnbd", BG, x, t_x, t, 39) == pytest.approx(bought, rel=1e-11, abs=0)
    assert log_likelihood("bgnbd", BG, x, t_x, t) == pytest.approx(ll, rel=1e-11, abs=0)


@pytest.mark.parametrize(
    ("t", "bought"),
    [(1, 0.0532678911717), (4, 0.196068172434), (13, 0.534439541094), (39, 1.19672319332), (52, 1.4460505954)],
)
def test_what_a_new_customer_buys_agrees_with_its_vectors(t: float, bought: float) -> None:
    assert mean_purchases_of_new("bgnbd", BG, t) == pytest.approx(bought, rel=1e-11, abs=0)


@pytest.mark.parametrize(
    ("x", "mean", "expected"),
    [(0, 0, 35.2189781022), (1, 11.77, 18.9168520578), (2, 22.35, 24.6637139108), (5, 35.0, 35.0176522507),
     (26, 17.0, 17.3021060276)],
)  # fmt: skip
def test_gamma_gamma_agrees_with_its_vectors(x: int, mean: float, expected: float) -> None:
    assert mean_value(VALUE, x, mean) == pytest.approx(expected, rel=1e-11, abs=0)


def test_the_lifetime_value_agrees_with_its_vectors() -> None:
    year = factors(52, 0.15)
    repeat = lifetime_value("bgnbd", BG, VALUE, 2, 30.43, 38.86, 22.35, year)
    once = lifetime_value("bgnbd", BG, VALUE, 0, 0, 38.86, 0, year)
    assert repeat == pytest.approx(36.00785534, rel=2e-10)
    assert once == pytest.approx(8.30056726, rel=1e-9)
    assert mean_value(ValueParams(6.25, 1.0, 15.44), 0, 0) is None


def test_discounted_purchases_are_the_sum_over_the_weeks() -> None:
    for family in FAMILIES:
        by_week = factors(10, 0.15)
        bought = [mean_purchases(family, BG, 2, 30.43, 38.86, week) for week in range(11)]
        total = sum((bought[w] - bought[w - 1]) * by_week[w - 1] for w in range(1, 11))
        found = discounted(family, BG, 2, 30.43, 38.86, by_week)
        assert found == pytest.approx(total, rel=1e-12)
    assert by_week[0] == pytest.approx(1.15 ** (-1 / 52))


def _by_the_paper(rate: float, scale: float, a: float, b: float, t: float) -> Any:
    """(a+B-1)/(a-1) * [1 - (A/(A+t))^R 2F1(R, B; a+B-1; t/(A+t))], with 40 digits."""
    with mpmath.workdps(40):
        r, big_a, a, b, t = (mpmath.mpf(v) for v in (rate, scale, a, b, t))
        part = mpmath.hyp2f1(r, b, a + b - 1, t / (big_a + t)) * (big_a / (big_a + t)) ** r
        return (a + b - 1) / (a - 1) * (1 - part)


@pytest.mark.parametrize("seed", range(60))
def test_expected_purchases_are_the_papers_for_all_kinds_of_parameters(seed: int) -> None:
    draw = random.Random(seed)

    def size(low: float, high: float) -> float:
        return float(10 ** draw.uniform(low, high))

    p = Params(size(-2, 2), size(-2, 3), size(-2.5, 2.5), size(-2.5, 2.5))
    x, t, h = draw.choice([0, 1, 3, 10, 100, 400]), size(-2, 3), size(-3, 3.3)
    by_paper = _by_the_paper(p.r + x, p.alpha + t, p.a, p.b + x, h)
    assert if_alive("bgnbd", p, x, t, h) == pytest.approx(float(by_paper), rel=1e-12, abs=0)
    by_paper = _by_the_paper(p.r + x, p.alpha + t, p.a, p.b + x + 1, h)
    assert if_alive("mbgnbd", p, x, t, h) == pytest.approx(float(by_paper), rel=1e-12, abs=0)


def test_there_is_no_hole_at_a_of_1() -> None:
    around = [if_alive("mbgnbd", Params(0.5, 6.0, a, 1.6), 2, 30, 39) for a in (1 - 1e-9, 1.0, 1 + 1e-9)]
    assert around[0] == pytest.approx(around[1], rel=1e-8)
    assert around[1] == pytest.approx(around[2], rel=1e-8)


_any = st.floats(5e-324, allow_infinity=False)


@settings(max_examples=100)
@given(_any, _any, _any, _any, st.integers(0, 10**12), st.floats(0, allow_infinity=False), _any, st.floats(0, 1))
def test_no_double_is_too_large_or_too_small(
    r: float, alpha: float, a: float, b: float, x: int, t: float, h: float, part: float
) -> None:
    p, t_x = Params(r, alpha, a, b), t * part if x else 0.0
    for value in (p_alive(p, x, t_x, t), bg_p_alive(p, x, t_x, t), p_at_least_one(p, x, t_x, t, h),
                  bg_p_at_least_one(p, x, t_x, t, h)):  # fmt: skip
        assert 0 <= value <= 1
    for family in FAMILIES:
        bought = mean_purchases(family, p, x, t_x, t, h)
        assert 0 <= bought < inf
        log_likelihood(family, p, x, t_x, t)


@pytest.mark.parametrize(
    ("x", "t_x", "t", "alive", "at_least_one", "digits"),
    [
        (0, 0, 38.86, 0.389735080919, 0.108829398777, 1e-11),
        (0, 0, 1, 0.626076612305, 0.390389987773, 1e-11),
        (2, 30.43, 38.86, 0.706202265118, 0.559994090822, 1e-11),
        (7, 29.43, 38.86, 0.622723814169, 0.617022606904, 1e-11),
        (29, 5, 38.86, 4.69224460718e-17, 4.69224456e-17, 1e-8),
    ],
)
def test_mbg_nbd_agrees_with_its_vectors(
    x: int, t_x: float, t: float, alive: float, at_least_one: float, digits: float
) -> None:
    assert p_alive(MBG, x, t_x, t) == pytest.approx(alive, rel=1e-11, abs=0)
    assert p_at_least_one(MBG, x, t_x, t, 39) == pytest.approx(at_least_one, rel=digits, abs=0)


_params = st.builds(
    Params,
    st.floats(1e-3, 1e3),
    st.floats(1e-3, 1e4),
    st.floats(1e-3, 1e3),
    st.floats(1e-3, 1e3),
)
_ages = st.floats(0, 1e5)


@settings(max_examples=500)
@given(_params, st.integers(0, 100_000), _ages, _ages, _ages, st.floats(1e-3, 1e4))
def test_probabilities_stay_within_0_and_1_and_fall_with_age(
    p: Params, x: int, t_x: float, since: float, later: float, h: float
) -> None:
    t = t_x + since
    now, then = p_at_least_one(p, x, t_x, t, h), p_at_least_one(p, x, t_x, t + later, h)
    for value in (now, then, p_alive(p, x, t_x, t), bg_p_alive(p, x, t_x, t), bg_p_at_least_one(p, x, t_x, t, h)):
        assert isfinite(value)
        assert 0 <= value <= 1
    assert then <= now * (1 + 1e-12)
    assert p_alive(p, x, t_x, t + later) <= p_alive(p, x, t_x, t) * (1 + 1e-12)


@settings(max_examples=200)
@given(_params, st.integers(0, 2000), st.floats(0, 500), st.floats(0.1, 100), st.floats(0.01, 0.99))
def test_the_crossing_is_where_the_risk_reaches_the_threshold(
    p: Params, x: int, t_x: float, h: float, enter: float
) -> None:
    at = crossing(p, x, t_x, h, enter)
    assert at >= t_x
    if at == float("inf"):
        assert risk(p, x, t_x, 5200, h) < enter
        return
    assert risk(p, x, t_x, at, h) >= enter
    if at - 1e-6 > t_x:
        assert risk(p, x, t_x, at - 1e-6, h) <= enter


def test_the_crossing_of_the_cold_prior_is_where_it_was_computed_by_hand() -> None:
    # x=1, t_x=4 weeks, h=13: risk(t) = 1 - (1 - ((8+t)/(21+t))^2) / (1 + ((8+t)/12)^2 / 3.5)
    t = crossing(COLD, 1, 4.0, 13.0, 0.9)
    by_hand = 1 - (1 - ((8 + t) / (21 + t)) ** 2) / (1 + ((8 + t) / 12) ** 2 / 3.5)
    assert by_hand == pytest.approx(0.9, abs=1e-9)
    assert t == pytest.approx(32.5649, abs=1e-4)


def test_a_risk_that_is_high_at_once_crosses_at_once() -> None:
    assert crossing(COLD, 0, 0.0, 0.01, 0.5) == 0.0


def test_bands_are_cut_at_a_third_and_two_thirds() -> None:
    assert [band(r) for r in (0.0, 0.329, 0.33, 0.66, 0.661, 1.0)] == [
        "low", "low", "medium", "medium", "high", "high",
    ]  # fmt: skip


# -- tracker model eval ----------------------------------------------------------------------------------------------


def run(*args: str) -> Any:
    return CliRunner().invoke(cli, ["model", "eval", *args], standalone_mode=False)


def test_the_command_prints_what_the_signal_computes() -> None:
    given = ["--model", "bgnbd", "--x", "2", "--tx", "30.43", "--T", "38.86", "--horizon", "39"]
    named, bare = (run(*given, "--params", p) for p in ("b=2.426,r=.243,alpha=4.414,a=.793", ".243,4.414,.793,2.426"))
    assert named.output == bare.output
    found = json.loads(named.output)
    assert found["p_alive"] == bg_p_alive(BG, 2, 30.43, 38.86)
    assert found["p_at_least_one"] == bg_p_at_least_one(BG, 2, 30.43, 38.86, 39)
    assert found["expected_purchases"] == mean_purchases("bgnbd", BG, 2, 30.43, 38.86, 39)
    assert found["log_likelihood"] == log_likelihood("bgnbd", BG, 2, 30.43, 38.86)
    mbg = json.loads(run(*given, "--model", "mbgnbd", "--params", "0.525,6.183,.891,1.614").output)
    assert mbg["p_alive"] == pytest.approx(0.706202265118, rel=1e-11)


def test_the_command_prints_values() -> None:
    value = json.loads(run("--model", "gammagamma", "--params", "6.25,3.74,15.44", "--x", "0").output)
    assert value["expected_value"] == pytest.approx(35.2189781022, rel=1e-11)
    both = run("--model", "gammagamma", "--params", ".243,4.414,.793,2.426,6.25,3.74,15.44", "--x", "2", "--tx",
               "30.43", "--T", "38.86", "--mean-value", "22.35")  # fmt: skip
    assert json.loads(both.output)["clv"] == pytest.approx(36.00785534, rel=2e-10)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"--params": "1,8,0,2.5"}, "a must be above 0"),
        ({"--params": "r=1,alpha=8,a=1,r=2"}, "each once"),
        ({"--params": "1,8,1"}, "give r,alpha,a,b"),
        ({"--params": "1,8,1,nan"}, "no finite number"),
        ({"--x": "-1"}, "no number of repeat purchases"),
        ({"--x": "1.5"}, "no number of repeat purchases"),
        ({"--x": "0"}, "without a repeat purchase"),
        ({"--tx": "9", "--T": "5"}, "later than now"),
        ({"--T": "-5", "--tx": "-7"}, "not below 0"),
        ({"--horizon": "-1"}, "below 0"),
        ({"--horizon": "soon"}, "no number"),
    ],
)
def test_what_no_model_takes_is_told_in_one_line(changed: dict[str, str], said: str) -> None:
    args = {"--model": "mbgnbd", "--params": "1,8,1,2.5", "--x": "2", "--tx": "4", "--T": "5", "--horizon": "13"}
    result = run(*(word for pair in (args | changed).items() for word in pair))
    assert said in str(result.exception)
    assert result.output == ""
