"""Popup counters: one field an action and popup, at the event's time. No state."""

from __future__ import annotations

from typing import Final

from stream.signals import shop
from stream.signals.base import Context, Result, Signal
from tracker.contract.events import POPUP_ACTIONS, ProfileEvent
from tracker.contract.keys import popup_field

MAX_POPUP_ID_CHARS: Final = 64


class PopupSignal(Signal[None]):
    name = "popups"
    state_type: type[None] = type(None)
    events: frozenset[str] | None = frozenset(POPUP_ACTIONS)
    settings: frozenset[str] = frozenset()

    def fold(self, state: None, event: ProfileEvent, ctx: Context) -> Result:
        action = POPUP_ACTIONS[event.event or ""]
        popup_id = shop.text(shop.properties(event.properties).popup_id, MAX_POPUP_ID_CHARS) or "unknown"
        return Result(
            state=None,
            counts=((popup_field(action, popup_id), 1),),
            metrics=(("popup_events_total", (ctx.site, action), 1),),
        )
