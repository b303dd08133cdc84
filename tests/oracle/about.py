"""Who a profile is, and who may be written to, as the naive fold keeps them."""

from __future__ import annotations

import json

from tests.oracle.events import Json
from tracker.contract.ids import normal, usable

NOTHING_SAID: Json = {"email": False, "phone": False, "no": False}


def hear(contact: Json, event: Json) -> None:
    """Of what there is to say of contacts only what this traffic says."""
    places = [event.get("traits")] if event["type"] in ("identify", "alias") else []
    if event["type"] == "track" and event["event"] == "Order Completed":
        places.append(event.get("properties"))
    for said in places:
        for type in ("email", "phone"):
            if isinstance(said, dict) and normal(type, said.get(type), "VN") is not None:
                contact[type] = True
    if event["type"] == "track" and event["event"] == "Unsubscribed":
        contact["no"] = True  # to all: it names no channel


def refused(contact: Json) -> str | None:
    """Why nobody may write to the person: they said no, or have a phone number alone and said nothing."""
    if contact["no"]:
        return "denied"
    return "no_consent" if contact["phone"] and not contact["email"] else None


def see(profile: Json, event: Json) -> None:
    """Who it is: ids by arrival, times and traits by the events' time."""
    ts = event["timestampMs"]
    about = profile["about"] = profile["about"] or {
        "first_seen_ms": ts, "last_seen_ms": ts, "events": 0, "user_id": None, "anonymous_ids": [], "traits": {},
        "traits_ms": {}, "channels": {},
    }  # fmt: skip
    about["events"] += 1
    about["first_seen_ms"] = min(about["first_seen_ms"], ts)
    about["last_seen_ms"] = max(about["last_seen_ms"], ts)
    about["user_id"] = about["user_id"] or usable(event.get("userId"))
    anonymous = event.get("anonymousId")
    if anonymous is not None and usable(anonymous) is not None and anonymous not in about["anonymous_ids"]:
        about["anonymous_ids"] = [*about["anonymous_ids"], anonymous][-10:]
    if event["type"] == "identify" and isinstance(event.get("traits"), dict):
        for name, value in event["traits"].items():
            if ts >= about["traits_ms"].get(name, 0):
                about["traits"][name] = value
                about["traits_ms"][name] = ts


def merged_about(one: Json, other: Json) -> Json:
    """One person: first seen earliest, of each trait the last writer, at a tie who was seen first."""
    first, then = sorted((one, other), key=lambda a: (a["first_seen_ms"], a["last_seen_ms"], as_stored(a)))
    about = {
        "first_seen_ms": first["first_seen_ms"], "last_seen_ms": max(one["last_seen_ms"], other["last_seen_ms"]),
        "events": one["events"] + other["events"], "user_id": first["user_id"] or then["user_id"], "traits": {},
        "traits_ms": {}, "channels": {},
    }  # fmt: skip
    for name in first["traits"].keys() | then["traits"].keys():
        who = max((a for a in (first, then) if name in a["traits"]), key=lambda a: a["traits_ms"][name])
        about["traits"][name], about["traits_ms"][name] = who["traits"][name], who["traits_ms"][name]
    for channel in one["channels"].keys() | other["channels"].keys():
        about["channels"][channel] = max(a["channels"].get(channel, 0) for a in (one, other))
    later = max((then, first), key=lambda a: a["last_seen_ms"])
    earlier = first if later is then else then
    latest = dict.fromkeys((*reversed(later["anonymous_ids"]), *reversed(earlier["anonymous_ids"])))
    return about | {"anonymous_ids": list(latest)[:10][::-1]}


def as_stored(about: Json) -> bytes:
    """Decides between two who were seen first and last in the same milliseconds."""
    return json.dumps({k: v for k, v in about.items() if v}, separators=(",", ":"), ensure_ascii=False).encode()
