"""Every metric of a worker, declared here and nowhere else. Label sets are closed: clients' names never become labels.

Per chunk, not per event: Faust's own monitor costs 12 us an event.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from stream.core.churn import BANDS
from stream.poison import REASONS
from stream.refusals import REFUSALS
from tracker.contract.events import CHANNELS, MESSAGE_ACTIONS, POPUP_ACTIONS
from tracker.contract.models import SIGNALS as MODELLED
from tracker.contract.scoring import STAGES
from tracker.contract.stages import STAGE_NAMES
from tracker.contract.topics import EVENTS, PROFILE_EVENTS
from tracker.contract.triggers import TRIGGER_KINDS

HOPS: Final = ("resolve", "signals")
SUPPRESSED: Final = (
    "stale", "repeat", "gap", "one_time_buyer",  # by signals
    "denied", "no_consent", "cap", "kind_cap", "quiet", "void", "retracted", "not_told", "too_large",  # by the gate
)  # fmt: skip
OTHER: Final = "other"
MAX_SITES: Final = 50

_FAST = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_LATENCY = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0)

EVENTS_TOTAL = Counter("stream_events_total", "Events that had their effect.", ["hop"])
CHUNKS_TOTAL = Counter("stream_chunks_total", "Chunks applied.", ["hop"])
CHUNK_EVENTS = Histogram(
    "stream_chunk_events",
    "Records in a chunk.",
    ["hop"],
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000),
)
CHUNK_SECONDS = Histogram("stream_chunk_seconds", "From taking a chunk up to its effect.", ["hop"], buckets=_FAST)
E2E_SECONDS = Histogram(
    "stream_event_e2e_latency_seconds", "From received by the endpoint to visible in Redis.", buckets=_LATENCY
)
REDIS_SECONDS = Histogram("stream_redis_command_duration_seconds", "Round trip of a pipeline to Redis.", buckets=_FAST)
APPLY_SECONDS = Histogram(
    "stream_apply_seconds",
    "Time of one call of apply.lua inside Redis, in which it serves nobody else.",
    buckets=(0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1),
)
REDIS_REFUSALS = Counter("stream_redis_refusals_total", "Pipelines with a write that Redis refused.", ["reason"])
LOAD_SECONDS = Histogram(
    "stream_load_seconds",
    "Time of one call of load.lua inside Redis, in which it serves nobody else.",
    buckets=(0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1),
)
APPLY_BYTES = Histogram(
    "stream_apply_bytes",
    "States and triggers that one call of apply.lua writes.",
    buckets=(1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 19, 1 << 20, 1 << 21, 1 << 22),
)
REDIS_ERRORS = Counter("stream_redis_errors_total", "Pipelines that failed.")
PRODUCE_SECONDS = Histogram("stream_kafka_produce_duration_seconds", "From sending a batch to its ack.", buckets=_FAST)
_produce_errors = Counter("stream_kafka_produce_errors_total", "Batches that Kafka did not ack.", ["retryable"])
PRODUCE_ERRORS = {retryable: _produce_errors.labels(retryable) for retryable in ("true", "false")}
QUEUE_EVENTS = Gauge("stream_producer_queue_events", "Records waiting for Kafka's ack.")
LAG = Gauge(
    "stream_consumer_lag_messages",
    "Records between the worker and the end of the log.",
    ["topic", "partition"],
)
OWNED = Gauge("stream_partitions_owned", "Partitions that this worker has.", ["topic"])
CLOCK_LAG = Gauge("stream_clock_lag_seconds", "Now minus the last clock record applied, the worst partition.")
CLOCK_AHEAD = Gauge(
    "stream_clock_ahead_seconds",
    "How far the clock of the machine that writes clock records is ahead of Redis's; over 1 s they go by Redis's.",
)
STALLED = Gauge(
    "stream_stalled_seconds",
    "How long the worst partition has had work and made no progress, although Redis and Kafka answer.",
)
PROFILES_READ = Counter("stream_profiles_read_total", "Profiles read from Redis because they were not in memory.")
CACHE_BYTES = Gauge("stream_profile_cache_bytes", "Memory of the profiles kept, by estimate.")
CACHE_PROFILES = Gauge("stream_profile_cache_profiles", "Profiles kept in memory.")
DUPLICATES = Counter("stream_events_duplicate_total", "Events dropped because their messageId was seen before.")
REPEATS = Counter("stream_events_redelivered_total", "Records dropped because they had been applied before a crash.")
DEAD_LETTERS = Counter("stream_dead_letters_total", "Records that could not be used.", ["reason"])
LINKS = Counter("stream_identity_links_total", "Identifiers that were linked to a profile there was.")
RECOVERED = Counter(
    "stream_identity_recovered_total", "Decisions that a restarted Redis did not have, and that were found in the log."
)
NOT_LINKED = Counter(
    "stream_identity_not_linked_total", "Identifiers that gave way: the limits let them not be the same person's."
)
MERGES = Counter("stream_identity_merges_total", "Profiles that were merged into another.")
MOVED = Counter(
    "stream_identity_moved_total",
    "Records sent to another partition: parts of merged profiles' states, and what came for such a profile later.",
)
TAKEN_OVER = Counter("stream_identity_taken_over_total", "Parts of merged profiles' states that the winner took over.")
MODELS = Counter("stream_models_total", "Records of new model parameters taken up, one a partition.")
FIRED = Counter("stream_triggers_fired_total", "Triggers in Kafka.", ["kind"])
SUPPRESSIONS = Counter("stream_triggers_suppressed_total", "Triggers held back, and why.", ["kind", "reason"])
TRIGGER_DELAY = Histogram(
    "stream_trigger_delay_seconds", "From due + 2 s to acked by Kafka.", ["kind"], buckets=_LATENCY
)
CARTS_OPEN = Gauge("stream_carts_open", "Carts with something in them, not abandoned.", ["site"])
CHURN_HIGH = Gauge("stream_churn_high", "Customers whose churn risk is over the threshold.", ["site"])
CHURN_HIGH_VISIT = Gauge("stream_churn_high_visit", "Visitors whose risk not to come again is over it.", ["site"])
CHURN_HIGH_MESSAGE = Gauge(
    "stream_churn_high_message_engage", "People whose risk to answer no message again is over it.", ["site"]
)
CHURN_BANDS = Gauge(
    "stream_churn_profiles",
    "Customers by their risk to be lost, as of the last fit; of the worker that has partition 0.",
    ["site", "signal", "band"],
)
PROFILES_KNOWN = Gauge("stream_profiles_known", "Profiles that were made, less those merged into another.", ["site"])
PROFILES_STAGE = Gauge(
    "stream_profiles_stage", "Profiles by their stage of the lifecycle; all others are visitors.", ["site", "stage"]
)
PROFILES_JOURNEY = Gauge("stream_profiles_journey", "Profiles by how far on their journey they are.", ["site", "stage"])
CONFIG_FAILURES = Counter(
    "stream_config_reload_failures_total", "Changes of tracker.toml that can't be used; the settings before stay."
)
CONFIG_LOADED = Gauge(
    "stream_config_last_reload_success_timestamp_seconds", "When tracker.toml was last read and could be used."
)
BUILD = Gauge("stream_build_info", "Version of the worker.", ["version", "python"])

SIGNAL_COUNTERS: Final = {
    "carts_opened_total": Counter("stream_carts_opened_total", "Carts opened.", ["site"]),
    "carts_abandoned_total": Counter("stream_carts_abandoned_total", "Carts abandoned.", ["site"]),
    "carts_converted_total": Counter(
        "stream_carts_converted_total", "Carts bought before they were abandoned.", ["site"]
    ),
    "carts_recovered_total": Counter(
        "stream_carts_recovered_total", "Carts bought after they were abandoned.", ["site"]
    ),
    "carts_lost_total": Counter("stream_carts_lost_total", "Abandoned carts that nobody came back to.", ["site"]),
    "carts_emptied_total": Counter("stream_carts_emptied_total", "Carts emptied by their visitor.", ["site"]),
    "cart_reasons_total": Counter(
        "stream_cart_reasons_total", "Carts abandoned, by why as far as events tell.", ["site", "reason"]
    ),
    "orders_total": Counter("stream_orders_total", "Orders, each order_id once.", ["site"]),
    "revenue_minor_total": Counter("stream_revenue_minor_total", "Revenue of orders in minor units.", ["currency"]),
    "recovered_revenue_minor_total": Counter(
        "stream_recovered_revenue_minor_total",
        "Revenue of carts that were told as recovered, in minor units; one that is taken back stays counted.",
        ["currency"],
    ),
    "triggers_held_total": Counter(
        "stream_triggers_held_total", "Triggers that wait for the end of quiet hours.", ["kind"]
    ),
    "timers_failed_total": Counter(
        "stream_timers_failed_total",
        "Timers whose signal raised, or left what can't be written; tried again.",
        ["site"],
    ),
    "traits_left_out_total": Counter(
        "stream_traits_left_out_total", "Traits beyond what a profile keeps: 64 of them, 16 KB in all.", ["site"]
    ),
    "popup_events_total": Counter("stream_popup_events_total", "Popup events.", ["site", "action"]),
    "message_events_total": Counter("stream_message_events_total", "Message events.", ["site", "channel", "action"]),
}
"""What signals may count (Result.metrics), by name."""


class _OfStage:
    """The part of a gauge that is of one stage, with the site as its label like other gauges."""

    def __init__(self, gauge: Gauge, stage: str) -> None:
        self._gauge, self._stage = gauge, stage

    def labels(self, site: str) -> Gauge:
        return self._gauge.labels(site, self._stage)


GAUGES: Final[dict[str, Gauge | _OfStage]] = {
    "carts_open": CARTS_OPEN,
    "churn_high": CHURN_HIGH,
    "churn_high_visit": CHURN_HIGH_VISIT,
    "churn_high_message_engage": CHURN_HIGH_MESSAGE,
    "profiles_known": PROFILES_KNOWN,
    **{f"stage_{stage}": _OfStage(PROFILES_STAGE, stage) for stage in STAGES[1:]},
    **{f"journey_{stage}": _OfStage(PROFILES_JOURNEY, stage) for stage in STAGE_NAMES},
}
"""Result.gauges that are shown, by field; sums over the partitions owned, rebuilt on every assignment."""

CART_REASONS: Final = ("coupon", "shipping", "payment", "unknown", OTHER)
"""What stream/core/cart.py finds; other: what a survey's answer says."""

