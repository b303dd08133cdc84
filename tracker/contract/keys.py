"""The map of every Redis key. One hash tag a partition ({eN}, {pN}) or a site ({s:SITE}), so that whatever one script
touches lies in one slot of a Redis Cluster.

    partition N of tracker.events.v1 (written by its owner's resolve hop only)
      {eN}:head        hash    epoch, seq, next (offset), received_at_ms (of the last event before next); and for what a
                               Redis that was started again may have lost (stream/recovery.py): run (id of the server's
                               run that it was claimed in), settled (the run whose loss has been made good), at_ms (of
                               the last write), back_ms (at_ms when the run began), owes (a run before was not settled),
                               ahead_ms (of the clock that at_ms is by, before the owners')
      {eN}:decided     string  the decisions of the chunk in flight: base, end, profile ids (msgpack)
      {eN}:seen:HOUR   string  64-bit hashes of (site, messageId), 8 bytes each; HOUR = received_at_ms / 3600000

    partition N of tracker.profile-events.v1 (written by its owner's signals hop only)
      {pN}:head        hash    epoch, seq, next (offset), clock_ms (of the last clock record); run, at_ms, back_ms
      {pN}:src         hash    partition of events -> "offset:index" of the last event applied from there;
                               2048 + partition of profile-events -> the same of what was sent on from there;
                               4096 + partition of events -> the same of what was left behind (LEFT in events.py)
      {pN}:v:SITE:PID  hash    the profile: one field a signal, JSON; field `about` = ids, first and last seen; of one
                               that is no more only `merged` = the profile it was merged into
      {pN}:c:SITE:F:T:B  hash  counters of family F in bucket B of tier T (m, h, d): field -> count; `sum` = of all
      {pN}:u:SITE:CH   zset    visitors of channel CH (`all`: of the site; `engaged`: those whose event counted for
                               the score; `used`: who uses something, by the hour): profile id -> minute of the last
                               event; the latest 10,000
      {pN}:u           hash    SITE:CH -> the latest minute of a visitor who was dropped from there, for there were more
      {pN}:ud:SITE:CH:B  string  HyperLogLog of the visitors of local date B
      {pN}:rank:SITE   zset    the ranking: profile id -> log2 of its score, counted from the landmark
                               (stream/core/score.py); those of active visitors
      {pN}:rank        hash    SITE -> names the rules by which all of these are
      {pN}:sum:SITE    hash    INDICATOR|HALF-LIFE -> log2 of the decayed sum of all profiles' events; with
                               `-` before it: of what was taken back from it
      {pN}:g           hash    gauges: field -> value, moved by differences
      {pN}:due         zset    SITE|PID -> the earliest due time of the profile's timers, ms
      {pN}:models      hash    SITE|SIGNAL -> parameters of its churn model, JSON (tracker/contract/models.py)
      {pN}:out         list    triggers not yet known to be in Kafka, oldest first (msgpack: topic, key, value)

    site
      {s:SITE}:score   hash    e50 = the median score, active = how many have one, at_ms = when that was
      {s:SITE}:r:F:B   hash    family F of local date B, summed up over all partitions: field -> count, `sum` = of all
                               fields (written by stream/rollups.py; readers check `sum` against the partitions')
      {s:SITE}:id:TYPE:VALUE  string  profile id of an identifier; TYPE = user_id, email, phone, zalo_id, viber_id,
                                      push_token, anonymous_id
      {s:SITE}:ids:PID        hash    a profile's identifiers: TYPE:VALUE -> when it was linked, ms; first_seen_ms;
                                      routed_user = the user whose purchases were led here by their ids
      {s:SITE}:to:PID         string  the profile that this one was merged into
      {s:SITE}:k:NAME:VALUE   hash    NAME = order_id, checkout_id, cart_id: to = the profile that carried it first, and
                                      each other profile whose events it has led there
      {s:SITE}:run            string  id of the server's run that has all that there is of the site's identifiers
      {s:SITE}:epochs         hash    partition of events -> the latest epoch whose owner asked for identifiers
      {s:SITE}:fit            hash    SIGNAL -> the last fit of its churn model, JSON; `lock` is {s:SITE}:fit:lock
      {s:SITE}:fit:lock       string  who fits now; expires
      {s:SITE}:merges         list    merges not yet known to be in Kafka (msgpack: winner, loser, rule, messageId, ms)

    nodes of a Redis Cluster
      {pN}:whole       string  a worker that has just reached all nodes; expires. On each node under one tag, {eN} where
                               it has no {pN} (stream/reach.py)

    worker
      {w:ID}:held      hash    run, who: the process that runs under this worker_id (stream/lease.py); expires

    all of it
      {clock}:waits    hash    name of an endpoint's process -> "since:until": when it received the oldest event that is
                               not in Kafka yet, and till when that is believed, ms (tracker/waits.py)

    {...}:none, {s:SITE}:id:none never exist: scripts ask for them to find out that a cluster moves the slot.

Buckets are tracker/contract/windows.py's, families and fields are the table FAMILIES below; docs/counters.md tells what
is counted. Ids become key parts through `id_part`: short plain ones as they are, all others hashed.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from tracker.contract.durations import DAY_S, HOUR_S, MINUTE_S
from tracker.contract.events import CHANNELS

TIERS: Final[dict[str, tuple[int, int]]] = {
    "m": (MINUTE_S, 48 * HOUR_S),
    "h": (HOUR_S, 92 * DAY_S),
    "d": (DAY_S, 2 * 366 * DAY_S),
}
"""Tier of counters -> (bucket length, how long it is kept from its first count on), seconds. Hours: the longest window,
and the part of an hour at its old end."""

MAX_COUNTER_FIELDS: Final = 2000
"""Fields of one bucket of the family `site`, and most of any."""

FAMILIES: Final[dict[str, tuple[tuple[str, ...], dict[str, int]]]] = {
    "site": (
        (
            "total",
            "channel",
            "event",
            "popup",
            "message",
            "cart",
            "cart_undone",
            "cart_reason",
            "cart_reason_undone",
            "cart_revenue",
            "cart_revenue_undone",
            "usage",
        ),
        dict.fromkeys(TIERS, MAX_COUNTER_FIELDS),
    ),
    "campaign": (("campaign",), {"m": 200, "h": 500, "d": 500}),
    "content": (("page", "screen", "product", "promotion", "form"), {"m": 200, "h": 1000, "d": MAX_COUNTER_FIELDS}),
    "messages": (
        ("message_campaign", "message_template", "unsubscribe_reason"),
        {"m": 500, "h": 1000, "d": MAX_COUNTER_FIELDS},
    ),
    "carts": (("cart_campaign", "cart_campaign_undone"), {"m": 500, "h": 1000, "d": MAX_COUNTER_FIELDS}),
    "cart_products": (("cart_product", "cart_product_undone"), {"m": 200, "h": 1000, "d": MAX_COUNTER_FIELDS}),
    "feedback": (
        ("feedback", "feedback_undone", "feedback_by", "feedback_by_undone", "survey_reason"),
        {"m": 500, "h": 1000, "d": MAX_COUNTER_FIELDS},
    ),
    "steps": (("step", "step_undone"), {"m": 500, "h": 1000, "d": MAX_COUNTER_FIELDS}),
    "sales": (("sale", "sale_undone"), dict.fromkeys(TIERS, 50)),
    "retention": (("cohort", "cohort_kept", "cohort_undone", "cohort_kept_undone"), dict.fromkeys(TIERS, 500)),
}
"""Family of counters (one hash a bucket) -> (its kinds: how fields begin, fields of one bucket by tier)."""
FAMILY_OF: Final[dict[str, str]] = {kind: family for family, (kinds, _) in FAMILIES.items() for kind in kinds}
OPEN_KINDS: Final = (
    "event", "popup", "campaign", "page", "screen", "product", "promotion", "form",
    "cart_reason", "cart_reason_undone", "cart_revenue", "cart_revenue_undone",
    "cart_campaign", "cart_campaign_undone", "cart_product", "cart_product_undone",
    "message_campaign", "message_template", "unsubscribe_reason",
    "step", "step_undone", "feedback_by", "feedback_by_undone", "survey_reason",
)  # fmt: skip
"""Kinds whose names clients make up, or that have very many. Names that come when the bucket is full are counted under
no name, in `KIND|`, so that made-up names stay inside a budget; the names of other kinds are a closed set."""
MAX_COUNT: Final = 2**53 - 1
"""Most that a field counts: exact in Redis's Lua. There it stands still, and so does the bucket's `sum`."""
SUM_FIELD: Final = "sum"
"""Of all increments of the bucket: it rises with every change, so that equal sums mean equal contents."""
MAX_ROLLED_FIELDS: Final = 5000
"""Names of a rolled-up day: the largest, the rest goes to `KIND|`."""
ROLLUP_KEPT_S: Final = TIERS["d"][1]

ALL: Final = "all"
"""Stands for all channels among the visitors'."""
ENGAGED: Final = "engaged"
"""Stands for events that count for the score."""
USED: Final = "used"
"""Stands for events that show that somebody uses something; of each hour the first."""
VISITOR_CHANNELS: Final[tuple[str, ...]] = (ALL, *CHANNELS, "other")
VISITOR_SETS: Final[tuple[str, ...]] = (*VISITOR_CHANNELS, ENGAGED, USED)
MAX_VISITORS: Final = 10_000
"""Visitors of a channel and partition that are counted exactly; for windows that reach beyond them: HyperLogLog."""
VISITORS_KEPT_S: Final = 92 * DAY_S
"""A visitor's last event and the days' HyperLogLogs: a little longer than the longest window."""

