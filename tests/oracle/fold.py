"""The naive fold: what must stand in Redis and in the trigger topics after these logs. It knows nothing of stream/.

    events log          -> events.EventsFold   what hop 1 must pass on, its dedupe window, its dead letters
    profile-events logs -> fold_profiles       profiles, counters, visitors, gauges, timers, triggers, places

One record at a time, dictionaries, no cache. `redis` of each gives the keys that it explains, as the map in
tracker/contract/keys.py names them: key -> value (hash: dict, string: bytes, sorted set: dict, list: list).
A new kind of state: fold it in `ProfilesFold.take`, add its keys in `redis`. Keys that nobody explains fail the test.
"""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.oracle import cart_merge, carts, names, purchases, scores, shop
from tests.oracle.about import NOTHING_SAID, hear, merged_about, refused, see
from tests.oracle.events import Json, parsed

NAMESPACE = uuid.UUID("6f1c1d6e-6c1a-5b7e-9d0f-0b0f5b0c6a11")
CHANNELS = ("site", "popup", "webpush", "email", "sms", "zalo", "viber", "social", "ads", "store", "call", "form")
POPUPS = {
    "Popup Eligible": "eligible", "Popup Triggered": "triggered", "Popup Viewed": "viewed", "Popup Clicked": "clicked",
    "Popup Dismissed": "dismissed", "Popup Submitted": "submitted",
}  # fmt: skip
MESSAGES: dict[str, tuple[str | None, str]] = {
    "Email Sent": ("email", "sent"), "Email Delivered": ("email", "delivered"), "Email Opened": ("email", "seen"),
    "Email Link Clicked": ("email", "clicked"), "Email Bounced": ("email", "failed"),
    "Email Marked as Spam": ("email", "complained"), "Unsubscribed": (None, "unsubscribed"),
    "Message Sent": (None, "sent"), "Message Delivered": (None, "delivered"), "Message Failed": (None, "failed"),
    "Message Seen": (None, "seen"), "Message Link Clicked": (None, "clicked"), "Message Replied": (None, "replied"),
    "Push Notification Received": ("webpush", "delivered"), "Push Notification Tapped": ("webpush", "clicked"),
    "Push Notification Bounced": ("webpush", "failed"),
}  # fmt: skip
NOT_FOLDED = (
    "activity", "browse", "drip", "engagement", "feedback", "journey", "reorder", "retention", "reviews", "rules",
    "segments", "steps", "surveys", "usage",
)  # fmt: skip
"""States of signals that this fold does not know."""
HYPERLOGLOG = b"HYLL"
"""Stands for one, which is no exact state: it is to be there."""


class Rules:
    """The settings that the run was made with."""

    def __init__(
        self, cart: carts.Rules, churn: dict[str, purchases.Rules], stale_s: float = 86400, utc_offset_h: int = 7
    ) -> None:
        self.cart, self.churn = cart, churn
        self.stale_ms = int(stale_s * 1000)
        self.utc_offset_s = utc_offset_h * 3600

    @staticmethod
    def of(settings: Any) -> Rules:
        """`settings` has the attributes of tracker.contract.settings.Settings."""
        s = settings
        cart = carts.Rules(
            s.cart_idle_s, s.checkout_idle_s, s.payment_idle_s, s.cart_lost_s, s.cart_repeat_s, s.cart_click_s
        )
        assert s.churn_recheck_d == 0, "timers of this fold stand at the crossing"
        horizons = {"purchase": s.churn_horizon_d, "visit": s.visit_horizon_d, "message_engage": s.message_horizon_d}
        churn = {
            name: purchases.Rules(days, s.churn_enter, s.churn_leave, s.churn_gap_d, name == "purchase")
            for name, days in horizons.items()
        }
        return Rules(cart, churn, s.stale_s)


