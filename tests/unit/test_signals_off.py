"""`signals_off`: what a deployment does without costs nothing, and nothing that decides about triggers can be off."""

from __future__ import annotations

import pytest

from stream.signals import SIGNALS, chosen
from tracker.contract.loading import SettingsError
from tracker.contract.settings import Settings


def test_all_signals_are_on_but_those_that_are_named() -> None:
    assert chosen(Settings()) == SIGNALS
    off = chosen(Settings(signals_off=" rules,score, cart,segments"))
    assert [s.name for s in SIGNALS if s not in off] == ["cart", "score", "segments", "rules"]
    assert [s for s in SIGNALS if s in off] == list(off), "in the order in which they are registered"


@pytest.mark.parametrize("name", ["contact", "gate", "no-such"])
def test_a_signal_that_decides_or_that_nobody_knows_is_refused_by_name(name: str) -> None:
    with pytest.raises(SettingsError, match=f"'{name}' is none of cart, "):
        chosen(Settings(signals_off=f"cart,{name}"))


def test_what_another_signal_reads_is_not_off_without_it() -> None:
    with pytest.raises(SettingsError, match="'reorder' needs 'purchase'; name both"):
        chosen(Settings(signals_off="purchase"))