WAITS_KEY: Final = "{clock}:waits"

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


def counter_key(partition: int, site: str, family: str, tier: str, bucket: int) -> str:
    return f"{{p{partition}}}:c:{site}:{family}:{tier}:{bucket}"


def rollup_key(site: str, family: str, day: int) -> str:
    return f"{{s:{site}}}:r:{family}:{day}"


def visitors_key(partition: int, site: str, channel: str) -> str:
    return f"{{p{partition}}}:u:{site}:{channel}"


def visitors_cut_key(partition: int) -> str:
    return f"{{p{partition}}}:u"


def visitor_day_key(partition: int, site: str, channel: str, day: int) -> str:
    return f"{{p{partition}}}:ud:{site}:{channel}:{day}"


def identifiers_key(site: str) -> str:
    """What the keys of a site's identifiers begin with."""
    return f"{{s:{site}}}:id"


def rank_key(partition: int, site: str) -> str:
    return f"{{p{partition}}}:rank:{site}"


def ranked_key(partition: int) -> str:
    return f"{{p{partition}}}:rank"


def gauges_key(partition: int) -> str:
    return f"{{p{partition}}}:g"


def sum_key(partition: int, site: str) -> str:
    return f"{{p{partition}}}:sum:{site}"


def score_key(site: str) -> str:
    return f"{{s:{site}}}:score"


