"""Who visited when: the visitors of a site and of each of its channels, as one chunk adds to them.

A profile is in one partition, so the visitors of a site are the sum of the partitions' visitors, and nobody is in two.
Two records of them are kept (stream/apply.lua):

    the minute of each profile's last event: a window that ends now holds those whose minute is in it, so its visitors
    are counted exactly, whatever its length, with one number a profile; the latest 10,000 a channel and partition
    a HyperLogLog a local date, for windows that reach beyond these 10,000: their union, up to a day too much at its
    old end, with HyperLogLog's error

A merge takes the loser off the exact part (`leave`) and gives the winner its minutes (take_visits in
stream/fold_merges.py). The days' HyperLogLogs can't forget: there the two stay two.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct, field

from tracker.contract import keys
from tracker.contract.durations import MINUTE_MS
from tracker.contract.windows import Zone

KEPT_MINUTES: Final = keys.VISITORS_KEPT_S // 60


class Visits(Struct):
    """What a chunk adds to the visitors."""

    last: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    """(site, channel) -> profile id -> the minute of its last event."""
    days: dict[tuple[str, str, int], set[str]] = field(default_factory=dict)
    """(site, channel, local date) -> profile ids."""
    gone: list[tuple[str, str]] = field(default_factory=list)
    """(site, profile id) of those who are no visitors any more, each before what is added here."""
    now_minute: int = 0
    """The latest minute added."""

    @staticmethod
    def too_old(minute: int, received_at_ms: int) -> bool:
        """Imported from before any window."""
        return minute < received_at_ms // MINUTE_MS - KEPT_MINUTES

    def add(self, site: str, channel: str, profile: str, minute: int, last: int | None, zone: Zone) -> None:
        """An event of the profile. `last`: the minute of its last event there before, whatever the order they came."""
        if last is None or minute > last:
            minutes = self.last.setdefault((site, channel), {})
            if minute > minutes.get(profile, -1):  # a merge knows of the hour alone
                minutes[profile] = minute
            self.now_minute = max(self.now_minute, minute)
        if minute != last:
            day = zone.day(minute * 60)
            if last is None or zone.day(last * 60) != day:
                self.days.setdefault((site, channel, day), set()).add(profile)

    def leave(self, site: str, profile: str) -> None:
        """The profile lost a merge: whatever it did counts for the winner. The days keep it, as they would had its
        events been in a chunk before."""
        for (of, _), minutes in self.last.items():
            if of == site:
                minutes.pop(profile, None)
        self.gone.append((site, profile))

    def blob(self, clock_ms: int) -> dict[str, Any]:
        """The visitors' part of the argument of apply.lua. `clock_ms`: the log's time; an event from beyond it (an
        endpoint's clock is ahead) makes nobody's visit older."""
        now_minute = min(self.now_minute, clock_ms // MINUTE_MS)
        return {
            "gone": self.gone,
            "channels": keys.VISITOR_SETS if self.gone else (),
            "visits": [
                [f"{site}:{channel}", [x for id, minute in minutes.items() for x in (minute, id)]]
                for (site, channel), minutes in self.last.items()
                if minutes
            ],
            "visit_days": [
                [f"{site}:{channel}:{day}", sorted(profiles)]
                for (site, channel, day), profiles in self.days.items()
                if profiles
            ],
            "visitors": [keys.MAX_VISITORS, max(0, now_minute - KEPT_MINUTES), keys.VISITORS_KEPT_S],
        }
