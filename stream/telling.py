"""Whether a trigger goes out: published, held back or suppressed, by what the gate (stream/core/gate.py) remembers and
the site wants; and whom it is about, the same for all kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from stream.core import contact, gate
from stream.core.gate import Gate, Held, Stopped, Told
from stream.effects import Effects, Outgoing
from stream.profile import Profile, ProfileCodec
from stream.signals.base import Signal, Trigger
from tracker.contract.settings import Settings
from tracker.contract.sites import Links
from tracker.contract.topics import MAX_RECORD_BYTES
from tracker.contract.triggers import Person, TriggerLinks, encode_trigger
from tracker.contract.windows import Zone

CONTACT: Final = "contact"
GATE: Final = "gate"
"""Names of the two signals that decide about all triggers."""
HELD: Final = "held"
MAX_TRAIT_BYTES: Final = 1024
_DEFAULT_RULES: Final = gate.Rules()
_encode: Final = msgspec.json.Encoder().encode


class Teller:
    """Tells triggers, by the settings of their sites."""

    def __init__(self, signals: Sequence[Signal[Any]], codec: ProfileCodec, zone: Callable[[str], Zone]) -> None:
        self._by_name = {s.name: s for s in signals}
        self._codec = codec
        self._zone = zone
        self.gated = GATE in self._by_name

    def reconfigure(self, settings: Settings) -> None:
        self._rules = {name: gate.rules_of(site.triggers) for name, site in settings.sites.items()}
        self._links = {name: _links(site.links) for name, site in settings.sites.items()}
        self._stale_ms = int(settings.stale_s * 1000)

    def tell(self, profile: Profile, signal: Signal[Any], trigger: Trigger, now_ms: int, fx: Effects) -> None:
        """Publish a trigger, hold it back or suppress it: stream/core/gate.py says which. `signal`: who tells it."""
        kind, data = trigger.kind, trigger.data
        retracts = data.retracts if kind.retraction is not None and isinstance(data, kind.retraction) else None  # type: ignore[attr-defined]
        before = profile.states.get(GATE, gate.OPEN) if self.gated else gate.OPEN
        after, reason = before, trigger.suppressed
        due_ms = max(trigger.at_ms, trigger.held_until_ms)
        if reason is None and due_ms < now_ms - self._stale_ms:
            reason = "stale"
        if reason is None and trigger.told_by is not None:
            teller = self._by_name.get(trigger.told_by)
            state = profile.states.get(trigger.told_by)
            if teller is None or state is None or not teller.still_true(state, kind, data):
                reason = "void"
        if reason is None and self.gated:
            if retracts is not None:
                after, held = gate.without_held(after, retracts)
                if held is not None:
                    after = self._stop(after, kind.name, held.id, held.at_ms, "retracted", fx)
                if not gate.was_told(after, retracts):
                    reason = "not_told"
            elif kind.marketing:
                after, reason = self._pass(after, profile, signal, trigger, now_ms, fx)
                if reason == HELD:
                    self._keep(profile, before, after)
                    return
            elif kind.retraction is not None:
                after = gate.with_told(after, Told(trigger.id, kind.name, max(trigger.at_ms, now_ms)))
        if reason is not None:
            after = self._stop(after, kind.name, trigger.id, trigger.at_ms, reason, fx)
        if reason is not None:
            self._keep(profile, before, after)
            return
        value = encode_trigger(
            kind,
            id=trigger.id,
            site=profile.site,
            profile_id=profile.id,
            at_ms=trigger.at_ms,
            data=self._to_person(profile, data, trigger.at_ms),
        )
        if len(value) > MAX_RECORD_BYTES:  # Kafka would refuse it, and all triggers of the partition behind it
            after = self._stop(before, kind.name, trigger.id, trigger.at_ms, "too_large", fx)
            self._keep(profile, before, after)
            return
        self._keep(profile, before, after)
        fx.triggers.append(Outgoing(kind.name, kind.topic, profile.id.encode(), value, due_ms))

    def _pass(
        self, before: Gate, profile: Profile, signal: Signal[Any], trigger: Trigger, now_ms: int, fx: Effects
    ) -> tuple[Gate, str | None]:
        """The gate after a trigger that a message comes of, and why it is suppressed; HELD: it waits."""
        rules = self._rules.get(profile.site, _DEFAULT_RULES)
        moment_ms = max(trigger.at_ms, now_ms, trigger.held_until_ms)
        name = trigger.kind.name
        reason = gate.reason_against(before, name, trigger.id, profile.states.get(CONTACT), rules, moment_ms)
        if reason is not None:
            return before, reason
        until_ms = gate.quiet_until(rules, moment_ms, self._zone(profile.site))
        if until_ms is None:
            return gate.with_told(before, Told(trigger.id, name, moment_ms)), None
        if not rules.delay:
            return before, "quiet"
        data = Raw(_encode(trigger.data))
        teller = trigger.told_by or signal.name
        after, dropped = gate.with_held(before, Held(name, trigger.id, trigger.at_ms, until_ms, teller, data))
        for held in dropped:
            after = self._stop(after, held.kind, held.id, held.at_ms, "quiet", fx)
        fx.count("triggers_held_total", name)
        return after, HELD

    @staticmethod
    def _stop(before: Gate, kind: str, id: str, at_ms: int, reason: str, fx: Effects) -> Gate:
        fx.suppress(kind, reason)
        return gate.with_stopped(before, Stopped(kind, id, at_ms, reason))

    def _keep(self, profile: Profile, before: Gate, after: Gate) -> None:
        if self.gated and after is not before:
            profile.states[GATE] = after
            profile.changed.add(GATE)
            profile.due_ms = self._codec.due_ms(profile)

    def _to_person(self, profile: Profile, data: Struct, at_ms: int) -> Struct:
        """The data with whom it is about: the same for all kinds."""
        if not isinstance(data, Person):
            return data
        about, contacts = profile.about, profile.states.get(CONTACT)
        rules = self._rules.get(profile.site, _DEFAULT_RULES)
        return replace(
            data,
            profile_id=profile.id,
            user_id=about.user_id if about else None,
            anonymous_id=about.anonymous_ids[-1] if about and about.anonymous_ids else None,
            traits=_short(about.traits) if about else None,
            channels=contact.channels(contacts, rules.consent) if contacts is not None else [],
            preferred_channel=contact.preferred(contacts, at_ms) if contacts is not None else None,
            links=self._links.get(profile.site),
        )


def _short(traits: dict[str, Any]) -> dict[str, Any] | None:
    """Traits for a trigger: at most 64 (stream/profile.py) of at most MAX_TRAIT_BYTES."""
    return {name: value for name, value in traits.items() if len(_encode(value)) <= MAX_TRAIT_BYTES} or None


def _links(links: Links) -> TriggerLinks | None:
    named = TriggerLinks(
        site=links.site or None,
        cart=links.cart or None,
        checkout=links.checkout or None,
        unsubscribe=links.unsubscribe or None,
    )
    return named if named != TriggerLinks() else None
