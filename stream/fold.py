"""The signals hop's core: records of profile-events in, effects out. No I/O, no clock: time is in the log.

A chunk is folded in two steps: `decode` (stream/records.py) tells which profiles it touches, so that the shell can load
them; `fold` gives the effects (stream/effects.py), which `blob` makes ready for apply.lua (stream/blob.py). Folding is
the same wherever a chunk begins or ends: timers due <= an event's timestamp fire before it for its own profile, and
clock records fire all others.

Here are the walk over a chunk's records and what becomes of an event. What signals answer is kept by stream/keeping.py;
timers fire in stream/fold_timers.py; what merges do is in stream/fold_merges.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from msgspec import UNSET
from msgspec.structs import replace

from stream import metrics, naming
from stream.blob import Blobs
from stream.effects import KNOWN, Effects, place_of
from stream.fold_merges import Merges
from stream.fold_timers import Timers
from stream.keeping import Keeper, Listener, put_back
from stream.plans import Step
from stream.profile import ABOUT, Profile, context_of
from stream.records import Decoded, Poison
from stream.signals.base import Result, Signal
from stream.stored import StateError
from tracker.contract import keys
from tracker.contract.durations import MINUTE_MS
from tracker.contract.events import CHANNELS, MESSAGE_ACTIONS, ProfileEvent, event_label
from tracker.contract.merges import Handover, Merge, Unmerge
from tracker.contract.models import Model, Models
from tracker.contract.settings import Settings

log = logging.getLogger(__name__)
_CHANNELS: Final = frozenset(CHANNELS)
_LEAST_KEPT_MS: Final = min(ttl_s for _, ttl_s in keys.TIERS.values()) * 1000


class Folder:
    """Folds chunks of any partition with the registered signals."""

    def __init__(self, signals: Sequence[Signal[Any]], settings: Settings, listener: Listener | None = None) -> None:
        self._keeper = keeper = Keeper(signals, settings, listener)
        self.codec, self.zone, self.context = keeper.codec, keeper.zone, keeper.context
        self.timers = Timers(signals, keeper)
        self._merges = Merges(signals, keeper)
        self._due_of = {s.name: s.due_ms for s in signals if type(s).due_ms is not Signal.due_ms}
        self._ranking = next((s for s in signals if s.ranks), None)
        self.blob = Blobs(self.codec, self._ranking, self.zone)
        self._configure(settings)

    @property
    def settings(self) -> Settings:
        return self._keeper.settings

    def reconfigure(self, settings: Settings) -> None:
        """Other settings from the next chunk, and the next of what was begun, on."""
        self._keeper.reconfigure(settings)
        self._configure(settings)

    def _configure(self, settings: Settings) -> None:
        self.blob.reconfigure(settings)
        ranking = self._ranking
        self.rank_rules = {site: ranking.rank_rules(site, settings) for site in settings.sites} if ranking else {}
        """Site -> a name of the rules by which its ranks are now."""

    def fold(
        self,
        decoded: Decoded,
        profiles: dict[tuple[str, str], Profile],
        due: Sequence[tuple[str, str]],
        src: dict[int, tuple[int, int]],
        clock_ms: int,
        models: Models | None = None,
    ) -> Effects:
        """The effects of a chunk.

        profiles: every profile of `decoded.profiles` and `due`, as before the chunk; changed in place.
        due: profiles that had a timer due <= decoded.clock_ms before the chunk.
        src: partition of events -> (offset, index) last applied from there, as before the chunk; not changed.
        clock_ms: the last clock record applied before the chunk.
        models: the parameters as before the chunk; not changed.
        """
        fx = Effects.none(clock_ms)
        keeper = self._keeper
        keeper.models = models or {}
        for index, item in decoded.items:
            try:
                if type(item) is ProfileEvent:
                    pass  # by far the most: asked for first
                elif isinstance(item, int):
                    if item > fx.clock_ms:
                        fx.clock_ms = item
                        self.timers.fire_all(item, profiles, due, fx)
                    continue
                elif isinstance(item, Model):
                    if item.newer_than(keeper.models.get((item.site, item.signal))):
                        keeper.models = {**keeper.models, (item.site, item.signal): item}
                        fx.models.append(item)
                    continue
                elif isinstance(item, Merge):
                    self._merges.merge(index, item, profiles[item.site, item.loser], decoded, fx)
                    continue
                elif isinstance(item, Unmerge):
                    self._merges.unmerge(index, item, profiles[item.site, item.profile_id], decoded, fx)
                    continue
                partition, offset, sub = item.src
                place = (offset, sub)
                last = fx.src.get(partition) or src.get(partition)
                if last is not None and place <= last:
                    fx.repeats += 1
                    continue
                fx.src[partition] = place
                key = (item.site, item.profile_id)
                profile = profiles[key]
                if profile.merged_into is not None:
                    sender = decoded.sender(index)
                    self._merges.send_on(index, item, profile.merged_into, decoded, sender, fx)
                    continue
                fx.touched[key] = profile
                if isinstance(item, Handover):
                    self._merges.take_over(index, item, profile, fx)
                    continue
                if profile.due_ms is not None and profile.due_ms <= item.timestamp_ms:
                    self.timers.fire(profile, item.timestamp_ms, max(fx.clock_ms, item.received_at_ms), fx)
                self._apply(index, profile, item, fx)
                fx.received.append(item.received_at_ms)
            except StateError:
                raise  # its remedy is another version of this worker
            except Exception as e:  # one record never stops a partition
                if isinstance(item, int):
                    raise  # no record's fault, but a profile's timer's: stream/signals_hop.py puts it aside
                log.exception("A record of site %s can't be folded", getattr(item, "site", "?"))
                fx.poison.append(Poison(index, "fold_failed", f"{type(e).__name__}: {e}"))
        return fx

    def _apply(self, index: int, profile: Profile, event: ProfileEvent, fx: Effects) -> None:
        ts_ms = event.timestamp_ms
        minute = ts_ms // MINUTE_MS * 60
        if event.received_at_ms - minute * 1000 > _LEAST_KEPT_MS:
            minute = place_of(ts_ms, event.received_at_ms)
        changed: set[str] = set()
        if not event.counted:
            channel = event.channel
            if channel not in _CHANNELS:
                channel = metrics.OTHER
            about = profile.about
            if about is None:
                fx.gauge(event.site, KNOWN)
                left_out = profile.see(event)
                changed.add(ABOUT)
                self._visit(profile, channel, event, None, fx)
            else:
                traits, user_id, last_ms = about.traits, about.user_id, about.last_seen_ms
                left_out = profile.see(event)
                if traits is not about.traits or user_id is not about.user_id:
                    changed.add(ABOUT)
                if about.channels.get(channel) != ts_ms // MINUTE_MS:
                    self._visit(profile, channel, event, last_ms, fx)
            if left_out:
                fx.count("traits_left_out_total", event.site, n=left_out)
            key, what = (event.site, minute), (channel, event_label(event))
            counts = fx.seen.get(key)
            if counts is None:
                counts = fx.seen[key] = {}
            counts[what] = counts.get(what, 0) + 1
            fields = naming.content(event)
            if fields:
                _add(fx.content, key, fields)
            if event.campaign is not UNSET or event.event in MESSAGE_ACTIONS:
                fields = naming.campaign(event)
                if fields:
                    _add(fx.campaigns, key, fields)
        plan = self._keeper.plan(event.site)
        if event.event is not None:
            steps = plan.steps.get(event.event, plan.for_all)
        else:
            steps = plan.by_type.get(event.type, plan.for_all)
        if steps is plan.for_all and not changed and self._glanced(steps, profile, event):
            return
        now_ms, received_ms = fx.clock_ms, event.received_at_ms
        at_ms = ts_ms if ts_ms > now_ms else now_ms
        if received_ms > now_ms:
            now_ms = received_ms
        try:  # All of them first: an event that one signal fails on is counted, but changes no signal's state.
            results, states = self._results(steps, profile, event, at_ms, changed)
        except Exception as e:
            log.exception("A signal failed on an event of site %s", event.site)
            fx.poison.append(Poison(index, "fold_failed", f"{type(e).__name__}: {e}"))
            return
        before, told = profile.states, len(fx.triggers)
        profile.states = states
        try:
            self._keep_all(profile, event, before, results, minute, now_ms, fx)
        except Exception:
            put_back(profile, before, told, fx)
            raise

    def _keep_all(
        self,
        profile: Profile,
        event: ProfileEvent,
        states: Mapping[str, Any],
        results: Sequence[tuple[Signal[Any], Result]],
        minute: int,
        now_ms: int,
        fx: Effects,
    ) -> None:
        """What the signals made of an event. `states`: the profile's before it; its own are those after it."""
        ts_ms, received_ms = event.timestamp_ms, event.received_at_ms
        keep, timed, due = self._keeper.keep, self._due_of, False
        for signal, result in results:
            state, before = result.state, states.get(signal.name)
            if state is not None and state is not before:
                profile.changed.add(signal.name)
                if (due_of := timed.get(signal.name)) is not None:
                    due = due or before is None or due_of(before) != due_of(state)
            if result.counts:
                extra = fx.extra.setdefault((event.site, minute), {})
                for field, n in result.counts:
                    extra[field] = extra.get(field, 0) + n
            if result.engaged:
                now = ts_ms // MINUTE_MS
                last = signal.engaged_ms(before) // MINUTE_MS or None if before is not None else None
                if now != last and not fx.visits.too_old(now, received_ms):
                    fx.visits.add(event.site, signal.audience, profile.id, now, last, self.zone(event.site))
            keep(profile, signal, result, now_ms, fx)
        if due:
            profile.due_ms = self.codec.due_ms(profile)

    def _glanced(self, steps: tuple[Step, ...], profile: Profile, event: ProfileEvent) -> bool:
        """Whether a glance was enough for every signal: so of most events that none asks for by name, for which not
        even a context is made."""
        offset_ms = self._keeper.zone(profile.site).offset_s(event.timestamp_ms // 1000) * 1000
        states = profile.states
        new: dict[str, Any] = {}
        for signal, name, folds, looks, _ in steps:
            if not folds:
                continue
            state = states.get(name)
            if not (looks and signal.idle(state, event, offset_ms)):
                after = signal.glance(state, event, offset_ms)
                if after is None:
                    return False
                new[name] = after
        if new:
            states.update(new)
            profile.changed.update(new)
        return True

    def _results(
        self, steps: tuple[Step, ...], profile: Profile, event: ProfileEvent, at_ms: int, changed: set[str]
    ) -> tuple[list[tuple[Signal[Any], Result]], dict[str, Any]]:
        """What the event gives, in the order of the signals: each sees what it made of those before it; and all states
        after it. `profile` is not changed. `changed`: what the event has changed of it already."""
        states = dict(profile.states)
        keeper = self._keeper
        zone = keeper.zone(profile.site)
        ctx = context_of(profile, zone, event.timestamp_ms, keeper.settings, keeper.models, states, changed, event)
        offset_ms = ctx.utc_offset_ms
        results = []
        for signal, name, folds, looks, reads in steps:
            state = states.get(name)
            if folds and not (looks and signal.idle(state, event, offset_ms)):
                if looks and (after := signal.glance(state, event, offset_ms)) is not None:
                    states[name] = after
                    results.append((signal, Result(state=after)))
                else:
                    result = signal.fold(state, event, ctx)
                    results.append((signal, result))
                    if result.state is not None and result.state is not state:
                        states[name] = state = result.state
                        changed.add(name)
            if reads and (name in changed or not reads.isdisjoint(changed)):
                result = signal.settle(state, at_ms, ctx)
                if result.state is state and not result.triggers:
                    continue
                results.append((signal, result))
                if result.state is not None and result.state is not state:
                    states[name] = result.state
                    changed.add(name)
        return results, states

    def _visit(self, profile: Profile, channel: str, event: ProfileEvent, last_ms: int | None, fx: Effects) -> None:
        """Count the profile among the visitors. `last_ms`: of its last event before this one, in any channel."""
        about = profile.about
        assert about is not None  # it has just been seen
        minute = event.timestamp_ms // MINUTE_MS
        last = about.channels.get(channel)
        if last is None or minute > last:
            about.channels[channel] = minute
        if not fx.visits.too_old(minute, event.received_at_ms):
            zone = self.zone(profile.site)
            fx.visits.add(profile.site, channel, profile.id, minute, last, zone)
            fx.visits.add(profile.site, keys.ALL, profile.id, minute, last_ms and last_ms // MINUTE_MS, zone)

    def rank_again(self, profiles: Iterable[Profile], clock_ms: int) -> Effects:
        """The effects of other rules for scores on profiles: their ranks and their timers. Nothing is triggered: an
        upward step is taken, and told, with the next event."""
        fx = Effects.none(clock_ms)
        signal = self._ranking
        for profile in profiles:
            if signal is None or (state := profile.states.get(signal.name)) is None:
                fx.unranked.append((profile.site, profile.id))  # it was forgotten, or merged
                continue
            try:
                result = signal.revise(state, clock_ms, self.context(profile, clock_ms))
            except Exception:
                log.exception("Signal %s failed at other settings for a profile of site %s", signal.name, profile.site)
                continue
            self._keeper.keep(profile, signal, replace(result, triggers=()), clock_ms, fx)
            profile.changed.add(signal.name)
            profile.due_ms = self.codec.due_ms(profile)
            fx.touched[profile.site, profile.id] = profile
        return fx


def _add(sums: dict[tuple[str, int], dict[str, int]], key: tuple[str, int], fields: naming.Fields) -> None:
    into = sums.get(key)
    if into is None:
        into = sums[key] = {}
    for name, n in fields:
        into[name] = into.get(name, 0) + n
