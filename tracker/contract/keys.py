"""The map of every Redis key. One hash tag a partition ({eN}, {pN}) or a site ({s:SITE}), so that whatever one script
touches lies in one slot of a Redis Cluster.

    partition N of tracker.events.v1 (written by its owner's resolve hop only)
      {eN}:head        hash    epoch, seq, next (offset), received_at_ms (of the last event before next)
      {eN}:decided     string  the decisions of the chunk in flight: base, end, profile ids (msgpack)
      {eN}:seen:HOUR   string  64-bit hashes of (site, messageId), 8 bytes each; HOUR = received_at_ms / 3600000

    partition N of tracker.profile-events.v1 (written by its owner's signals hop only)
      {pN}:head        hash    epoch, seq, next (offset), clock_ms (of the last clock record)
      {pN}:src         hash    partition of events -> "offset:index" of the last event applied from there
      {pN}:v:SITE:PID  hash    the profile: one field a signal, JSON; field `about` = ids, first and last seen
      {pN}:c:SITE:T:B  hash    counters of bucket B of tier T (m, h, d): field -> count; B = its start, epoch seconds
      {pN}:g           hash    gauges: field -> value, moved by differences
      {pN}:due         zset    SITE|PID -> the earliest due time of the profile's timers, ms
      {pN}:out         list    triggers not yet known to be in Kafka, oldest first (msgpack: topic, key, value)

    site
      {s:SITE}:id:TYPE:VALUE  string  profile id of an identifier; TYPE = user_id, anonymous_id

    {...}:none, {s:SITE}:id:none never exist: scripts ask for them to find out that a cluster moves the slot.

Ids become key parts through `id_part`: short plain ones as they are, all others hashed.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

TIERS: Final[dict[str, tuple[int, int]]] = {
    "m": (60, 48 * 3600),
    "h": (3600, 90 * 86400),
    "d": (86400, 2 * 366 * 86400),
}
"""Tier of counters -> (bucket length, how long it is kept), seconds."""

MAX_COUNTER_FIELDS: Final = 2000
"""Fields of one bucket; names beyond are counted as `event|other`, so that made-up names stay inside a budget."""

_plain = re.compile(r"[A-Za-z0-9._@+\-]{1,64}").fullmatch


def id_part(value: str) -> str:
    """A client's id as part of a key: as it is when short and plain, else '#' + 128 bits of blake2b in hex."""
    if _plain(value):
        return value
    return "#" + blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def events_tag(partition: int) -> str:
    return f"{{e{partition}}}"


def profiles_tag(partition: int) -> str:
    return f"{{p{partition}}}"


def profile_key(partition: int, site: str, profile_id: str) -> str:
    return f"{{p{partition}}}:v:{site}:{profile_id}"


def counter_key(partition: int, site: str, tier: str, bucket_s: int) -> str:
    return f"{{p{partition}}}:c:{site}:{tier}:{bucket_s}"


def identifier_key(site: str, id_type: str, value: str) -> str:
    return f"{{s:{site}}}:id:{id_type}:{id_part(value)}"


# Fields of the counter hashes. Names that come from clients are the last part, so no separator in them can lie.
TOTAL_FIELD: Final = "total"


def channel_field(channel: str) -> str:
    return f"channel|{channel}"


def event_field(label: str) -> str:
    return f"event|{label}"


def popup_field(action: str, popup_id: str) -> str:
    return f"popup|{action}|{popup_id}"


def message_field(channel: str, action: str) -> str:
    return f"message|{channel}|{action}"
