"""Every metric of the endpoint, declared here and nowhere else. Label sets are closed: what clients send never becomes
a label, and every series is there with the value zero from the start, so that a rate over it is right from the first
event on.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from prometheus_client import Gauge, disable_created_metrics

from tracker.contract.events import EVENT_TYPES
from tracker.rejections import REASONS
from tracker.routes import ROUTES as EVENT_ROUTES
from tracker.tallies import Counter, Histogram

_OF_EVENTS: Final = tuple(dict.fromkeys(route.metric for route in EVENT_ROUTES.values()))
ROUTES: Final = (
    *_OF_EVENTS,
    "/pixel",
    "/v1/projects",
    "/sourceConfig",
    "/t.js",
    "/api",
    "/demo",
    "/metrics",
    "/health",
    "other",
)
METHODS: Final = ("GET", "HEAD", "POST", "OPTIONS", "other")
SOURCES: Final = ("client", "import")
OTHER: Final = "other"
MAX_SITES: Final = 50
RATIOS: Final = (
    "carts.abandonment_rate",
    "carts.net_abandonment_rate",
    "carts.recovery_rate",
    "carts.checkout_abandonment_rate",
    "messages.delivery_rate",
    "messages.unsubscribe_rate",
    "messages.complaint_rate",
    "messages.reasons.share",
    "retention.retained",
    "retention.churn",
    "usage.stickiness",
    "feedback.csat.percent",
    "feedback.ces.easy_percent",
    "feedback.reviews.rate",
    "feedback.reasons.share",
    "sales.renewal_rate",
    "engagement.rate",
    "profiles.percentile",
)
"""What the read API's answers have that is a part of something: report and field (tracker/ratios.py)."""

_HTTP = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_PRODUCE = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_SKEW = (0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 3600.0, 86400.0)

_requests = Counter("tracker_http_requests_total", "Answers given.", ["route", "method", "code"])
_seconds = Histogram(
    "tracker_http_request_duration_seconds", "From a request's head to its answer.", ["route"], buckets=_HTTP
)
_accepted = Counter("tracker_events_accepted_total", "Events acked by Kafka, or spooled.", ["source", "type"])
_site_events = Counter("tracker_site_events_accepted_total", "The same by site.", ["site"])
_rejected = Counter("tracker_events_rejected_total", "Refusals of a request or of an event in a batch.", ["reason"])
_dead = Counter("tracker_dead_letters_total", "Events of batches that went to the dead letters.", ["reason"])
_produce_errors = Counter("tracker_kafka_produce_errors_total", "Batches that Kafka did not ack.", ["retryable"])
_repaired = Counter(
    "tracker_spool_repaired_total", "Places in the spool that can't be read, and records that Kafka refuses.", ["kind"]
)
_anomalies = Counter(
    "tracker_metric_anomaly_total",
    "Ratios in answers of the read API whose part was more than the whole, or below zero, and that were clamped.",
    ["ratio"],
)
_build = Gauge("tracker_build_info", "Version of the endpoint.", ["version", "python"])