def identifier_key(site: str, id_type: str, value: str) -> str:
    return f"{{s:{site}}}:id:{id_type}:{id_part(value)}"


def identifiers_of_key(site: str, profile_id: str) -> str:
    return f"{{s:{site}}}:ids:{profile_id}"


def merged_key(site: str, profile_id: str) -> str:
    return f"{{s:{site}}}:to:{profile_id}"


def merges_key(site: str) -> str:
    return f"{{s:{site}}}:merges"


def worker_key(worker_id: str) -> str:
    return f"{{w:{id_part(worker_id)}}}:held"


def models_key(partition: int) -> str:
    return f"{{p{partition}}}:models"


def fit_key(site: str) -> str:
    return f"{{s:{site}}}:fit"


def segment_gauge(segment: str) -> str:
    """The gauge of a segment's members; in {pN}:g it stands before `|SITE`."""
    return f"segment.{segment}"


# Fields of the counter hashes. Names that come from clients are the last part, so no separator in them can lie.
TOTAL_FIELD: Final = "total"
ACTIVE_MS_FIELD: Final = "usage|active_ms"
"""Time for which something was used."""


def channel_field(channel: str) -> str:
    return f"channel|{channel}"


def event_field(label: str) -> str:
    return f"event|{label}"


def popup_field(action: str, popup_id: str) -> str:
    return f"popup|{action}|{popup_id}"


