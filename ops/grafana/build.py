"""Writes the dashboards of ops/grafana/dashboards from the tables below; `--check` exits 1 when they differ.

    python ops/grafana/build.py [--check]

A panel is a line: title, what it tells, unit, queries. $__rate_interval is Grafana's name for a window that always
holds enough scrapes. tests/integration/test_dashboards.py runs every query against a real Prometheus that scrapes
the real processes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final, NamedTuple

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import units

FOLDER: Final = Path(__file__).with_name("dashboards")
COMMAND: Final = "python ops/grafana/build.py"
DATASOURCE: Final = common_models.DataSourceRef(type_val="prometheus", uid="${datasource}")
SITE: Final = 'site=~"$site"'


class Panel(NamedTuple):
    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    """(legend, PromQL)."""


Rows = tuple[tuple[str, tuple[Panel, ...]], ...]


def rate(metric: str, by: str = "", where: str = "") -> str:
    grouping = f" by ({by})" if by else ""
    matcher = f"{{{where}}}" if where else ""
    return f"sum{grouping} (rate({metric}{matcher}[$__rate_interval]))"


def quantiles(histogram: str, where: str = "") -> tuple[tuple[str, str], ...]:
    return tuple(
        (f"p{q * 100:g}", f"histogram_quantile({q}, {rate(f'{histogram}_bucket', 'le', where)})") for q in (0.5, 0.99)
    )


def by_hop(histogram: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (f"{{{{hop}}}} p{q * 100:g}", f"histogram_quantile({q}, {rate(f'{histogram}_bucket', 'hop, le')})")
        for q in (0.5, 0.99)
    )


def share(part: str, rest: str) -> str:
    """part / (part + rest)."""
    return ratio(part, f"{part} + {rest}")


def ratio(part: str, whole: str) -> str:
    """part / whole, at most 1; of nothing there is no value, which is not 0."""
    return f"clamp_max({part} / ({whole} > 0), 1)"


PIPELINE: Final[Rows] = (
    (
        "Endpoint",
        (
            Panel(
                "Requests by code",
                "HTTP requests by status. 4xx: a client sends what can't be used. 5xx: clients send again.",
                units.RequestsPerSecond,
                (("{{code}}", rate("tracker_http_requests_total", "code")),),
            ),
            Panel(
                "Events accepted and rejected",
                "Accepted: acked by Kafka. Rejected, by reason: an answer of 4xx, or one event of a batch.",
                units.EventsPerSecond,
                (
                    ("accepted", rate("tracker_events_accepted_total")),
                    ("rejected: {{reason}}", rate("tracker_events_rejected_total", "reason")),
                ),
            ),
            Panel(
                "Request duration",
                "Ingest routes: from the request's head to the answer, which comes after Kafka's ack.",
                units.Seconds,
                quantiles("tracker_http_request_duration_seconds", 'route=~"/v1/.*"'),
            ),
            Panel(
                "Produce latency",
                "From handing a batch to Kafka to its ack by all in-sync replicas.",
                units.Seconds,
                quantiles("tracker_kafka_produce_duration_seconds"),
            ),
            Panel(
                "Events waiting for Kafka",
                "Events that Kafka has not acked yet. Over the setting max_pending_bytes requests get 503.",
                units.Short,
                (("{{instance}}", "sum by (instance) (tracker_producer_queue_events)"),),
            ),
            Panel(
                "Bytes waiting for Kafka",
                "The same in bytes.",
                units.BytesIEC,
                (("{{instance}}", "sum by (instance) (tracker_producer_queue_bytes)"),),
            ),
            Panel(
                "Spool",
                "Events that wait on disk while Kafka does not take them. More than nothing for two minutes: alert.",
                units.BytesIEC,
                (
                    ("{{instance}} used", "sum by (instance) (tracker_spool_bytes)"),
                    ("{{instance}} free", "sum by (instance) (tracker_spool_free_bytes)"),
                ),
            ),
            Panel(
                "Spool: events",
                "To the disk and from there to Kafka.",
                units.EventsPerSecond,
                (("to disk", rate("tracker_spool_written_total")), ("to Kafka", rate("tracker_spool_replayed_total"))),
            ),
            Panel(
                "Spool: oldest event",
                "How long the oldest event has waited on disk; 0: none waits.",
                units.Seconds,
                (("{{instance}}", "max by (instance) (tracker_spool_oldest_age_seconds)"),),
            ),
            Panel(
                "Clients' clocks",
                "How far clients' clocks are off the endpoint's, either way; events are corrected for it.",
                units.Seconds,
                quantiles("tracker_client_clock_skew_seconds"),
            ),
            Panel(
                "Events by site",
                "Events acked by Kafka, of the first 50 sites and of all others together.",
                units.EventsPerSecond,
                (("{{site}}", rate("tracker_site_events_accepted_total", "site", SITE)),),
            ),
            Panel(
                "Ratios clamped",
                "Answers of the read API with a ratio whose part was more than its whole: one of both is reported late "
                "or not at all.",
                units.OpsPerSecond,
                (("{{ratio}}", rate("tracker_metric_anomaly_total", "ratio")),),
            ),
        ),
    ),
    (
        "Stream",
        (
            Panel(
                "Events applied by hop",
                "resolve finds the person, signals folds the event into the person's state. Both rise together.",
                units.EventsPerSecond,
                (("{{hop}}", rate("stream_events_total", "hop")),),
            ),
            Panel(
                "Consumer lag",
                "Records between the workers and the end of the log. Growing: add workers, or look at Redis.",
                units.Short,
                (("{{topic}}", "sum by (topic) (stream_consumer_lag_messages)"),),
            ),
            Panel(
                "Received to visible",
                "From the endpoint's receipt of an event until its effect is in Redis. Objective: 99 % in 5 s.",
                units.Seconds,
                quantiles("stream_event_e2e_latency_seconds"),
            ),
            Panel(
                "Chunk size",
                "Records that are applied in one step. Larger chunks cost less an event.",
                units.Short,
                by_hop("stream_chunk_events"),
            ),
            Panel(
                "Chunk duration",
                "From taking a chunk until its effect is in Redis.",
                units.Seconds,
                by_hop("stream_chunk_seconds"),
            ),
            Panel(
                "Redis round trip",
                "Duration of a pipeline to Redis, seen by the workers.",
                units.Seconds,
                quantiles("stream_redis_command_duration_seconds"),
            ),
            Panel(
                "Clock lag",
                "Age of the last clock record applied, in the worst partition. Timers fire by it: 2 to 4 s is normal.",
                units.Seconds,
                (("worst partition", "max(stream_clock_lag_seconds)"),),
            ),
            Panel(
                "Partitions owned",
                "By worker and topic. All partitions of a topic have an owner when the sum is their number.",
                units.Short,
                (("{{instance}} {{topic}}", "sum by (instance, topic) (stream_partitions_owned)"),),
            ),
            Panel(
                "Repeats dropped",
                "Events whose messageId had been seen: senders send again. They have no second effect.",
                units.EventsPerSecond,
                (("repeats", rate("stream_events_duplicate_total")),),
            ),
            Panel(
                "Dead letters",
                "What could not be used, by part and reason. `tracker tail --topic dead-letters` shows it whole.",
                units.EventsPerSecond,
                (
                    ("endpoint: {{reason}}", rate("tracker_dead_letters_total", "reason")),
                    ("worker: {{reason}}", rate("stream_dead_letters_total", "reason")),
                ),
            ),
            Panel(
                "Errors of Kafka and Redis",
                "Batches that Kafka did not take, pipelines and reads that Redis did not answer; all are tried again.",
                units.OpsPerSecond,
                (
                    ("endpoint to Kafka", rate("tracker_kafka_produce_errors_total")),
                    ("worker to Kafka", rate("stream_kafka_produce_errors_total")),
                    ("endpoint to Redis", rate("tracker_redis_errors_total")),
                    ("worker to Redis", rate("stream_redis_errors_total")),
                ),
            ),
            Panel(
                "Anonymous ids linked",
                "Anonymous visitors that turned out to be a known person.",
                units.OpsPerSecond,
                (("links", rate("stream_identity_links_total")),),
            ),
        ),
    ),
    (
        "Signals",
        (
            Panel(
                "Triggers",
                "Published by kind, and held back by kind and reason.",
                units.OpsPerSecond,
                (
                    ("{{kind}}", rate("stream_triggers_fired_total", "kind")),
                    ("{{kind}} held back: {{reason}}", rate("stream_triggers_suppressed_total", "kind, reason")),
                ),
            ),
            Panel(
                "Trigger delay",
                "From the time a trigger was due, plus 2 s, to Kafka's ack.",
                units.Seconds,
                quantiles("stream_trigger_delay_seconds"),
            ),
            Panel(
                "Open carts",
                "Carts with something in them that are not abandoned.",
                units.Short,
                (("{{site}}", f"sum by (site) (stream_carts_open{{{SITE}}})"),),
            ),
            Panel(
                "Ends of carts",
                "Converted: bought in time. Recovered: bought after it. Lost: never bought. Emptied: by the visitor.",
                units.OpsPerSecond,
                tuple(
                    (end, rate(f"stream_carts_{end}_total", where=SITE))
                    for end in ("converted", "abandoned", "recovered", "lost", "emptied")
                ),
            ),
            Panel(
                "Orders",
                "Orders by site, each order_id once.",
                units.OpsPerSecond,
                (("{{site}}", rate("stream_orders_total", "site", SITE)),),
            ),
            Panel(
                "Revenue",
                "In minor units of the currency (VND has none: dong; USD: cents), a second.",
                units.Short,
                (("{{currency}}", rate("stream_revenue_minor_total", "currency")),),
            ),
            Panel(
                "Popup events",
                "By action: eligible, triggered, viewed, clicked, dismissed, submitted.",
                units.EventsPerSecond,
                (("{{action}}", rate("stream_popup_events_total", "action", SITE)),),
            ),
            Panel(
                "Message events",
                "E-mail, SMS, push and chat messages by channel and action.",
                units.EventsPerSecond,
                (("{{channel}} {{action}}", rate("stream_message_events_total", "channel, action", SITE)),),
            ),
            Panel(
                "Customers at risk",
                "Customers whose churn risk is over the threshold (setting churn_enter).",
                units.Short,
                (("{{site}}", f"sum by (site) (stream_churn_high{{{SITE}}})"),),
            ),
        ),
    ),
)


def by_site(metric: str, by: str = "") -> str:
    return rate(metric, by, SITE)


SIGNALS: Final[Rows] = (
    (
        "Carts",
        (
            Panel(
                "Carts",
                "Opened, and what became of them. Recovered: bought after it was abandoned.",
                units.OpsPerSecond,
                tuple(
                    (what, by_site(f"stream_carts_{what}_total"))
                    for what in ("opened", "converted", "abandoned", "recovered")
                ),
            ),
            Panel(
                "Cart rates",
                "Abandoned of abandoned and converted; recovered of abandoned. By when it happened; by when a cart was "
                "opened, and exact: GET .../carts.",
                units.PercentUnit,
                (
                    (
                        "abandoned",
                        share(by_site("stream_carts_abandoned_total"), by_site("stream_carts_converted_total")),
                    ),
                    (
                        "recovered",
                        ratio(by_site("stream_carts_recovered_total"), by_site("stream_carts_abandoned_total")),
                    ),
                ),
            ),
            Panel(
                "Why carts are left",
                "By the first that applies: a coupon refused, the shipping step, a failed payment; unknown: no sign.",
                units.OpsPerSecond,
                (("{{reason}}", by_site("stream_cart_reasons_total", "reason")),),
            ),
            Panel(
                "Revenue recovered",
                "Of orders that closed an abandoned cart, in minor units of the currency, a second.",
                units.Short,
                (("{{currency}}", rate("stream_recovered_revenue_minor_total", "currency")),),
            ),
        ),
    ),
    (
        "Engagement",
        (
            Panel(
                "Stages",
                "Profiles by stage of the lifecycle; all others are visitors.",
                units.Short,
                (("{{stage}}", f"sum by (stage) (stream_profiles_stage{{{SITE}}})"),),
            ),
            Panel(
                "Journey",
                "Profiles by how far on their journey they are: aware, reached, onboard, engaged, retained, advocate.",
                units.Short,
                (("{{stage}}", f"sum by (stage) (stream_profiles_journey{{{SITE}}})"),),
            ),
            Panel(
                "Churn risk",
                "Customers by their risk to be lost, as of the last night's fit: low below 0.33, high above 0.66.",
                units.Short,
                (("{{signal}} {{band}}", f"sum by (signal, band) (stream_churn_profiles{{{SITE}}})"),),
            ),
            Panel(
                "Profiles",
                "Known ones, less those that were merged into another.",
                units.Short,
                (("{{site}}", f"sum by (site) (stream_profiles_known{{{SITE}}})"),),
            ),
            Panel(
                "Stages entered",
                "Triggers lead_stage published: a person came a stage further.",
                units.OpsPerSecond,
                (("lead_stage", rate("stream_triggers_fired_total", where='kind="lead_stage"')),),
            ),
            Panel(
                "At risk",
                "People whose churn risk is over the threshold: to buy, to visit, to answer messages.",
                units.Short,
                (
                    ("purchase", f"sum(stream_churn_high{{{SITE}}})"),
                    ("visit", f"sum(stream_churn_high_visit{{{SITE}}})"),
                    ("messages", f"sum(stream_churn_high_message_engage{{{SITE}}})"),
                ),
            ),
        ),
    ),
    (
        "Messages",
        (
            Panel(
                "Unsubscribe rate",
                "Unsubscribed of delivered, by channel: an e-mail's link, Zalo unfollowed, STOP to an SMS. By when it "
                "happened; exact, by campaign and with reasons: GET .../messages.",
                units.PercentUnit,
                (
                    (
                        "{{channel}}",
                        ratio(
                            rate("stream_message_events_total", "channel", f'{SITE}, action="unsubscribed"'),
                            rate("stream_message_events_total", "channel", f'{SITE}, action="delivered"'),
                        ),
                    ),
                ),
            ),
        ),
    ),
    (
        "Gate",
        (
            Panel(
                "Published and suppressed",
                "Triggers in Kafka, and those that consent, caps, quiet hours or the signal itself held back.",
                units.OpsPerSecond,
                (
                    ("published", rate("stream_triggers_fired_total")),
                    ("suppressed", rate("stream_triggers_suppressed_total")),
                ),
            ),
            Panel(
                "Suppressed by reason",
                "denied, no_consent: the person. cap, kind_cap, quiet: the site's policy. void: not so any more "
                "when quiet hours ended. repeat, gap, stale, one_time_buyer: the signal. docs/triggers.md",
                units.OpsPerSecond,
                (("{{reason}}", rate("stream_triggers_suppressed_total", "reason")),),
            ),
            Panel(
                "Held",
                "Triggers that began to wait for the end of quiet hours, by kind.",
                units.OpsPerSecond,
                (("{{kind}}", rate("stream_triggers_held_total", "kind")),),
            ),
        ),
    ),
    (
        "Webhooks",
        (
            Panel(
                "Webhooks: tries",
                "delivered: answered 2xx. failed: a try that is made again. dead_letter: given up.",
                units.OpsPerSecond,
                (("{{endpoint}} {{outcome}}", rate("tracker_webhook_deliveries_total", "endpoint, outcome")),),
            ),
            Panel(
                "Webhooks: duration",
                "Of one try, from the connection to the answer.",
                units.Seconds,
                quantiles("tracker_webhook_delivery_seconds"),
            ),
            Panel(
                "Webhooks: waiting",
                "Triggers in Kafka that are not delivered; over 1000 for a quarter of an hour: alert.",
                units.Short,
                (("{{endpoint}}", "sum by (endpoint) (tracker_webhook_lag)"),),
            ),
            Panel(
                "Webhooks: circuit open",
                "1: the endpoint failed too often and is left alone for a while. A quarter of an hour: alert.",
                units.Short,
                (("{{endpoint}}", "max by (endpoint) (tracker_webhook_breaker_open)"),),
            ),
        ),
    ),
)


def made(title: str, about: str, rows: Rows) -> dashboard.Dashboard:
    board = (
        dashboard.Dashboard(title)
        .uid(f"tracker-{title.lower()}")
        .description(f"{about} Generated by `{COMMAND}`; edit that file instead.")
        .tags(["tracker"])
        .readonly()
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("10s")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("site")
            .label("Site")
            .datasource(DATASOURCE)
            .query({"query": "label_values(stream_carts_open, site)", "refId": "site"})
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(models.VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(models.VariableOption(selected=True, text="All", value="$__all"))
        )
    )
    number = 0
    for row, panels in rows:
        number += 1
        board.with_row(dashboard.Row(row).id(number))
        for panel in panels:
            number += 1
            board.with_panel(_panel(panel).id(number))
    return board


def _panel(panel: Panel) -> timeseries.Panel:
    made = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.description)
        .unit(panel.unit)
        .datasource(DATASOURCE)
        .min(0)
        .fill_opacity(10)
        .show_points(common_models.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(common_models.LegendDisplayMode.LIST)
            .placement(common_models.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(common_models.TooltipDisplayMode.MULTI)
            .sort(common_models.SortOrder.DESCENDING)
        )
        .height(8)
        .span(6)
    )
    for n, (legend, expr) in enumerate(panel.queries):
        query = prometheus.Dataquery().expr(expr).legend_format(legend).ref_id(chr(ord("A") + n)).range()
        made.with_target(query.datasource(DATASOURCE))
    return made


def files() -> dict[str, str]:
    """File name -> text of every dashboard."""
    boards = {
        "pipeline.json": made("Pipeline", "From the endpoint to the triggers.", PIPELINE),
        "signals.json": made("Signals", "Carts, engagement, what the gate holds back, webhooks.", SIGNALS),
    }
    return {name: JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n" for name, board in boards.items()}


def main(args: list[str]) -> int:
    wrong = [
        name
        for name, text in files().items()
        if not (FOLDER / name).exists() or (FOLDER / name).read_text("utf-8") != text
    ]
    if args == ["--check"]:
        if wrong:
            print(f"not as {COMMAND} writes them: {', '.join(wrong)}. Run: {COMMAND}", file=sys.stderr)
        return 1 if wrong else 0
    for name in wrong:
        (FOLDER / name).write_text(files()[name], "utf-8")
        print(f"ops/grafana/dashboards/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
