"""The registered signals."""

from __future__ import annotations

from typing import Any, Final

from stream.signals.activity import ActivitySignal
from stream.signals.base import DECIDING, Signal
from stream.signals.browse import BrowseSignal
from stream.signals.cart import CartSignal
from stream.signals.contact import ContactSignal
from stream.signals.drip import DripSignal
from stream.signals.engagement import EngagementSignal
from stream.signals.feedback import FeedbackSignal
from stream.signals.gate import GateSignal
from stream.signals.journey import JourneySignal
from stream.signals.message_engage import MessageEngageSignal
from stream.signals.messages import MessageSignal
from stream.signals.popups import PopupSignal
from stream.signals.purchase import PurchaseSignal
from stream.signals.reorder import ReorderSignal
from stream.signals.retention import RetentionSignal
from stream.signals.reviews import ReviewSignal
from stream.signals.rules import RuleSignal
from stream.signals.score import ScoreSignal
from stream.signals.segments import SegmentSignal
from stream.signals.steps import StepSignal
from stream.signals.surveys import SurveySignal
from stream.signals.usage import UsageSignal
from stream.signals.visit import VisitSignal
from tracker.contract.loading import SettingsError
from tracker.contract.settings import Settings

SIGNALS: Final[tuple[Signal[Any], ...]] = (
    ContactSignal(),  # first: what it knows decides about the triggers of an event
    CartSignal(),
    PurchaseSignal(),
    VisitSignal(),
    MessageEngageSignal(),
    PopupSignal(),
    MessageSignal(),
    ScoreSignal(),
    BrowseSignal(),
    UsageSignal(),
    ActivitySignal(),
    RetentionSignal(),
    StepSignal(),
    FeedbackSignal(),
    # Those that look at others stand behind them.
    ReorderSignal(),
    EngagementSignal(),
    JourneySignal(),
    DripSignal(),
    SurveySignal(),
    ReviewSignal(),
    SegmentSignal(),
    RuleSignal(),
    GateSignal(),  # last: it remembers what all others told
)
"""In this order: what a signal reads (Signal.reads) stands before it."""


def chosen(settings: Settings) -> tuple[Signal[Any], ...]:
    """The registered signals without those that `signals_off` names. Raises SettingsError."""
    off = {name.strip() for name in settings.signals_off.split(",")} - {""}
    optional = [s.name for s in SIGNALS if s.name not in DECIDING]
    if unknown := off.difference(optional):
        raise SettingsError(f"signals_off: '{min(unknown)}' is none of {', '.join(optional)}")
    kept = tuple(s for s in SIGNALS if s.name not in off)
    for signal in kept:
        if missing := signal.reads & off:
            raise SettingsError(f"signals_off: '{signal.name}' needs '{min(missing)}'; name both")
    return kept
