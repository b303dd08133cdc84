"""The registered signals."""

from __future__ import annotations

from typing import Any, Final

from stream.signals.base import Signal
from stream.signals.cart import CartSignal
from stream.signals.contact import ContactSignal
from stream.signals.gate import GateSignal
from stream.signals.message_engage import MessageEngageSignal
from stream.signals.messages import MessageSignal
from stream.signals.popups import PopupSignal
from stream.signals.purchase import PurchaseSignal
from stream.signals.score import ScoreSignal
from stream.signals.visit import VisitSignal

SIGNALS: Final[tuple[Signal[Any], ...]] = (
    ContactSignal(),  # first: what it knows decides about the triggers of an event
    CartSignal(),
    PurchaseSignal(),
    VisitSignal(),
    MessageEngageSignal(),
    PopupSignal(),
    MessageSignal(),
    ScoreSignal(),
    GateSignal(),
)
