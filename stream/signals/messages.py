"""Counters of messages (email, push, SMS, Zalo, ...): one field a channel and action, at the event's time. No state."""

from __future__ import annotations

from typing import Final

from stream.signals.base import Context, Result, Signal
from tracker.contract.events import CHANNELS, MESSAGE_ACTIONS, ProfileEvent
from tracker.contract.keys import message_field

_CHANNELS: Final = frozenset(CHANNELS)


class MessageSignal(Signal[None]):
    name = "messages"
    state_type: type[None] = type(None)
    events: frozenset[str] | None = frozenset(MESSAGE_ACTIONS)
    settings: frozenset[str] = frozenset()

    def fold(self, state: None, event: ProfileEvent, ctx: Context) -> Result:
        channel, action = MESSAGE_ACTIONS[event.event or ""]
        if channel is None:
            channel = event.channel if event.channel in _CHANNELS else "other"
        return Result(
            state=None,
            counts=((message_field(channel, action), 1),),
            metrics=(("message_events_total", (ctx.site, channel, action), 1),),
        )
