"""The naive fold of tracker.events.v1: what hop 1 must pass on, its dedupe window, its dead letters."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import xxhash

from tracker.contract.ids import normal, usable

Json = dict[str, Any]


def parsed(value: bytes | None, *needed: str) -> Json | None:
    """A record with these fields, else None."""
    try:
        record = json.loads(value or b"")
    except ValueError:
        return None
    return record if isinstance(record, dict) and all(name in record for name in needed) else None


class EventsFold:
    """One partition of tracker.events.v1."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.next = 0
        self.received_ms: int | None = None
        self.seen: set[tuple[str, str]] = set()
        self.passed: dict[int, Json] = {}
        """Offset -> the event, of each that must be in profile-events."""
        self.poison: list[tuple[str, int]] = []
        """(reason, offset)."""
        self.repeats = 0
        self._hashes: dict[int, bytes] = defaultdict(bytes)

    def take(self, offset: int, value: bytes | None) -> None:
        self.next = offset + 1
        event = parsed(value, "site", "type", "messageId", "receivedAtMs")
        if event is None:
            self.poison.append(("not_an_event", offset))
            return
        self.received_ms = event["receivedAtMs"]
        id = (event["site"], event["messageId"])
        if id in self.seen:  # The run is shorter than the 24 h of the window.
            self.repeats += 1
        elif not identifiers(event):
            self.poison.append(("no_identity", offset))
        else:
            self.seen.add(id)
            self.passed[offset] = event
            hash = xxhash.xxh3_64_intdigest("\0".join(id).encode("utf-8", "surrogatepass"))
            self._hashes[event["receivedAtMs"] // 3_600_000] += hash.to_bytes(8, "big")

    def redis(self) -> Json:
        tag = f"{{e{self.partition}}}"
        head = {"next": str(self.next)}
        if self.received_ms is not None:
            head["received_at_ms"] = str(self.received_ms)
        return {f"{tag}:head": head} | {f"{tag}:seen:{hour}": hashes for hour, hashes in self._hashes.items()}


def identifiers(event: Json) -> list[tuple[str, str]]:
    """(type, value), strongest first, of what this traffic has: docs/identity.md has the rest."""
    found: dict[tuple[str, str], None] = {}
    if (user := usable(event.get("userId"))) is not None:
        found["user_id", user] = None
    told: list[Any] = []
    if event["type"] in ("identify", "alias") and user is not None:
        told = [event.get("traits")]
    if event.get("event") == "Order Completed":
        told = [event.get("properties")]
    for type in ("email", "phone"):
        for said in told:
            given = said.get(type) if isinstance(said, dict) else None
            if (value := normal(type, given, "VN")) is not None:
                found[type, value] = None
    for name in ("anonymousId", *(["previousId"] if event["type"] == "alias" else [])):
        if (anonymous := usable(event.get(name))) is not None:
            found["anonymous_id", anonymous] = None
    return list(found)
