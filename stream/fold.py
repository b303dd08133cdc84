"""The signals hop's core: records of profile-events in, effects out. No I/O, no clock: time is in the log.

A chunk is folded in two steps: `decode` (stream/records.py) tells which profiles it touches, so that the shell can load
them; `fold` gives the effects (stream/effects.py), which `blob` makes ready for apply.lua (stream/blob.py). Folding is
the same wherever a chunk begins or ends: timers due <= an event's timestamp fire before it for its own profile, and
clock records fire all others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, Final

from msgspec import UNSET
from msgspec.structs import replace

from stream import handover, metrics, naming
from stream.blob import Blobs
from stream.core.parts import UNREADABLE
from stream.effects import MOVED, Effects, Outgoing
from stream.handover import Sender, Sent
from stream.plans import Plan, Step, check_reads, plan_of
from stream.profile import ABOUT, MERGED, About, Profile, ProfileCodec, context_of
from stream.records import Decoded, Poison
from stream.signals.base import Context, Result, Signal, Trigger
from stream.stored import Newer, StateError
from stream.telling import Teller
from tracker.contract import keys
from tracker.contract.events import (
    CHANNELS,
    MAX_TIME_MS,
    MESSAGE_ACTIONS,
    ProfileEvent,
    event_label,
)
from tracker.contract.merges import (
    Handover,
    Merge,
    Unmerge,
)
from tracker.contract.models import Model, Models
from tracker.contract.settings import Settings
from tracker.contract.sites import DEFAULT_TIME_ZONE
from tracker.contract.topics import PROFILE_EVENTS
from tracker.contract.windows import Zone

log = logging.getLogger(__name__)
TRY_AGAIN_MS: Final = 3_600_000
MAX_STEPS: Final = 1000
"""Timers of a profile that fire one by one between two records; then what is left of a signal fires as one."""
_CHANNELS: Final = frozenset(CHANNELS)
_LEAST_KEPT_MS: Final = min(ttl_s for _, ttl_s in keys.TIERS.values()) * 1000
_KNOWN: Final = (("profiles_known", 1),)


class Folder:
    """Folds chunks of any partition with the registered signals."""

    def __init__(self, signals: Sequence[Signal[Any]], settings: Settings) -> None:
        self.codec = ProfileCodec(signals)
        self._by_name = {s.name: s for s in signals}
        self._timed = [s for s in signals if s.state_type is not type(None)]
        self._due_of = {s.name: s.due_ms for s in signals if type(s).due_ms is not Signal.due_ms}
        check_reads(signals)
        self._read = frozenset().union(*(s.reads for s in signals))
        """What is read of others, by any signal."""
        self._signals = tuple(signals)
        self._ranking = next((s for s in signals if s.ranks), None)
        self.blob = Blobs(self.codec, self._ranking, self.zone)
        self._zone = Zone(DEFAULT_TIME_ZONE)
        self._models: Models = {}
        """Those of the fold under way, where it stands in the log."""
        self._teller = Teller(signals, self.codec, self.zone)
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """Other settings from the next chunk, and the next of what was begun, on."""
        self.settings = settings
        plans: dict[Any, Plan] = {}
        self._plans = {name: plan_of(self._signals, site, plans) for name, site in settings.sites.items()}
        self._plan = plan_of(self._signals, None, plans)
        self._teller.reconfigure(settings)
        self.blob.reconfigure(settings)
        self._zones = {name: Zone(site.time_zone) for name, site in settings.sites.items()}
        ranking = self._ranking
        self.rank_rules = {site: ranking.rank_rules(site, settings) for site in settings.sites} if ranking else {}
        """Site -> a name of the rules by which its ranks are now."""

    def zone(self, site: str) -> Zone:
        return self._zones.get(site, self._zone)

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
        fx = Effects({}, {}, {}, {}, {}, [], [], {}, [], [], 0, clock_ms)
        self._models = models or {}
        for index, item in decoded.items:
            try:
                if type(item) is ProfileEvent:
                    pass  # by far the most: asked for first
                elif isinstance(item, int):
                    if item > fx.clock_ms:
                        fx.clock_ms = item
                        self._fire_all(item, profiles, due, fx)
                    continue
                elif isinstance(item, Model):
                    if item.newer_than(self._models.get((item.site, item.signal))):
                        self._models = {**self._models, (item.site, item.signal): item}
                        fx.models.append(item)
                    continue
                elif isinstance(item, Merge):
                    self._merge(index, item, profiles[item.site, item.loser], decoded, fx)
                    continue
                elif isinstance(item, Unmerge):
                    self._unmerge(index, item, profiles[item.site, item.profile_id], decoded, fx)
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
                    self._send_on(index, item, profile.merged_into, decoded, sender, fx)
                    continue
                fx.touched[key] = profile
                if isinstance(item, Handover):
                    self._take_over(index, item, profile, fx)
                    continue
                if profile.due_ms is not None and profile.due_ms <= item.timestamp_ms:
                    self._fire(profile, item.timestamp_ms, max(fx.clock_ms, item.received_at_ms), fx)
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

    def _merge(self, index: int, merge: Merge, loser: Profile, decoded: Decoded, fx: Effects) -> None:
        """The profile is no more: hand over what it has. A merge that comes again finds it done."""
        sender = decoded.sender(index)
        if loser.merged_into is not None:
            self._send_on(index, merge, loser.merged_into, decoded, sender, fx)
            return
        if merge.winner == merge.loser:
            return
        for sent in handover.hand_over(loser, merge, self.codec, sender):
            self._send(sent, fx)
        ctx = self.context(loser, fx.clock_ms)
        for signal in self._timed:
            if (state := loser.states.get(signal.name)) is not None:
                try:
                    fx.gauge(merge.site, signal.gauges(state), -1)
                    for trigger in signal.leave(state, merge.winner, fx.clock_ms, ctx):
                        self._tell(loser, signal, trigger, fx.clock_ms, fx)
                except Exception:  # The merge goes on: half of it would be two profiles with the same state.
                    log.exception("Signal %s failed at a merge in site %s", signal.name, merge.site)
        if loser.about is not None:
            fx.gauge(merge.site, _KNOWN, -1)
        fx.visits.leave(merge.site, merge.loser)
        handover.clear(loser, merge)
        loser.changed = {MERGED}
        fx.touched[merge.site, merge.loser] = loser

    def _unmerge(self, index: int, unmerge: Unmerge, profile: Profile, decoded: Decoded, fx: Effects) -> None:
        """The profile no longer says that it is who was taken off it; what it has done stays. A second time it finds
        nothing. (Whose the identifiers are has been changed before: stream/signals_hop.py.)"""
        if profile.merged_into is not None:
            self._send_on(index, unmerge, profile.merged_into, decoded, decoded.sender(index), fx)
            return
        about = profile.about
        if about is None:
            return
        gone = {value for type, value in unmerge.ids if type == "anonymous_id"}
        about.anonymous_ids = [id for id in about.anonymous_ids if id not in gone]
        if ("user_id", about.user_id) in unmerge.ids:
            about.user_id = None
        profile.changed.add(ABOUT)
        self._settle(profile, {ABOUT}, fx.clock_ms, fx.clock_ms, fx)
        profile.due_ms = self.codec.due_ms(profile)
        fx.touched[unmerge.site, unmerge.profile_id] = profile

    def _take_over(self, index: int, part: Handover, profile: Profile, fx: Effects) -> None:
        """A part of a merged profile's state arrives."""
        fx.taken_over += 1
        changed: set[str] = set()
        for name, value in handover.arrived(profile, part):
            is_new = profile.about is None
            try:
                theirs = handover.take_over(profile, name, value, self.codec)
            except Newer:
                raise
            except (StateError, *UNREADABLE) as e:
                fx.poison.append(Poison(index, "merge_failed", f"{name}: {e}"))
                continue
            changed.add(name)
            if isinstance(theirs, About):
                if is_new:
                    fx.gauge(part.site, _KNOWN)
                self.take_visits(profile, theirs.channels, fx)
                continue
            if theirs is None:
                continue
            signal = self._by_name[name]
            ours = profile.states.get(name)
            before = signal.gauges(ours) if ours is not None else ()
            if ours is None:
                result = Result(state=theirs)
            else:
                ctx = self.context(profile, fx.clock_ms)
                try:
                    result = signal.merge(ours, theirs, fx.clock_ms, ctx)
                except Exception as e:
                    log.exception("Signal %s failed at a merge in site %s", name, part.site)
                    fx.poison.append(Poison(index, "merge_failed", f"{name}: {type(e).__name__}: {e}"))
                    continue
            self._keep(profile, signal, replace(result, gauges=()), fx.clock_ms, fx)
            minute = signal.engaged_ms(result.state) // 60_000
            if minute and not fx.visits.too_old(minute, fx.clock_ms):
                fx.visits.add(part.site, signal.audience, profile.id, minute, None, self.zone(part.site))
            fx.gauge(part.site, before, -1)
            fx.gauge(part.site, signal.gauges(result.state))
        self._settle(profile, changed, fx.clock_ms, fx.clock_ms, fx)
        profile.due_ms = self.codec.due_ms(profile)

    def _send_on(
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
            self._send(sent, fx)

    def _send(self, sent: Sent, fx: Effects) -> None:
        fx.triggers.append(Outgoing(MOVED, PROFILE_EVENTS, sent.profile_id.encode(), sent.value, 0))

    def _apply(self, index: int, profile: Profile, event: ProfileEvent, fx: Effects) -> None:
        ts_ms = event.timestamp_ms
        minute = ts_ms // 60_000 * 60
        if event.received_at_ms - minute * 1000 > _LEAST_KEPT_MS:
            minute = place_of(ts_ms, event.received_at_ms)
        changed: set[str] = set()
        if not event.counted:
            channel = event.channel
            if channel not in _CHANNELS:
                channel = metrics.OTHER
            about = profile.about
            if about is None:
                fx.gauge(event.site, _KNOWN)
                left_out = profile.see(event)
                changed.add(ABOUT)
                self._visit(profile, channel, event, None, fx)
            else:
                traits, user_id, last_ms = about.traits, about.user_id, about.last_seen_ms
                left_out = profile.see(event)
                if traits is not about.traits or user_id is not about.user_id:
                    changed.add(ABOUT)
                if about.channels.get(channel) != ts_ms // 60_000:
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
        plan = self._plans.get(event.site, self._plan)
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
            _put_back(profile, before, told, fx)
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
        timed, due = self._due_of, False
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
                now = ts_ms // 60_000
                last = signal.engaged_ms(before) // 60_000 or None if before is not None else None
                if now != last and not fx.visits.too_old(now, received_ms):
                    fx.visits.add(event.site, signal.audience, profile.id, now, last, self.zone(event.site))
            self._keep(profile, signal, result, now_ms, fx)
        if due:
            profile.due_ms = self.codec.due_ms(profile)

    def _glanced(self, steps: tuple[Step, ...], profile: Profile, event: ProfileEvent) -> bool:
        """Whether a glance was enough for every signal: so of most events that none asks for by name, for which not
        even a context is made."""
        offset_ms = self.zone(profile.site).offset_s(event.timestamp_ms // 1000) * 1000
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
        zone = self.zone(profile.site)
        ctx = context_of(profile, zone, event.timestamp_ms, self.settings, self._models, states, changed, event)
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

    def _settle(self, profile: Profile, changed: set[str], at_ms: int, now_ms: int, fx: Effects) -> None:
        """`changed` of the profile is new, by a timer or a merge: what follows from it for the signals that read it.
        `now_ms`: the log's time, for what is stale."""
        for signal, reads in self._plans.get(profile.site, self._plan).settlers:
            if signal.name not in changed and reads.isdisjoint(changed):
                continue
            before = profile.states.get(signal.name)
            try:
                result = signal.settle(before, at_ms, self.context(profile, at_ms, changed))
                self._keep(profile, signal, result, now_ms, fx)
            except Exception:
                # Its state stays as it is, until the next change.
                log.exception("Signal %s failed on what it reads of a profile of site %s", signal.name, profile.site)
                continue
            if profile.states.get(signal.name) is not before:
                changed.add(signal.name)

    def _visit(self, profile: Profile, channel: str, event: ProfileEvent, last_ms: int | None, fx: Effects) -> None:
        """Count the profile among the visitors. `last_ms`: of its last event before this one, in any channel."""
        about = profile.about
        assert about is not None  # it has just been seen
        minute = event.timestamp_ms // 60_000
        last = about.channels.get(channel)
        if last is None or minute > last:
            about.channels[channel] = minute
        if not fx.visits.too_old(minute, event.received_at_ms):
            zone = self.zone(profile.site)
            fx.visits.add(profile.site, channel, profile.id, minute, last, zone)
            fx.visits.add(profile.site, keys.ALL, profile.id, minute, last_ms and last_ms // 60_000, zone)

    def take_visits(self, profile: Profile, channels: dict[str, int], fx: Effects) -> None:
        """A merge: `profile` is the visitor, too, that another one was. `channels`: About.channels of the other.

        The other one's partition takes it off by fx.visits.leave(site, id).
        """
        about = profile.about
        assert about is not None  # who takes over has been seen, or was given the other's
        zone = self.zone(profile.site)
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

    def _keep(self, profile: Profile, signal: Signal[Any], result: Result, now_ms: int, fx: Effects) -> None:
        for _, _, ms in result.counts_at:
            if abs(ms) > 2 * MAX_TIME_MS:  # weeks and gaps begin before, and end after, the times that events may have
                raise ValueError(f"{signal.name} counts at {ms}, which is no time")
        state, name, states = result.state, signal.name, profile.states
        before = dict(states) if result.triggers else states
        if state is not None and state is not states.get(name):
            states[name] = state
            profile.changed.add(name)
        if result.triggers:
            told = len(fx.triggers)
            try:
                for trigger in result.triggers:
                    self._tell(profile, signal, trigger, now_ms, fx)
            except Exception:
                _put_back(profile, before, told, fx)
                raise
        if result.sums or result.sums_back:
            fx.add_sums(profile.site, result.sums, result.sums_back)
        if result.gauges:
            fx.gauge(profile.site, result.gauges)
        for field, more, ms in result.counts_at:
            extra = fx.extra.setdefault((profile.site, place_of(ms, now_ms)), {})
            extra[field] = extra.get(field, 0) + more
        for metric, labels, n in result.metrics:
            fx.count(metric, *labels, n=n)

    def _tell(self, profile: Profile, signal: Signal[Any], trigger: Trigger, now_ms: int, fx: Effects) -> None:
        self._teller.tell(profile, signal, trigger, now_ms, fx)

    def _fire_all(
        self,
        clock_ms: int,
        profiles: dict[tuple[str, str], Profile],
        due: Sequence[tuple[str, str]],
        fx: Effects,
    ) -> None:
        """Every timer due <= clock_ms, of profiles due before the chunk or touched by it, earliest first."""
        candidates = {key: profiles[key] for key in due}
        for key, profile in candidates.items():
            if profile.due_ms is None or profile.due_ms > clock_ms:
                fx.touched[key] = profile  # The index is behind: the profile expired, or its signal is gone.
        candidates.update(fx.touched)
        ready = sorted(
            (p.due_ms, p.site, p.id, key)
            for key, p in candidates.items()
            if p.due_ms is not None and p.due_ms <= clock_ms
        )
        for _, _, _, key in ready:
            profile = candidates[key]
            self._fire(profile, clock_ms, clock_ms, fx)
            fx.touched[key] = profile

    def _fire(self, profile: Profile, until_ms: int, now_ms: int, fx: Effects) -> None:
        """Fire the profile's timers due <= until_ms. `now_ms`: the log's time, for what is stale.

        In the order of their due times, and what reads a signal settles at its time: so what follows from several
        timers has the time at which it became true, also when the clock has jumped over all of them."""
        steps = 0
        while (first := self._first_due(profile, until_ms)) is not None:
            due, signal = first
            steps += 1
            to_ms = due if signal.reads and steps < MAX_STEPS else until_ms
            before = profile.states[signal.name]
            try:
                result = signal.fire(before, to_ms, self.context(profile, due))
                after = signal.due_ms(result.state if result.state is not None else before)
                self._keep(profile, signal, result, now_ms, fx)
            except Exception:
                # Its state stays as it is, to be fired when the signal is mended; the others go on.
                log.exception("Signal %s failed at its timer for profile %s", signal.name, profile.part)
                self._put_off(profile, signal, until_ms, fx)
                continue
            state = profile.states[signal.name]
            if after is not None and after <= to_ms:
                log.error("Signal %s left a timer due that it had fired", signal.name)  # It would fire for ever.
                self._put_off(profile, signal, until_ms, fx)
            if state is not before and signal.name in self._read:
                self._settle(profile, {signal.name}, due, now_ms, fx)
        profile.due_ms = self.codec.due_ms(profile)

    def put_aside(self, profile: Profile, until_ms: int, clock_ms: int) -> Effects:
        """The effects where those of a profile's timers due <= until_ms can't be written: they are tried again later,
        its state stays as it is."""
        fx = Effects({}, {}, {}, {}, {}, [], [], {}, [], [], 0, clock_ms)
        while (first := self._first_due(profile, until_ms)) is not None:
            log.error("What signal %s makes at its timer of profile %s can't be written", first[1].name, profile.part)
            self._put_off(profile, first[1], until_ms, fx)
        profile.due_ms = self.codec.due_ms(profile)
        fx.touched[profile.site, profile.id] = profile
        return fx

    @staticmethod
    def _put_off(profile: Profile, signal: Signal[Any], until_ms: int, fx: Effects) -> None:
        profile.broken[signal.name] = until_ms + TRY_AGAIN_MS
        fx.count("timers_failed_total", profile.site)

    def _first_due(self, profile: Profile, until_ms: int) -> tuple[int, Signal[Any]] | None:
        """The earliest timer due <= until_ms, at a tie of the signal registered first."""
        found = None
        for signal in self._timed:
            state = profile.states.get(signal.name)
            if state is None:
                continue
            due = signal.due_ms(state)
            if due is None or due > until_ms or profile.broken.get(signal.name, 0) > until_ms:
                continue
            if found is None or due < found[0]:
                found = (due, signal)
        return found

    def context(self, profile: Profile, ts_ms: int, changed: Set[str] = frozenset()) -> Context:
        return context_of(profile, self.zone(profile.site), ts_ms, self.settings, self._models, profile.states, changed)

    def rank_again(self, profiles: Iterable[Profile], clock_ms: int) -> Effects:
        """The effects of other rules for scores on profiles: their ranks and their timers. Nothing is triggered: an
        upward step is taken, and told, with the next event."""
        fx = Effects({}, {}, {}, {}, {}, [], [], {}, [], [], 0, clock_ms)
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
            self._keep(profile, signal, replace(result, triggers=()), clock_ms, fx)
            profile.changed.add(signal.name)
            profile.due_ms = self.codec.due_ms(profile)
            fx.touched[profile.site, profile.id] = profile
        return fx


def place_of(ms: int, now_ms: int) -> int:
    """Where a count belongs: the start of its minute, s, and in the place of its seconds how many tiers are over: whose
    buckets of that time no window reads any more. (An import of years would leave some dead keys for each event, each
    for as long as if it were of today.) By the time that is in the log, so the same wherever a chunk is cut."""
    start = ms // 60_000 * 60
    age_s = now_ms // 1000 - start
    return start + sum(age_s > ttl_s for _, ttl_s in keys.TIERS.values())


def _put_back(profile: Profile, states: dict[str, Any], told: int, fx: Effects) -> None:
    """The states that a profile had, and no trigger beyond the first `told`: what failed half way has no effect."""
    profile.changed -= profile.states.keys() - states.keys()
    profile.states = states
    del fx.triggers[told:]


def _add(sums: dict[tuple[str, int], dict[str, int]], key: tuple[str, int], fields: naming.Fields) -> None:
    into = sums.get(key)
    if into is None:
        into = sums[key] = {}
    for name, n in fields:
        into[name] = into.get(name, 0) + n
