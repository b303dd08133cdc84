"""`tracker model eval`: what a churn model says of one customer, with any parameters: the code that the signals run."""

from __future__ import annotations

import json
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from stream.core.churn import Params
    from stream.core.value import ValueParams

PURCHASES: Final = ("r", "alpha", "a", "b")
VALUES: Final = ("p", "q", "v")
WEEKS: Final = 52


class Wrong(click.ClickException):
    """A number that no model takes: one line. Exit code 2."""

    exit_code = 2


@click.group()
def model() -> None:
    """Evaluate the models behind churn risk and customer lifetime value."""


@model.command("eval")
@click.option("--model", "name", type=click.Choice(["bgnbd", "mbgnbd", "gammagamma"]), required=True, help="The model.")
@click.option(
    "--params", required=True, metavar="NAME=VALUE,...",
    help="Its parameters: r,alpha,a,b of the purchases' model, p,q,v of gammagamma's, or all seven for the CLV. "
    "Bare numbers stand in that order.",
)  # fmt: skip
@click.option("--x", metavar="N", required=True, help="Repeat purchases.")
@click.option("--tx", metavar="AGE", default=None, help="Age at the last purchase.  [0 where x is 0]")
@click.option("--T", "--t", "t", metavar="AGE", default=None, help="Age now, from the first purchase on.")
@click.option("--horizon", metavar="TIME", default=None, help="How far to look ahead, in the same unit.")
@click.option(
    "--mean-value", "--mean", metavar="M", default=None, help="Mean value of the repeat purchases, for gammagamma."
)
@click.option("--discount-rate", metavar="RATE", default="0.15", show_default=True, help="A year, for the CLV.")
@click.option("--weeks", type=click.IntRange(1, 5200), default=WEEKS, show_default=True, help="Of the CLV.")
@click.option(
    "--purchases", type=click.Choice(["bgnbd", "mbgnbd"]), default="bgnbd", show_default=True,
    help="Whose r,alpha,a,b they are, with --model gammagamma.",
)  # fmt: skip
def eval_command(
    name: str, params: str, x: str, tx: str | None, t: str | None, horizon: str | None, mean_value: str | None,
    discount_rate: str, weeks: int, purchases: str,
) -> int:  # fmt: skip
    """Print P(alive), P(>= 1 purchase), the expected purchases and the log-likelihood of one customer as JSON; with
    gammagamma's parameters the expected value of a purchase and the CLV, for which the unit of time is a week."""
    from stream.core import churn, expected, value

    given = _params(name, params)
    family: churn.Family = "mbgnbd" if (purchases if name == "gammagamma" else name) == "mbgnbd" else "bgnbd"
    count = _number("x", x)
    if count < 0 or count != int(count):
        raise Wrong(f"--x: '{x}' is no number of repeat purchases: 0, 1, 2, ...")
    out: dict[str, Any] = {"model": name, "params": given, "x": int(count)}
    buys: Params | None = churn.Params(*(given[n] for n in PURCHASES)) if "r" in given else None
    worth: ValueParams | None = value.ValueParams(*(given[n] for n in VALUES)) if "p" in given else None
    # The CLV needs a purchases' model and the ages; E[M] of gammagamma alone does not.
    if buys is not None and not (name == "gammagamma" and t is None):
        last, age = _ages(count, tx, t)
        out |= {"t_x": last, "T": age}
        if horizon is not None or name != "gammagamma":
            if horizon is None:
                raise Wrong("--horizon is missing")
            h = _number("horizon", horizon)
            if h < 0:
                raise Wrong(f"--horizon: {horizon} is below 0")
            alive = churn.bg_p_alive if family == "bgnbd" else churn.p_alive
            some = churn.bg_p_at_least_one if family == "bgnbd" else churn.p_at_least_one
            out |= {
                "horizon": h,
                "p_alive": alive(buys, count, last, age),
                "p_at_least_one": (some_p := some(buys, count, last, age, h)),
                "risk": 1.0 - some_p,
                "expected_purchases": expected.mean_purchases(family, buys, count, last, age, h),
                "expected_purchases_of_new": expected.mean_purchases_of_new(family, buys, h),
            }
        out["log_likelihood"] = _shown(churn.log_likelihood(family, buys, count, last, age))
    if worth is not None:
        mean = _mean(count, mean_value)
        out["expected_value"] = value.mean_value(worth, count, mean)
        if out["expected_value"] is None:
            raise Wrong("q must be above 1: there is no mean value of a customer without repeat purchases")
        if "T" in out and buys is not None:
            rate = _number("discount-rate", discount_rate)
            if rate <= -1:
                raise Wrong(f"--discount-rate: {discount_rate} is not above -1")
            by_week = value.factors(weeks, rate)
            clv = value.lifetime_value(family, buys, worth, count, out["t_x"], out["T"], mean, by_week)
            out |= {"mean_value": mean, "clv": clv, "clv_weeks": weeks, "discount_rate": rate}
    click.echo(json.dumps({k: _shown(v) if isinstance(v, float) else v for k, v in out.items()}))
    return 0


