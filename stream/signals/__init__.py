"""The registered signals."""

from __future__ import annotations

from typing import Any, Final

from stream.signals.base import Signal
from stream.signals.cart import CartSignal
from stream.signals.churn import PurchaseSignal
from stream.signals.messages import MessageSignal
from stream.signals.popups import PopupSignal

SIGNALS: Final[tuple[Signal[Any], ...]] = (CartSignal(), PurchaseSignal(), PopupSignal(), MessageSignal())