Log = list[tuple[int, bytes | None]]
"""(offset, value) of a partition's records."""
FORWARDED = 2048
"""+ partition of profile-events: where a record that was sent on says that it comes from."""


LEFT = 4096
"""+ partition of events: where an event says that it comes from that was published behind later ones."""


def fold_profiles(logs: dict[int, Log], rules: Rules) -> dict[int, ProfilesFold]:
    """All partitions, each in its order; a handover waits until the merge that made it has been folded."""
    handed: dict[tuple[str, str], Json] = {}
    folds = {p: ProfilesFold(p, rules, handed) for p in logs}
    at = dict.fromkeys(logs, 0)
    while waiting := [p for p in logs if at[p] < len(logs[p])]:
        before = sum(at.values())
        for p in waiting:
            while at[p] < len(logs[p]) and not folds[p].waits(logs[p][at[p]][1]):
                folds[p].take(*logs[p][at[p]])
                at[p] += 1
        assert sum(at.values()) > before, f"handovers of no merge: {[logs[p][at[p]] for p in waiting]}"
    return folds


class ProfilesFold:
    """One partition of tracker.profile-events.v1. `handed`: (merge id, loser) -> the state that it had, of all."""

    def __init__(self, partition: int, rules: Rules, handed: dict[tuple[str, str], Json] | None = None) -> None:
        self.partition, self.rules = partition, rules
        self.handed = {} if handed is None else handed
        self.merged: dict[tuple[str, str], str] = {}
        """(site, loser) -> the profile that it became."""
        self.goes: dict[int, tuple[str, str | None]] = {}
        """Offset -> (to whom, merge id of a handover or None): of every record that gives one for another partition."""
        self.folded: Counter[tuple[str, str]] = Counter()
        """(site, messageId) of events -> how often, which is to be once in all partitions."""
        self.next = 0
        self.clock_ms = 0
        self.src: dict[int, tuple[int, int]] = {}
        self.profiles: dict[tuple[str, str], Json] = {}
        self.counters: dict[str, Counter[str]] = defaultdict(Counter)
        self.visitors: dict[str, dict[str, int]] = defaultdict(dict)
        """SITE:CHANNEL -> profile id -> the minute of its last event there."""
        self.visitor_days: set[str] = set()
        self.sums: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        """Site -> indicator and half-life -> times of all that counted, of whoever."""
        self.triggers: dict[str, Json] = {}
        self.suppressed: Counter[str] = Counter()
        self.poison: list[tuple[str, int]] = []
        self.repeats = 0

    def take(self, offset: int, value: bytes | None) -> None:
        self.next = offset + 1
        clock = parsed(value, "clockMs")
        if clock is not None and isinstance(clock["clockMs"], int):
            if clock["clockMs"] > self.clock_ms:
                self.clock_ms = clock["clockMs"]
                for key in self.profiles:
                    self.fire(key, self.clock_ms, self.clock_ms)
            return
        if (merge := parsed(value, "mergeId", "site", "winner", "loser")) is not None:
            self.merge(offset, merge)
            return
        if (unmerge := parsed(value, "unmergeId", "site", "profileId", "newProfileId", "ids")) is not None:
            self.unmerge(offset, unmerge)
            return
        part = parsed(value, "handover", "src", "site", "profileId", "loser")
        event = part or parsed(value, "profileId", "src", "site", "type", "messageId", "timestampMs", "receivedAtMs")
        if event is None:
            self.poison.append(("not_an_event", offset))
            return
        partition, *place = event["src"]
        if tuple(place) <= self.src.get(partition, (-1, -1)):
            self.repeats += 1
            return
        self.src[partition] = (place[0], place[1])
        key = (event["site"], event["profileId"])
        if key in self.merged:
            self.send_on(offset, event, self.merged[key])
            return
        if part is not None:
            self.take_over(key, part)
            return
        self.folded[event["site"], event["messageId"]] += 1
        ts, received = event["timestampMs"], event["receivedAtMs"]
        self.fire(key, ts, max(self.clock_ms, received))
        profile = self.profiles.setdefault(key, self.new_profile())
        see(profile, event)
        self.count(key, profile, event)
        hear(profile["contact"], event)
        if event["type"] == "track":
            self.signal(key, profile, event)
        elif event["type"] in ("page", "screen"):
            if event["type"] == "page":
                self.shop(key, profile, event)
            self.came(profile, "visit", event)
        self.score(key, profile, event)

    # -- merges

    def merge(self, offset: int, merge: Json) -> None:
        """The loser is no more: its state goes to the winner, whatever comes for it later, too."""
        key, winner = (merge["site"], merge["loser"]), merge["winner"]
        if key in self.merged:
            if self.merged[key] != winner:  # a second winner: both are one
                self.send_on(offset, merge, self.merged[key])
            return
        if winner == merge["loser"]:
            return
        self.merged[key] = winner
        state = {name: s for name, s in self.profiles.pop(key, {}).items() if s is not None and s != NOTHING_SAID and s}
        if state:
            self.handed[merge["mergeId"], merge["loser"]] = state
            self.goes[offset] = (winner, merge["mergeId"])
        for channel, last in self.visitors.items():
            if channel.startswith(f"{key[0]}:"):
                last.pop(key[1], None)

    def unmerge(self, offset: int, record: Json) -> None:
        """The profile is no longer who was taken off it; what it has done stays."""
        key = (record["site"], record["profileId"])
        if key in self.merged:
            self.send_on(offset, record, self.merged[key])
        elif (about := self.profiles.get(key, {}).get("about")) is not None:
            gone = {(type, value) for type, value in record["ids"]}
            about["anonymous_ids"] = [id for id in about["anonymous_ids"] if ("anonymous_id", id) not in gone]
            if ("user_id", about["user_id"]) in gone:
                about["user_id"] = None

    def send_on(self, offset: int, record: Json, winner: str) -> None:
        if record.get("hops", 0) >= 64:
            self.poison.append(("merge_loop", offset))
        else:
            self.goes[offset] = (winner, record.get("handover"))

    def waits(self, value: bytes | None) -> bool:
        part = parsed(value, "handover", "loser")
        return part is not None and (part["handover"], part["loser"]) not in self.handed

    def new_profile(self) -> Json:
        """`contact`: what is known of addresses, and whether the person unsubscribed; `gate`: ids of what was told;
        `used`: the latest hour with some use."""
        nothing = dict.fromkeys(("about", "cart", *self.rules.churn, "score"))
        return {**nothing, "contact": dict(NOTHING_SAID), "gate": set(), "used": 0}

    def take_over(self, key: tuple[str, str], part: Json) -> None:
        """What a loser had becomes the winner's, field by field: each once."""
        state = self.handed[part["handover"], part["loser"]]
        profile = self.profiles.setdefault(key, self.new_profile())
        assert part.get("piece") is None, "nobody in this traffic has a field of 256 KB"
        for name in part["fields"]:
            if name == "contact":  # a no of either stays one
                said = state.pop(name, NOTHING_SAID)
                profile[name] = {what: profile[name][what] or said[what] for what in said}
                continue
            if name == "gate":
                profile[name] |= state.pop(name, set())
                continue
            if name == "usage":
                profile["used"] = max(profile["used"], state.pop("used", 0))
                self.among("used", key, profile["used"] * 3_600_000, self.clock_ms)
            if (theirs := state.pop(name, None)) is None:
                assert name in NOT_FOLDED
                continue
            if name == "about":
                self.take_visits(key, profile, theirs)
            elif profile[name] is None:
                profile[name] = theirs
            elif name == "score":
                profile[name], said, sums = scores.merged(
                    profile[name], theirs, self.clock_ms, self.rules.utc_offset_s * 1000
                )
                self.add_up(key[0], sums)
                self.tell_stages(key, said, self.clock_ms)
            elif name in self.rules.churn:
                profile[name] = purchases.merged(profile[name], theirs, self.clock_ms, self.rules.churn[name])
            else:
                profile[name], told = cart_merge.merged(profile[name], theirs, self.rules.cart)
                self.tell_carts(key, told, self.clock_ms, self.clock_ms)

            if name == "score" and (last_ms := profile[name]["last_ms"]):
                self.among("engaged", key, last_ms, self.clock_ms)

    def take_visits(self, key: tuple[str, str], profile: Json, theirs: Json) -> None:
        profile["about"] = about = theirs if profile["about"] is None else merged_about(profile["about"], theirs)
        minutes = {channel: about["channels"][channel] for channel in theirs["channels"]}
        if minutes:
            minutes["all"] = max(about["channels"].values())
        for channel, minute in minutes.items():
            if minute >= self.clock_ms // 60_000 - 92 * 1440:
                last = self.visitors[f"{key[0]}:{channel}"]
                last[key[1]] = max(last.get(key[1], 0), minute)
                day = (minute * 60 + self.rules.utc_offset_s) // 86400 * 86400
                self.visitor_days.add(f"{key[0]}:{channel}:{day}")

    # -- signals

    def shop(self, key: tuple[str, str], profile: Json, event: Json) -> None:
        now_ms = max(self.clock_ms, event["receivedAtMs"])
        if (entry := shop.entry(event)) is not None:
            profile["cart"] = profile["cart"] or carts.new_log()
            told = carts.take(profile["cart"], entry, event["receivedAtMs"], self.rules.cart)
            self.tell_carts(key, told, event["receivedAtMs"], now_ms)

    def signal(self, key: tuple[str, str], profile: Json, event: Json) -> None:
        if event["event"] in shop.DOES:
            self.shop(key, profile, event)
        offset_ms = self.rules.utc_offset_s * 1000
        if event["event"] in ("Order Completed", "Order Cancelled", "Order Refunded"):
            rules = self.rules.churn["purchase"]
            profile["purchase"] = purchases.take(profile["purchase"], event, offset_ms, rules)
        if MESSAGES.get(event["event"], ("", ""))[1] in ("seen", "clicked", "replied"):
            self.came(profile, "message_engage", event)

    def came(self, profile: Json, signal: str, event: Json) -> None:
        if event.get("bot") is None:
            profile[signal] = profile[signal] or purchases.new()
            rules, offset_ms = self.rules.churn[signal], self.rules.utc_offset_s * 1000
            purchases.see(profile[signal], event["timestampMs"], offset_ms, rules)

    def score(self, key: tuple[str, str], profile: Json, event: Json) -> None:
        offset_ms = self.rules.utc_offset_s * 1000
        traits = profile["about"]["traits"]
        profile["score"], told, counted = scores.take(profile["score"], event, traits, offset_ms)
        self.tell_stages(key, told, max(self.clock_ms, event["receivedAtMs"]))
        if counted is not None:
            self.add_up(key[0], counted["sums"])
            if scores.WEIGHTS[counted["indicator"]] > 0:
                self.among("engaged", key, counted["ts"], event["receivedAtMs"])

    def add_up(self, site: str, sums: list[tuple[str, int]]) -> None:
        for indicator, ts in sums:
            self.sums[site][f"{indicator}|7"].append(ts)

    def among(self, of: str, key: tuple[str, str], ts: int, now_ms: int) -> None:
        if ts // 60_000 >= now_ms // 60_000 - 92 * 1440:
            last = self.visitors[f"{key[0]}:{of}"]
            last[key[1]] = max(last.get(key[1], 0), ts // 60_000)
            day = (ts // 60_000 * 60 + self.rules.utc_offset_s) // 86400 * 86400
            self.visitor_days.add(f"{key[0]}:{of}:{day}")

    def use(self, key: tuple[str, str], profile: Json, event: Json) -> None:
        """Screens are the only use in this traffic. Who uses something is noted with the first of each hour."""
        hour = event["timestampMs"] // 3_600_000
        if hour != profile["used"]:
            self.among("used", key, event["timestampMs"], event["receivedAtMs"])
            profile["used"] = max(hour, profile["used"])

    def tell_stages(self, key: tuple[str, str], told: list[Json], now_ms: int) -> None:
        for x in told:
            id = emission_id(key[0], f"{key[1]}/{x['data']['stage']}", "lead_stage", x["n"])
            self.tell(key, "lead_stage", "lead_stage", id, x["at_ms"], now_ms, x["data"], None, True)

    def fire(self, key: tuple[str, str], until_ms: int, now_ms: int) -> None:
        """The profile's timers due <= until_ms. now_ms: the log's time, by which a trigger is stale."""
        profile = self.profiles.get(key, {})
        cart = profile.get("cart")
        if profile.get("score") is not None:
            scores.fire(profile["score"], until_ms)
        if cart is not None:
            due = carts.due_ms(cart["carts"], self.rules.cart)
            if due is not None and due <= until_ms:
                self.tell_carts(key, carts.fire(cart, until_ms, self.rules.cart), until_ms, now_ms)
        for name, rules in self.rules.churn.items():
            state = profile.get(name)
            if state is None or state["due_ms"] is None or state["due_ms"] > until_ms:
                continue
            said = purchases.fire(state, name, rules)
            id = emission_id(key[0], f"{key[1]}/{said['by']}", "churn_risk", said["n"])
            self.tell(key, "churn_risk", "churn_risk", id, said["at_ms"], now_ms, said["data"], said["reason"], True)

    def tell_carts(self, key: tuple[str, str], told: list[Json], at_ms: int, now_ms: int) -> None:
        for x in told:
            if x["what"] == "counted":
                self.count_carts(key[0], x["counts"], now_ms)
                continue
            recovery = x["what"] == "recovered" or (x["what"] == "retracted" and x["order"] is not None)
            kind = "cart_recovered" if recovery else "cart_abandoned"
            id = emission_id(key[0], x["by"], kind, x["n"])
            if x["what"] == "retracted":
                what = "cart_recovery_retracted" if recovery else "cart_abandonment_retracted"
                data = {"retracts": id} | ({"reason": x["reason"]} if recovery else {})
                taken_back = emission_id(key[0], x["by"], what, x["n"])
                self.tell(key, kind, f"{kind}_retracted", taken_back, at_ms, now_ms, data)
                continue
            c = x["cart"]
            data = {
                "value": shop.value_of(c["items"]), "episode": c["episode"], "openedAtMs": c["opened_ms"],
                "abandonedAtMs": c["abandoned_ms"], "currency": c["cur"], "cartId": c["key"] or None,
                "checkoutId": c["checkout"],
            }  # fmt: skip
            if recovery:
                o = x["order"]
                data |= {
                    "by": o["by"], "orderId": None if o["id"].startswith("message:") else o["id"],
                    "revenue": o["gain"], "currency": o["cur"],
                }  # fmt: skip
                self.tell(key, kind, kind, id, x["at_ms"], now_ms, data, None, True)
                continue
            lines = [
                {"productId": i["id"], "quantity": i["qty"], "price": i["price"], "name": i["name"], "url": i["url"],
                 "imageUrl": i["img"], "sku": i["sku"], "variant": i["variant"], "currency": i["cur"]}
                for i in c["items"]
            ]  # fmt: skip
            data |= {
                "stage": carts.STAGES[c["stage"]], "items": lines, "seq": c["seq"], "lastActivityMs": c["last_ms"],
                "reason": carts.reason(c), "link": c["link"],
            }  # fmt: skip
            self.tell(key, kind, kind, id, x["at_ms"], now_ms, data, "repeat" if x["quiet"] else None, True)

    def count_carts(self, site: str, counts: list[tuple[str, int, int]], now_ms: int) -> None:
        """Carts are counted at the minute at which they were opened; what is undone is counted beside it."""
        sums: Counter[tuple[str, int]] = Counter()
        for field, n, ms in counts:
            sums[field, ms // 60_000 * 60] += n
        for (field, ts_s), n in sums.items():
            kind, _, rest = field.partition("|")
            self.add(site, "site", ts_s, now_ms, {field if n > 0 else f"{kind}_undone|{rest}": abs(n)} if n else {})

    def add(self, site: str, family: str, ts_s: int, now_ms: int, fields: dict[str, int]) -> None:
        """Count in the minute, hour and day, as far as any window still reads those."""
        day = (ts_s + self.rules.utc_offset_s) // 86400 * 86400
        age_s = now_ms // 1000 - ts_s // 60 * 60
        for tier, start, kept_s in (
            ("m", ts_s // 60 * 60, 48 * 3600), ("h", ts_s // 3600 * 3600, 92 * 86400), ("d", day, 732 * 86400),
        ):  # fmt: skip
            if fields and age_s <= kept_s:
                self.counters[f"{site}:{family}:{tier}:{start}"].update(fields)
                self.counters[f"{site}:{family}:{tier}:{start}"]["sum"] += sum(fields.values())

    def tell(
        self, key: tuple[str, str], kind: str, type: str, id: str, at_ms: int, now_ms: int, data: Json,
        reason: str | None = None, about: bool = False,
    ) -> None:  # fmt: skip
        told = self.profiles[key]["gate"]
        informing = kind == "lead_stage"  # it tells of a profile, no message comes of it: the gate has no say
        if reason is None and at_ms < now_ms - self.rules.stale_ms:
            reason = "stale"
        if reason is None and "retracts" in data:
            reason = None if data["retracts"] in told else "not_told"
        elif reason is None and not informing and kind != "cart_recovered":  # nor does one of that
            reason = "repeat" if id in told else refused(self.profiles[key]["contact"])
        if reason is not None:
            self.suppressed[reason] += 1
            return
        if not informing:
            told.add(id)
        data = {"profileId": key[1], **data}
        if about:
            known = self.profiles[key]["about"] or {}
            ids = known.get("anonymous_ids") or [None]
            data |= {
                "userId": known.get("user_id"),
                "anonymousId": ids[-1],
                "traits": dict(known.get("traits") or {}) or None,
            }
        time = (datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=at_ms)).strftime("%Y-%m-%dT%H:%M:%S")
        trigger = {
            "topic": f"tracker.triggers.{kind}.v1", "specversion": "1.0", "datacontenttype": "application/json",
            "id": id, "source": f"/sites/{key[0]}", "type": f"tracker.{type}.v1", "subject": key[1],
            "time": f"{time}.{at_ms % 1000:03d}Z", "site": key[0], "data": data,
        }  # fmt: skip
        assert self.triggers.setdefault(id, trigger) == trigger, f"one id for two triggers: {trigger}"

    # -- counters and visitors

    def count(self, key: tuple[str, str], profile: Json, event: Json) -> None:
        site, ts_s = event["site"], event["timestampMs"] // 1000
        channel = event.get("channel", "site")
        channel = channel if channel in CHANNELS else "other"
        fields = ["total", f"channel|{channel}", f"event|{event.get('event') or event['type']}"]
        name = event["event"] if event["type"] == "track" else None
        if name in POPUPS:
            popup = shop.text(names.properties(event).get("popup_id"), 64) or "unknown"
            fields.append(f"popup|{POPUPS[name]}|{popup}")
        if name in MESSAGES:
            fixed, action = MESSAGES[name]
            fields.append(f"message|{fixed or channel}|{action}")
        if event["type"] == "screen" and event.get("bot") is None:
            fields += ["usage|active_ms"] * 30_000
            self.use(key, profile, event)
        families = {
            "site": fields,
            "campaign": names.campaigns(event, name in MESSAGES),
            "content": names.contents(event),
        }
        day = (ts_s + self.rules.utc_offset_s) // 86400 * 86400
        for family, fields in families.items():
            self.add(site, family, ts_s, event["receivedAtMs"], Counter(fields))
        self.visit(key, profile, channel, event, day)

    def visit(self, key: tuple[str, str], profile: Json, channel: str, event: Json, day: int) -> None:
        site, id = key
        minute = event["timestampMs"] // 60_000
        channels = profile["about"]["channels"]
        channels[channel] = max(channels.get(channel, 0), minute)
        if minute < event["receivedAtMs"] // 60_000 - 92 * 1440:
            return
        for of in (channel, "all"):
            last = self.visitors[f"{site}:{of}"]
            last[id] = max(last.get(id, 0), minute)
            self.visitor_days.add(f"{site}:{of}:{day}")

    # -- what must be in Redis

    def redis(self) -> Json:
        tag = f"{{p{self.partition}}}"
        keys: Json = {f"{tag}:head": {"next": str(self.next), "clock_ms": str(self.clock_ms)}}
        if self.src:
            keys[f"{tag}:src"] = {str(p): f"{offset}:{index}" for p, (offset, index) in self.src.items()}
        due: dict[str, int] = {}
        gauges: Counter[str] = Counter()
        for (site, id), profile in self.profiles.items():
            keys[f"{tag}:v:{site}:{id}"] = {
                name: profile[name] for name in ("about", "cart", *self.rules.churn) if profile[name] is not None
            }
            gauges[f"profiles_known|{site}"] += profile["about"] is not None
            dues = []
            if (cart := profile["cart"]) is not None:
                dues.append(carts.due_ms(cart["carts"], self.rules.cart))
                gauges[f"carts_open|{site}"] += sum(c["state"] in ("open", "reopened") for c in cart["carts"]["carts"])
            for name in self.rules.churn:
                if (state := profile[name]) is not None:
                    dues.append(state["due_ms"])
                    gauges[f"churn_high{'' if name == 'purchase' else '_' + name}|{site}"] += state["on"]
            if (score := profile["score"]) is not None:
                keys[f"{tag}:v:{site}:{id}"]["score"] = scores.stored(score)
                dues.append(score["due_ms"])
                if score["stage"] != "visitor":
                    gauges[f"stage_{score['stage']}|{site}"] += 1
                if (rank := scores.rank(score)) is not None:
                    keys.setdefault(f"{tag}:rank:{site}", {})[id] = rank
            if any(ms is not None for ms in dues):
                due[f"{site}|{id}"] = min(ms for ms in dues if ms is not None)
        for site, sums in self.sums.items():
            keys[f"{tag}:sum:{site}"] = {field: scores.log_of(times) for field, times in sums.items()}
        keys |= {f"{tag}:v:{site}:{id}": {"merged": winner} for (site, id), winner in self.merged.items()}
        keys |= {
            f"{tag}:c:{bucket}": {f: str(n) for f, n in fields.items()} for bucket, fields in self.counters.items()
        }
        keys |= {f"{tag}:u:{channel}": dict(last) for channel, last in self.visitors.items()}
        keys |= {f"{tag}:ud:{channel_day}": HYPERLOGLOG for channel_day in self.visitor_days}
        if due:
            keys[f"{tag}:due"] = due
        keys[f"{tag}:g"] = {field: str(n) for field, n in gauges.items() if n}
        return {key: value for key, value in keys.items() if value != {}}


def emission_id(site: str, message_id: str, kind: str, n: int) -> str:
    return str(uuid.uuid5(NAMESPACE, f"{site}\0{message_id}\0{kind}\0{n}"))
