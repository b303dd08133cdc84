"""Churn risk by the days on which somebody opened, clicked or answered a message, of any channel."""

from __future__ import annotations

from typing import Final

from stream.core.churn_watch import Watched
from stream.signals.base import Context, Result
from stream.signals.churn import ChurnSignal
from tracker.contract.events import MESSAGE_ACTIONS, ProfileEvent

ENGAGED: Final = frozenset(
    name for name, (_, action) in MESSAGE_ACTIONS.items() if action in ("seen", "clicked", "replied")
)


class MessageEngageSignal(ChurnSignal[Watched]):
    name = "message_engage"
    state_type = Watched
    events: frozenset[str] | None = ENGAGED
    settings = ChurnSignal.common | {"message_horizon_d"}
    horizon = "message_horizon_d"
    gauge = "churn_high_message_engage"

    def fold(self, state: Watched | None, event: ProfileEvent, ctx: Context) -> Result:
        if event.bot is not None:
            return Result(state=state)
        before = Watched() if state is None else state
        after = self.seen(before, event.timestamp_ms, ctx)
        return Result(state=after, gauges=self.moved(before, after))