def message_field(channel: str, action: str) -> str:
    return f"message|{channel}|{action}"


def message_of_field(kind: str, channel: str, action: str, name: str) -> str:
    """Messages of a campaign or template; '': of those that name none."""
    return f"message_{kind}|{channel}|{action}|{name}"


def unsubscribe_reason_field(channel: str, reason: str) -> str:
    """'': none was given."""
    return f"unsubscribe_reason|{channel}|{reason}"


def campaign_field(name: str) -> str:
    return f"campaign|{name}"


def page_field(path: str) -> str:
    return f"page|{path}"


def screen_field(name: str) -> str:
    return f"screen|{name}"


def item_field(kind: str, action: str, id: str) -> str:
    """Of a product, promotion or form: what was done, and to which."""
    return f"{kind}|{action}|{id}"


def cart_field(what: str) -> str:
    """Carts by what became of them."""
    return f"cart|{what}"


def cart_campaign_field(what: str, campaign: str) -> str:
    """The same by the campaign that brought the visitor who opened the cart; '': none."""
    return f"cart_campaign|{what}|{campaign}"


def cart_product_field(what: str, product: str) -> str:
    """Carts by what became of them, by a product that was in them."""
    return f"cart_product|{what}|{product}"


def cart_reason_field(reason: str) -> str:
    return f"cart_reason|{reason}"


def cart_revenue_field(currency: str, campaign: str) -> str:
    """What recovered carts brought, in the currency's minor unit."""
    return f"cart_revenue|{currency}|{campaign}"


def cohort_field(k: int, *, kept: bool = False) -> str:
    """Of the cohort whose bucket it is those active k weeks after their first; kept: and in the week before, too."""
    return f"cohort_kept|{k}" if kept else f"cohort|{k}"


def sale_field(what: str) -> str:
    """What customers buy more of: renewed and lapsed subscriptions, cross-sells (cross), upsells (up)."""
    return f"sale|{what}"


def step_field(from_: int, to: int, bucket: int) -> str:
    """A move between two of tracker/contract/steps.py, and the time that it took, by tracker/contract/spans.py."""
    return f"step|{from_}|{to}|{bucket}"


def feedback_field(metric: str, value: str, channel: str) -> str:
    """Answers, ratings, support cases of a channel: what is measured, and its value."""
    return f"feedback|{metric}|{value}|{channel}"


def feedback_by_field(by: str, metric: str, value: str, name: str) -> str:
    """The same of a campaign, product or agent."""
    return f"feedback_by|{by}|{metric}|{value}|{name}"


def survey_reason_field(survey: str, reason: str) -> str:
    return f"survey_reason|{survey}|{reason}"


def undone_field(field: str) -> str:
    """What a late event showed not to be so, of `field`: counters only go up, so that a bucket's sum tells of every
    change of it."""
    kind, _, rest = field.partition("|")
    return f"{kind}_undone|{rest}"


@lru_cache(1024)
def sum_field(indicator: str, half_life_d: float) -> str:
    """One of a site's decayed sums."""
    return f"{indicator}|{half_life_d:g}"


def sum_back_field(indicator: str, half_life_d: float) -> str:
    """Of what was added to it and is taken back: nothing can be taken off the log of a sum."""
    return f"-{indicator}|{half_life_d:g}"


def sum_of(field: str) -> tuple[str, float, bool]:
    """(indicator, half-life in days, whether it was taken back) of such a field."""
    indicator, _, half_life_d = field.partition("|")
    return indicator.removeprefix("-"), float(half_life_d), indicator.startswith("-")


def unnamed_field(kind: str) -> str:
    """What is counted under no name."""
    return f"{kind}|"