CLAMPED: Final = Counter("tracker_events_clamped_total", "Events whose impossible time became the time of receipt.")
ANONYMOUS: Final = Counter(
    "tracker_events_anonymous_total", "Events of people without consent that were kept without ids and traits."
)
SKEW_SECONDS: Final = Histogram(
    "tracker_client_clock_skew_seconds", "Client's clock off ours, either way.", buckets=_SKEW
)
PRODUCE_SECONDS: Final = Histogram(
    "tracker_kafka_produce_duration_seconds", "From sending a batch to its ack.", buckets=_PRODUCE
)
QUEUE_EVENTS: Final = Gauge("tracker_producer_queue_events", "Events waiting for Kafka's ack.")
QUEUE_BYTES: Final = Gauge("tracker_producer_queue_bytes", "Bytes waiting for Kafka's ack.")
SPOOL_BYTES: Final = Gauge("tracker_spool_bytes", "Size of the spool on disk.")
SPOOL_FREE: Final = Gauge("tracker_spool_free_bytes", "What still goes into the spool, by the setting and by the disk.")
SPOOL_RECORDS: Final = Gauge("tracker_spool_records", "Records in the spool that Kafka has not acked.")
SPOOL_OLDEST: Final = Gauge("tracker_spool_oldest_age_seconds", "Age of the oldest of them; 0: there is none.")
SPOOLED: Final = Counter("tracker_spool_written_total", "Records that went to the spool.")
REPLAYED: Final = Counter("tracker_spool_replayed_total", "Records of the spool that Kafka has acked.")
SPOOL_WRITE_SECONDS: Final = Histogram(
    "tracker_spool_write_duration_seconds", "Write and fsync of a group of records.", buckets=_PRODUCE
)
CONNECTIONS: Final = Gauge("tracker_http_connections", "Open connections.")
ARRIVING_BYTES: Final = Gauge("tracker_http_arriving_bytes", "Bytes of requests that are not complete yet.")
CONFIG_FAILURES: Final = Counter(
    "tracker_config_reload_failures_total", "Changes of tracker.toml that can't be used; the settings before stay."
)
CONFIG_LOADED: Final = Gauge(
    "tracker_config_last_reload_success_timestamp_seconds", "When tracker.toml was last read and could be used."
)
REDIS_ERRORS: Final = Counter("tracker_redis_errors_total", "Reads that Redis did not answer.")

ACCEPTED: Final = {(s, t): _accepted.labels(s, t) for s in SOURCES for t in EVENT_TYPES}
REJECTED: Final = {reason: _rejected.labels(reason) for reason in REASONS}
DEAD_LETTERS: Final = {reason: _dead.labels(reason) for reason in REASONS}
PRODUCE_ERRORS: Final = {retryable: _produce_errors.labels(retryable) for retryable in ("true", "false")}
SPOOL_REPAIRED: Final = {kind: _repaired.labels(kind) for kind in ("truncated", "corrupt", "refused")}
ANOMALIES: Final = {name: _anomalies.labels(name) for name in RATIOS}
_by_answer: Final = {
    (r, m, c): _requests.labels(r, m, c) for r in _OF_EVENTS for m, c in (("POST", 200), ("POST", 503))
}
_by_route: Final = {route: _seconds.labels(route) for route in ROUTES}
_by_site: dict[str, Counter] = {OTHER: _site_events.labels(OTHER)}


class Producing:
    """What the Kafka producer tells (tracker/contract/producer.py)."""

    def produced(self, seconds: float) -> None:
        PRODUCE_SECONDS.observe(seconds)

    def failed(self, retryable: bool) -> None:
        PRODUCE_ERRORS["true" if retryable else "false"].inc()

    def waiting(self, records: int, size: int) -> None:
        QUEUE_EVENTS.set(records)
        QUEUE_BYTES.set(size)


class Replaying(Producing):
    """The same of the spool's producer: what waits in it waits on disk, too."""

    def waiting(self, records: int, size: int) -> None:
        pass


def declare(sites: Iterable[str]) -> None:
    """The series that depend on settings: of the first 50 sites and of all others together."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which no query reads
    try:
        ours = version("event-streaming-tracker")
    except PackageNotFoundError:
        ours = "unknown"
    _build.labels(ours, platform.python_version()).set(1)
    for site in (*tuple(sites)[:MAX_SITES], OTHER):
        _by_site[site] = _site_events.labels(site)


def answered(route: str, method: str, code: int, seconds: float | None) -> None:
    """Count an answer. `route` is one of ROUTES; methods and codes outside of their sets are folded."""
    counter = _by_answer.get((route, method, code))
    if counter is None:
        series = (route, method if method in METHODS else OTHER, code)
        counter = _by_answer.get(series)
        if counter is None:
            counter = _by_answer[series] = _requests.labels(*series)
    counter.inc()
    if seconds is not None:
        _by_route[route].observe(seconds)


def site_accepted(site: str, events: int) -> None:
    (_by_site.get(site) or _by_site[OTHER]).inc(events)