CURRENCIES: Final = frozenset(
    [
        "VND",
        "USD",
        "EUR",
        "GBP",
        "JPY",
        "KRW",
        "CNY",
        "THB",
        "SGD",
        "MYR",
        "IDR",
        "PHP",
        "AUD",
        "CAD",
        "CHF",
        "HKD",
        "TWD",
        "INR",
        "NZD",
        "KHR",
        "LAK",
        "MMK",
        "BND",
        "SEK",
        "NOK",
        "DKK",
        "PLN",
    ]
)

_sites: frozenset[str] = frozenset()


def site_label(site: str) -> str:
    return site if site in _sites else OTHER


def label(name: str, value: str) -> str:
    """A signal's label value, folded into its closed set."""
    if name == "site":
        return site_label(value)
    if name == "currency":
        return value if value in CURRENCIES else OTHER
    if name == "channel":
        return value if value in CHANNELS else OTHER
    return value


def count(name: str, labels: tuple[str, ...], n: float) -> None:
    counter = SIGNAL_COUNTERS[name]
    counter.labels(*(label(k, v) for k, v in zip(counter._labelnames, labels, strict=True))).inc(n)


def show_bands(site: str, signal: str, bands: Mapping[str, int]) -> None:
    """What a fit has counted; a site without a label of its own is not shown."""
    if site in _sites:
        for band in BANDS if bands else ():
            CHURN_BANDS.labels(site, signal, band).set(bands.get(band, 0))