def _params(name: str, text: str) -> dict[str, float]:
    """'r=.2,alpha=4,a=.8,b=2' or bare numbers -> by name."""
    own = VALUES if name == "gammagamma" else PURCHASES
    names = {3: VALUES if name == "gammagamma" else (), 4: PURCHASES, 7: (*PURCHASES, *VALUES)}
    pieces = [piece.strip() for piece in text.split(",")]
    pairs: list[tuple[str, str]]
    if any("=" in piece for piece in pieces):
        pairs = [(left.strip(), right) for left, _, right in (piece.partition("=") for piece in pieces)]
    else:
        pairs = list(zip(names.get(len(pieces), ()), pieces, strict=False))
    given = dict(pairs)
    usable = (own, (*PURCHASES, *VALUES))
    if len(given) != len(pieces) or not any(set(given) == set(each) for each in usable):
        raise Wrong(
            f"--params: give {','.join(own)} (or all of {','.join(PURCHASES + VALUES)}), each once; got '{text}'"
        )
    found: dict[str, float] = {
        key: _number(f"params: {key}", given[key]) for key in (*PURCHASES, *VALUES) if key in given
    }
    for key, number in found.items():
        if number <= 0:
            raise Wrong(f"--params: {key} must be above 0, is {given[key].strip()}")
    return found


def _ages(x: float, tx: str | None, t: str | None) -> tuple[float, float]:
    if t is None:
        raise Wrong("--T is missing: the age now, from the first purchase on")
    if tx is None and x > 0:
        raise Wrong("--tx is missing: the age at the last purchase")
    last, age = _number("tx", tx or "0"), _number("T", t)
    if last < 0 or age < 0:
        raise Wrong(f"--tx and --T: ages are not below 0, got {last:g} and {age:g}")
    if last > age:
        raise Wrong(f"--tx: the last purchase ({last:g}) is later than now, --T ({age:g})")
    if x == 0 and last > 0:
        raise Wrong(f"--tx: without a repeat purchase (--x 0) it is 0, got {last:g}")
    return last, age


def _mean(x: float, text: str | None) -> float:
    if text is None:
        if x > 0:
            raise Wrong("--mean-value is missing: the mean of the repeat purchases")
        return 0.0
    mean = _number("mean-value", text)
    if mean < 0:
        raise Wrong(f"--mean-value: {text} is below 0")
    return mean


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise Wrong(f"--{name}: '{text.strip()}' is no number") from None
    if not isfinite(number):
        raise Wrong(f"--{name}: '{text.strip()}' is no finite number")
    return number


def _shown(value: float) -> float | None:
    """JSON knows no infinity."""
    return value if isfinite(value) else None
