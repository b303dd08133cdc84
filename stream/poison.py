"""Why a worker gives a record to the dead letters: the closed set of reasons, each with what to look at.

Poison never stops a partition; the record stays whole in tracker.dead-letters.v1 with its topic, partition and offset.
"""

from __future__ import annotations

from typing import Final

REASONS: Final[dict[str, str]] = {
    "not_an_event": "The record's value is no JSON object with an event's fields: something else writes to the topic.",
    "no_identity": "Neither userId nor anonymousId can be used: blocked values like 'null' or 'guest' mean nobody.",
    "fold_failed": "A signal raised an exception on the event: a bug; the worker's log has its trace.",
}
