"""Counters of messages (email, push, SMS, Zalo, ...): by channel and action, and of these by campaign and by template,
at the event's time; and why people want no more of them. No state.

A STOP answered to an SMS counts as replied and as unsubscribed (stream/signals/contact.py knows the words).
"""

from __future__ import annotations

from typing import Final

from stream.signals import contact, shop
from stream.signals.base import Context, Result, Signal
from tracker.contract.events import CHANNELS, MESSAGE_ACTIONS, UNSUBSCRIBED, ProfileEvent
from tracker.contract.keys import message_field, message_of_field, unsubscribe_reason_field

MAX_REASON_CHARS: Final = 40
LEFT: Final = "unsubscribed"
_CHANNELS: Final = frozenset(CHANNELS)


class MessageSignal(Signal[None]):
    name = "messages"
    state_type: type[None] = type(None)
    events: frozenset[str] | None = frozenset(MESSAGE_ACTIONS)
    settings: frozenset[str] = frozenset()

    def fold(self, state: None, event: ProfileEvent, ctx: Context) -> Result:
        name = event.event or ""
        channel, action = MESSAGE_ACTIONS[name]
        left = contact.left(event) if name in (UNSUBSCRIBED, contact.REPLIED) else None
        if channel is None:
            channel = event.channel if event.channel in _CHANNELS else "other"
            if name == UNSUBSCRIBED and left in _CHANNELS:
                channel = left
        said = shop.properties(event.properties)
        campaign, template = shop.campaign(said) or "", shop.text(said.template_id, shop.MAX_ID_CHARS) or ""
        actions = ((channel, action), (left, LEFT)) if left is not None and action != LEFT else ((channel, action),)
        counts: list[tuple[str, int]] = []
        for of, what in actions:
            counts += (
                (message_field(of, what), 1),
                (message_of_field("campaign", of, what, campaign), 1),
                (message_of_field("template", of, what, template), 1),
            )
            if what == LEFT:
                reason = (shop.text(said.reason, MAX_REASON_CHARS) or "").casefold()
                counts.append((unsubscribe_reason_field(of, reason), 1))
        return Result(
            state=None,
            counts=tuple(counts),
            metrics=tuple(("message_events_total", (ctx.site, of, what), 1) for of, what in actions),
        )