def forget_bands() -> None:
    """Another worker shows them now."""
    for site in _sites:
        for signal in MODELLED:
            for band in BANDS:
                CHURN_BANDS.labels(site, signal, band).set(0)


class Producing:
    """What the Kafka producer tells (tracker/contract/producer.py)."""

    def produced(self, seconds: float) -> None:
        PRODUCE_SECONDS.observe(seconds)

    def failed(self, retryable: bool) -> None:
        PRODUCE_ERRORS["true" if retryable else "false"].inc()

    def waiting(self, records: int, size: int) -> None:
        QUEUE_EVENTS.set(records)


def declare(sites: Iterable[str]) -> None:
    """Make every series with the value zero, so that a rate over it is right from the first event on."""
    global _sites
    names = tuple(sites)[:MAX_SITES]
    _sites = frozenset(names)
    BUILD.labels(version("event-streaming-tracker"), platform.python_version()).set(1)
    for hop in HOPS:
        EVENTS_TOTAL.labels(hop)
        CHUNKS_TOTAL.labels(hop)
        CHUNK_EVENTS.labels(hop)
        CHUNK_SECONDS.labels(hop)
    for code in REFUSALS:
        REDIS_REFUSALS.labels(code)
    for topic in (EVENTS, PROFILE_EVENTS):
        OWNED.labels(topic)
    for reason in REASONS:
        DEAD_LETTERS.labels(reason)
    for kind in TRIGGER_KINDS:
        FIRED.labels(kind.name)
        TRIGGER_DELAY.labels(kind.name)
        SIGNAL_COUNTERS["triggers_held_total"].labels(kind.name)
        for reason in SUPPRESSED:
            SUPPRESSIONS.labels(kind.name, reason)
    for name in ("revenue_minor_total", "recovered_revenue_minor_total"):
        SIGNAL_COUNTERS[name].labels("VND")
    forget_bands()
    for site in (*names, OTHER):
        for gauge in GAUGES.values():
            gauge.labels(site)
        for name, counter in SIGNAL_COUNTERS.items():
            if counter._labelnames == ("site",):
                counter.labels(site)
            elif name == "cart_reasons_total":
                for reason in CART_REASONS:
                    counter.labels(site, reason)
            elif name == "popup_events_total":
                for action in POPUP_ACTIONS.values():
                    counter.labels(site, action)
            elif name == "message_events_total":
                for channel, action in MESSAGE_ACTIONS.values():
                    counter.labels(site, channel or OTHER, action)
