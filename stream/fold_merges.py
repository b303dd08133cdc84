"""Two profiles become one, or are taken apart: what merges, unmerges and the parts of handovers do in a chunk.

What goes from one profile to the other, and in which records, is in stream/handover.py. Here it gets its effects: the
loser leaves the gauges and the visitors, each signal of the winner merges the state that arrives, and whatever still
comes for the loser is sent on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from stream import handover
from stream.core.parts import UNREADABLE
from stream.effects import KNOWN, MOVED, Effects, Outgoing
from stream.handover import Sender, Sent
from stream.keeping import Keeper
from stream.profile import ABOUT, MERGED, About, Profile
from stream.records import Decoded, Poison
from stream.signals.base import Result, Signal
from stream.stored import Newer, StateError
from tracker.contract import keys
from tracker.contract.durations import MINUTE_MS
from tracker.contract.events import ProfileEvent
from tracker.contract.merges import Handover, Merge, Unmerge
from tracker.contract.topics import PROFILE_EVENTS
from tracker.contract.windows import Zone

log = logging.getLogger(__name__)


class Merges:
    """Merges the profiles of one partition with those of any."""

    def __init__(self, signals: Sequence[Signal[Any]], keeper: Keeper) -> None:
        self._keeper = keeper
        self._by_name = {s.name: s for s in signals}

    def merge(self, index: int, merge: Merge, loser: Profile, decoded: Decoded, fx: Effects) -> None:
        """The profile is no more: hand over what it has. A merge that comes again finds it done."""
        sender = decoded.sender(index)
        if loser.merged_into is not None:
            self.send_on(index, merge, loser.merged_into, decoded, sender, fx)
            return
        if merge.winner == merge.loser:
            return
        for sent in handover.hand_over(loser, merge, self._keeper.codec, sender):
            _send(sent, fx)
        ctx = self._keeper.context(loser, fx.clock_ms)
        for signal in self._keeper.stateful:
            if (state := loser.states.get(signal.name)) is not None:
                try:
                    fx.gauge(merge.site, signal.gauges(state), -1)
                    for trigger in signal.leave(state, merge.winner, fx.clock_ms, ctx):
                        self._keeper.tell(loser, signal, trigger, fx.clock_ms, fx)
                except Exception:  # The merge goes on: half of it would be two profiles with the same state.
                    log.exception("Signal %s failed at a merge in site %s", signal.name, merge.site)
        if loser.about is not None:
            fx.gauge(merge.site, KNOWN, -1)
        fx.visits.leave(merge.site, merge.loser)
        handover.clear(loser, merge)
        loser.changed = {MERGED}
        fx.touched[merge.site, merge.loser] = loser

    def unmerge(self, index: int, unmerge: Unmerge, profile: Profile, decoded: Decoded, fx: Effects) -> None:
        """The profile no longer says that it is who was taken off it; what it has done stays. A second time it finds
        nothing. (Whose the identifiers are has been changed before: stream/signals_hop.py.)"""
        if profile.merged_into is not None:
            self.send_on(index, unmerge, profile.merged_into, decoded, decoded.sender(index), fx)
            return
        about = profile.about
        if about is None:
            return
        gone = {value for type, value in unmerge.ids if type == "anonymous_id"}
        about.anonymous_ids = [id for id in about.anonymous_ids if id not in gone]
        if ("user_id", about.user_id) in unmerge.ids:
            about.user_id = None
        profile.changed.add(ABOUT)
        self._keeper.settle(profile, {ABOUT}, fx.clock_ms, fx.clock_ms, fx)
        profile.due_ms = self._keeper.codec.due_ms(profile)
        fx.touched[unmerge.site, unmerge.profile_id] = profile

    def take_over(self, index: int, part: Handover, profile: Profile, fx: Effects) -> None:
        """A part of a merged profile's state arrives."""
        fx.taken_over += 1
        changed: set[str] = set()
        for name, value in handover.arrived(profile, part):
            is_new = profile.about is None
            try:
                theirs = handover.take_over(profile, name, value, self._keeper.codec)
            except Newer:
                raise
            except (StateError, *UNREADABLE) as e:
                fx.poison.append(Poison(index, "merge_failed", f"{name}: {e}"))
                continue
            changed.add(name)
            if isinstance(theirs, About):
                if is_new:
                    fx.gauge(part.site, KNOWN)
                take_visits(profile, theirs.channels, self._keeper.zone(profile.site), fx)
                continue
            if theirs is None:
                continue
            signal = self._by_name[name]
            ours = profile.states.get(name)
            before = signal.gauges(ours) if ours is not None else ()
            if ours is None:
                result = Result(state=theirs)
            else:
                ctx = self._keeper.context(profile, fx.clock_ms)
                try:
                    result = signal.merge(ours, theirs, fx.clock_ms, ctx)
                except Exception as e:
                    log.exception("Signal %s failed at a merge in site %s", name, part.site)
                    fx.poison.append(Poison(index, "merge_failed", f"{name}: {type(e).__name__}: {e}"))
                    continue
            self._keeper.keep(profile, signal, replace(result, gauges=()), fx.clock_ms, fx)
            minute = signal.engaged_ms(result.state) // MINUTE_MS
            if minute and not fx.visits.too_old(minute, fx.clock_ms):
                fx.visits.add(part.site, signal.audience, profile.id, minute, None, self._keeper.zone(part.site))
            fx.gauge(part.site, before, -1)
            fx.gauge(part.site, signal.gauges(result.state))
        self._keeper.settle(profile, changed, fx.clock_ms, fx.clock_ms, fx)
        profile.due_ms = self._keeper.codec.due_ms(profile)

    def send_on(
        self,
        index: int,
        item: ProfileEvent | Handover | Merge | Unmerge,
        winner: str,
        decoded: Decoded,
        sender: Sender,
        fx: Effects,
    ) -> None:
        """A record for a profile that was merged."""
        if item.hops >= handover.MAX_HOPS:
            fx.poison.append(Poison(index, "merge_loop", f"sent on {item.hops} times"))
            return
        sent = handover.sent_on(item, decoded.values[index], winner, sender)
        if sent is not None:
            _send(sent, fx)


def take_visits(profile: Profile, channels: dict[str, int], zone: Zone, fx: Effects) -> None:
    """A merge: `profile` is the visitor, too, that another one was. `channels`: About.channels of the other.

    The other one's partition takes it off by fx.visits.leave(site, id).
    """
    about = profile.about
    assert about is not None  # who takes over has been seen, or was given the other's
    minutes: dict[str, int] = {}
    for channel, minute in channels.items():
        if minute > (last := about.channels.get(channel, -1)):
            about.channels[channel] = minute
            profile.changed.add(ABOUT)
        minutes[channel] = max(minute, last)
    if minutes:
        minutes[keys.ALL] = max(about.channels.values())
    for channel, minute in minutes.items():
        if not fx.visits.too_old(minute, fx.clock_ms):
            fx.visits.add(profile.site, channel, profile.id, minute, None, zone)


def _send(sent: Sent, fx: Effects) -> None:
    fx.triggers.append(Outgoing(MOVED, PROFILE_EVENTS, sent.profile_id.encode(), sent.value, 0))
