"""Every metric of `tracker webhooks deliver`. The label `endpoint` is the name of a webhook in the settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

OUTCOMES: Final = ("delivered", "failed", "dead_letter")

DELIVERIES: Final = Counter(
    "tracker_webhook_deliveries_total",
    "Triggers delivered, tries that failed, triggers given up.",
    ["endpoint", "outcome"],
)
SECONDS: Final = Histogram(
    "tracker_webhook_delivery_seconds",
    "One try, from the connection to the answer.",
    ["endpoint"],
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
)
QUEUE: Final = Gauge(
    "tracker_webhook_queue", "Triggers taken from Kafka and not yet delivered or given up.", ["endpoint"]
)
LAG: Final = Gauge(
    "tracker_webhook_lag", "Triggers in Kafka that are not delivered or given up, of this process's partitions.",
    ["endpoint"],
)  # fmt: skip
OPEN: Final = Gauge(
    "tracker_webhook_breaker_open", "1 while the endpoint is left alone, for it failed too often.", ["endpoint"]
)

CONFIG_FAILURES: Final = Counter(
    "tracker_webhook_config_reload_failures_total",
    "Changes of tracker.toml that can't be used; the webhooks before stay.",
)


def declare(endpoints: Iterable[str]) -> None:
    """Make every series with the value zero."""
    for endpoint in endpoints:
        for outcome in OUTCOMES:
            DELIVERIES.labels(endpoint, outcome)
        SECONDS.labels(endpoint)
        QUEUE.labels(endpoint)
        LAG.labels(endpoint)
        OPEN.labels(endpoint)


def forget(endpoint: str) -> None:
    """Take away the gauges of one that is no more: it is not behind any longer. What it has done stays counted."""
    for gauge in (QUEUE, LAG, OPEN):
        gauge.remove(endpoint)
