"""Every setting, declared once: type, unit, default, text. `docs/reference/settings.md` is generated from here.

Where their values come from: tracker/contract/loading.py. Sites and webhooks stand in `tracker.toml` only:
tracker/contract/sites.py.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from tracker.contract.sites import Site, Webhook

DEMO_SITE: Final = "demo"
DEMO_WRITE_KEY: Final = "demo-write-key"
DEMO_SECRET_KEY: Final = "demo-secret-key"
DEMO_KEYS: Final = frozenset((DEMO_WRITE_KEY, DEMO_SECRET_KEY))
"""Public knowledge: refused for every site but `demo`, and there unless `demo` is set."""

TABLES: Final = ("sites", "webhooks")
"""Settings that stand in tracker.toml only."""

PHONE_COUNTRIES: Final[dict[str, tuple[str, str]]] = {
    "VN": ("84", "0"), "KH": ("855", "0"), "LA": ("856", "0"), "TH": ("66", "0"), "SG": ("65", ""), "MY": ("60", "0"),
    "ID": ("62", "0"), "PH": ("63", "0"), "CN": ("86", "0"), "HK": ("852", ""), "TW": ("886", "0"), "JP": ("81", "0"),
    "KR": ("82", "0"), "IN": ("91", "0"), "AU": ("61", "0"), "US": ("1", "1"), "GB": ("44", "0"), "FR": ("33", "0"),
    "DE": ("49", "0"),
}  # fmt: skip
"""Country -> (its calling code, what stands before a number that is dialled inside it)."""


MOST: Final = {"s": 1_000_000_000, "days": 36_500}
"""Of a time with no bound of its own: 31 and 100 years. Beyond, times added to it are no times any more."""


def _s(unit: str, text: str, **bounds: Any) -> Meta:
    if unit in MOST and not bounds.keys() & {"le", "lt"}:
        bounds["le"] = MOST[unit]
    return Meta(description=text, extra={"unit": unit}, **bounds)


class Settings(Struct, frozen=True, kw_only=True):
    # -- servers
    kafka: Annotated[str, _s("host:port, comma separated", "Kafka's bootstrap servers.")] = "127.0.0.1:9092"
    redis: Annotated[
        str,
        _s(
            "URL",
            "Redis: redis://HOST:PORT/0. A Redis Cluster: redis+cluster://HOST:PORT,HOST:PORT with some of its nodes. "
            "With TLS rediss:// and rediss+cluster://.",
        ),
    ] = "redis://127.0.0.1:6379/0"
    partitions: Annotated[
        int,
        _s(
            "count",
            "Partitions of the two event topics. Fixed once the topics exist: state lives by partition.",
            ge=1,
            le=1024,
        ),
    ] = 64
    replication: Annotated[
        int, _s("count", "Replication factor of the topics that `tracker topics create` makes.", ge=1, le=9)
    ] = 1

    # -- endpoint
    http_host: Annotated[str, _s("address", "Address the endpoint listens on.")] = "127.0.0.1"
    http_port: Annotated[int, _s("port", "Port the endpoint listens on.", ge=0, le=65535)] = 8080
    processes: Annotated[
        int,
        _s(
            "count",
            "Processes of the endpoint that share http_port, one for a core. Each has its own queue to Kafka and rate "
            "limits.",
            ge=1,
            le=64,
        ),
    ] = 1
    metrics_port: Annotated[
        int,
        _s(
            "port",
            "With several processes: port of the first one's own /metrics, /livez and /readyz, the next has the next; "
            "0: free ones, which the log tells. A single process has its /metrics on http_port.",
            ge=0,
            le=65535,
        ),
    ] = 9464
    process_index: Annotated[
        int, _s("index", "Which of the processes this is; `tracker serve` sets it for those that it starts.", ge=0)
    ] = 0
    max_event_bytes: Annotated[int, _s("bytes", "Largest single event.", ge=1024, le=512 * 1024)] = 32 * 1024
    max_request_bytes: Annotated[int, _s("bytes", "Largest request body, after decompression.", ge=1024)] = (
        4 * 1024 * 1024
    )
    max_batch_events: Annotated[int, _s("events", "Most events in one batch.", ge=1)] = 2500
    linger_ms: Annotated[
        float, _s("ms", "How long the endpoint collects events before a Kafka batch leaves.", ge=0, le=1000)
    ] = 5.0
    linger_max_ms: Annotated[
        float,
        _s(
            "ms",
            "What linger_ms may grow to, within the latency budget, while events come in a flow that leaves Kafka's "
            "batches nearly empty; fuller batches cost less CPU an event. A lone request waits linger_ms.",
            ge=0,
            le=1000,
        ),
    ] = 20.0
    produce_timeout_s: Annotated[
        float,
        _s("s", "An event that neither Kafka nor the spool has taken by then is answered with 503.", gt=0, le=3600),
    ] = 10.0
    max_pending_bytes: Annotated[
        int, _s("bytes", "Events waiting for Kafka's ack; over it requests get 503.", ge=1 << 20)
    ] = 64 << 20
    drain_s: Annotated[float, _s("s", "Deadline of a graceful stop.", gt=0)] = 10.0
    spool_dir: Annotated[
        str,
        _s(
            "path",
            "Where events wait on disk while Kafka does not take them: a folder on a local disk that survives a "
            "restart. Each process has a folder of its own in it. Empty: no spool, such events get 503.",
        ),
    ] = "data/spool"
    spool_max_bytes: Annotated[
        int, _s("bytes", "Most that the spool of a process takes; events beyond it get 503.", ge=1 << 16)
    ] = 1 << 30
    spool_after_s: Annotated[
        float, _s("s", "Events that Kafka has not acked by then go to the spool, and are answered with 200.", gt=0)
    ] = 3.0
    spool_replay_per_s: Annotated[
        float,
        _s(
            "events/s",
            "How fast the spool is sent when Kafka is back, so that it leaves room for new events. Where more than "
            "half as many come in, twice what comes in.",
            gt=0,
        ),
    ] = 20_000.0
    spool_adopt_s: Annotated[
        float, _s("s", "How often a process looks for folders of the spool that no process holds.", gt=0)
    ] = 30.0
    retry_after_s: Annotated[
        int,
        _s(
            "s",
            "Least Retry-After of answers that ask to send again. They name from it to twice it, in turn, so that "
            "clients do not all come back at once.",
            ge=1,
        ),
    ] = 5
    public_url: Annotated[
        str,
        _s(
            "URL",
            "Where browsers reach the endpoint, for example https://t.shop.example: told to clients of other vendors "
            "that ask where to send. Empty: as the request says, with X-Forwarded-Proto of a trusted proxy.",
        ),
    ] = ""
    snippet_path: Annotated[
        str,
        _s(
            "path",
            "Where the snippet is served; its other builds beside it: /t.lite.js, /t.full.js and /t.sw.js, or of "
            "/s/app.js /s/app.full.js and so on. A name of your own is on no block list.",
        ),
    ] = "/t.js"
    batch_path: Annotated[
        str,
        _s(
            "path",
            "One more path that takes what /v1/batch takes, for example /s/in: `tracker snippet` prints it. Empty: "
            "none.",
        ),
    ] = ""
    demo: Annotated[bool, _s("bool", "Serve the demo shop at /demo/ and accept the demo site's public keys.")] = False

    # -- endpoint: what one sender may take of what all share; counted in each process for itself
    head_timeout_s: Annotated[
        float, _s("s", "From opening a connection, or a request's first byte, to the end of its headers.", gt=0)
    ] = 10.0
    request_timeout_s: Annotated[float, _s("s", "From the same to the last byte of its body.", gt=0)] = 30.0
    write_timeout_s: Annotated[
        float, _s("s", "A client that does not read its answers for so long is cut off.", gt=0)
    ] = 30.0
    keep_alive_s: Annotated[
        int,
        _s(
            "s",
            "How long a connection may idle between requests: longer than a load balancer in front keeps its own.",
            ge=1,
        ),
    ] = 65
    max_connections: Annotated[
        int,
        _s(
            "connections",
            "Most open connections; more are answered with 503 and closed. It is lowered to what the limit of open "
            "files (ulimit -n) leaves room for.",
            ge=1,
        ),
    ] = 10_000
    max_ip_connections: Annotated[
        int,
        _s(
            "connections",
            "The same of one address; trusted proxies are exempt. 0: no limit, because behind a proxy that is not in "
            "trusted_proxies all clients are one address.",
            ge=0,
        ),
    ] = 0
    max_pipelined: Annotated[
        int, _s("requests", "Most requests that a connection sends ahead of their answers; more end it.", ge=1)
    ] = 16
    max_url_bytes: Annotated[int, _s("bytes", "Longest path and query.", ge=256)] = 16 * 1024
    max_head_bytes: Annotated[int, _s("bytes", "Largest request line and headers together.", ge=1024)] = 32 * 1024
    max_headers: Annotated[int, _s("headers", "Most headers of a request.", ge=16)] = 100
    max_inflight_bytes: Annotated[
        int,
        _s(
            "bytes",
            "Parts of requests that are still arriving, of all connections; over it requests that arrive in parts get "
            "503.",
            ge=1 << 20,
        ),
    ] = 64 << 20
    skipped_bodies: Annotated[
        int,
        _s(
            "bodies",
            "A body over max_request_bytes is read on and thrown away up to so many times that size, so that the "
            "connection stays usable; then it is closed.",
            ge=1,
        ),
    ] = 8
    trusted_proxies: Annotated[
        str,
        _s(
            "networks, comma separated",
            "Proxies whose X-Forwarded-For is believed, for example 10.0.0.0/8. Empty: the peer is the client.",
        ),
    ] = ""
    rate_limit_key_events_s: Annotated[
        float,
        _s(
            "events/s",
            "Rate limit of a key; over it 429. 0: none, because what is right depends on the site's traffic, and a "
            "limit that is too low loses events of clients that give up.",
            ge=0,
        ),
    ] = 0.0
    rate_limit_key_burst_events: Annotated[int, _s("events", "What a key may send at once after a pause.", ge=1)] = (
        10_000
    )
    rate_limit_ip_requests_s: Annotated[
        float,
        _s(
            "requests/s",
            "Rate limit of an address (of IPv6 a /64); over it 429. 0: none, because behind a proxy that is not in "
            "trusted_proxies, and behind the NAT of a mobile network, many clients are one address.",
            ge=0,
        ),
    ] = 0.0
    rate_limit_ip_burst_requests: Annotated[
        int, _s("requests", "What an address may send at once after a pause.", ge=1)
    ] = 1000
    rate_limit_bad_keys_s: Annotated[
        float,
        _s(
            "keys/s",
            "Unknown keys of an address (of IPv6 a /64). Over it unknown and secret keys of this address get 429; "
            "write keys are taken as ever. 0: no limit.",
            ge=0,
        ),
    ] = 10.0
    rate_limit_bad_keys_burst: Annotated[int, _s("keys", "The same at once after a pause.", ge=1)] = 100
    rate_limit_addresses: Annotated[
        int,
        _s("addresses", "Addresses that each rate limit remembers; about 200 bytes each.", ge=2),
    ] = 100_000

    # -- worker
    worker_id: Annotated[
        str,
        _s(
            "name",
            "Stable name of a worker, its own in the group: restarted under the same name it gets its partitions back "
            "at once. Default: the host's name and worker_port.",
        ),
    ] = ""
    worker_host: Annotated[str, _s("address", "Address of the worker's /metrics, /livez and /readyz.")] = "127.0.0.1"
    worker_port: Annotated[int, _s("port", "Port of the worker's /metrics, /livez and /readyz.", ge=0, le=65535)] = 8081
    group: Annotated[str, _s("name", "Kafka consumer group of the workers.")] = "tracker-stream"
    session_timeout_s: Annotated[
        float, _s("s", "A worker not heard of for so long loses its partitions.", ge=1, le=86_400)
    ] = 10.0
    max_poll_interval_s: Annotated[
        float,
        _s(
            "s",
            "A worker whose main loop stands still for so long leaves the group. Redis may be away for longer.",
            ge=1,
            le=86_400,
        ),
    ] = 90.0
    fetch_max_wait_ms: Annotated[int, _s("ms", "Longest wait of a fetch for new records.", ge=1, le=10_000)] = 100
    gather_ms: Annotated[
        int,
        _s(
            "ms",
            "How long a fetch lets Kafka gather, above 300 records/s: more costs latency, once a hop, and saves a "
            "worker's CPU. It grows up to 250 by itself while a worker is short of CPU.",
            ge=1,
            le=5_000,
        ),
    ] = 80
    max_chunk_records: Annotated[int, _s("records", "Most records that one fetch hands over.", ge=1)] = 2000
    apply_target_ms: Annotated[
        float,
        _s(
            "ms",
            "What one atomic step in Redis may take, in which it serves nobody else: a worker cuts chunks into steps "
            "by what steps took before.",
            gt=0,
            le=1000,
        ),
    ] = 5.0
    max_backlog_records: Annotated[
        int, _s("records", "Records fetched and not yet worked on, beyond which a worker fetches no more.", ge=1)
    ] = 10_000
    max_backlog_bytes: Annotated[
        int, _s("bytes", "The same by the size of the records, for those that are large.", ge=1 << 20)
    ] = 64 << 20
    dedupe_window_h: Annotated[int, _s("h", "A messageId seen within this time is a repeat.", ge=1, le=168)] = 24
    profile_cache_bytes: Annotated[
        int,
        _s("bytes", "Profiles that a worker keeps in memory, of all its partitions together; others are read.", ge=0),
    ] = 128 << 20
    signals_off: Annotated[
        str,
        _s(
            "names, comma separated",
            "Signals that this deployment does without, separated by commas (docs/signals.md names them): their events "
            "cost the workers nothing, and what profiles keep of them stays as it is.",
        ),
    ] = ""
    profile_ttl_d: Annotated[int, _s("days", "A profile without events for so long is forgotten.", ge=1)] = 400
    poison_run: Annotated[
        int,
        _s(
            "records",
            "So many records of a partition in a row that can't be used stop the worker, before the chunk they are in "
            "has an effect; fewer go to the dead letters. 0: no limit.",
            ge=0,
        ),
    ] = 100
    poison_ratio: Annotated[
        float,
        _s(
            "share",
            "The same when more than this part of the last poison_window_records that a hop of the worker read can't "
            "be used. 0: no limit.",
            ge=0,
            le=1,
        ),
    ] = 0.5
    poison_window_records: Annotated[
        int, _s("records", "How far poison_ratio looks back; before so many were read, it does not apply.", ge=1)
    ] = 1000
    recover_max_records: Annotated[
        int,
        _s(
            "records",
            "How much of the end of profile-events is read at most, after Redis was started, for decisions that it may "
            "have lost. What is needed is what hop 1 wrote in some 12 s.",
            ge=1000,
        ),
    ] = 500_000
    hang_s: Annotated[
        float,
        _s("s", "A worker whose main loop or consumer thread did not turn for so long ends, with its stacks.", ge=3),
    ] = 45.0
    stuck_s: Annotated[
        float,
        _s(
            "s",
            "The same when a partition has work and makes no progress for so long, though Redis and Kafka answer.",
            ge=10,
        ),
    ] = 120.0
    cut_off_s: Annotated[
        float,
        _s(
            "s",
            "A worker that Redis (all nodes of a cluster; or some, while another worker reaches all) has not answered "
            "for so long leaves its group until it does, so that workers that reach it go on with its partitions. More "
            "than a restart of Redis takes.",
            ge=5,
        ),
    ] = 120.0

    # -- identity: most ids of a type that a profile gets; 0: no limit
    id_limit_user_id: Annotated[int, _s("ids", "User ids of a profile, for ever.", ge=0)] = 1
    id_limit_email: Annotated[int, _s("ids", "E-mail addresses in 365 days.", ge=0)] = 5
    id_limit_phone: Annotated[int, _s("ids", "Phone numbers in 365 days.", ge=0)] = 5
    id_limit_zalo_id: Annotated[int, _s("ids", "Zalo ids, each of one official account, for ever.", ge=0)] = 2
    id_limit_viber_id: Annotated[int, _s("ids", "Viber ids, each of one bot, for ever.", ge=0)] = 2
    id_limit_push_token: Annotated[int, _s("ids", "Push tokens, for ever.", ge=0)] = 5
    id_limit_anonymous_id: Annotated[int, _s("ids", "Anonymous ids (browsers, devices) in 30 days.", ge=0)] = 5
    id_limit_all: Annotated[
        int,
        _s(
            "ids",
            "Ids of a profile in all: over it the anonymous id that was linked first is let go for a new id. What a "
            "merge costs Redis grows with it.",
            ge=2,
            le=1000,
        ),
    ] = 50
    route_ttl_d: Annotated[
        float,
        _s(
            "days",
            "How long an order_id, checkout_id or cart_id leads to the profile that carried it first, counted from the "
            "last event with it. 0: not at all.",
            ge=0,
        ),
    ] = 90.0
    phone_country: Annotated[
        str,
        _s(
            "country",
            "Where phone numbers without a country code are from: "
            + ", ".join(f"{name} (+{code})" for name, (code, _) in PHONE_COUNTRIES.items())
            + ".",
        ),
    ] = "VN"

    # -- signals
    cart_idle_s: Annotated[float, _s("s", "A cart without an event for so long is abandoned.", gt=0)] = 3600.0
    checkout_idle_s: Annotated[float, _s("s", "The same after the checkout was started.", gt=0)] = 1800.0
    payment_idle_s: Annotated[float, _s("s", "The same after payment details were entered.", gt=0)] = 900.0
    cart_lost_s: Annotated[float, _s("s", "An abandoned cart that nobody came back to for so long is lost.", gt=0)] = (
        7 * 86400.0
    )
    cart_repeat_s: Annotated[float, _s("s", "A second abandonment within this time is suppressed.", ge=0)] = 86400.0
    cart_click_s: Annotated[float, _s("s", "A message click counts for an order this long after it.", ge=0)] = (
        5 * 86400.0
    )
    churn_horizon_d: Annotated[
        float, _s("days", "Churn risk by purchases = 1 - P(an order within this time).", gt=0)
    ] = 91.0
    churn_enter: Annotated[float, _s("probability", "Risk at which the churn signal goes on.", gt=0, lt=1)] = 0.90
    churn_leave: Annotated[float, _s("probability", "Risk at which the churn signal goes off.", gt=0, lt=1)] = 0.80
    churn_gap_d: Annotated[float, _s("days", "Least time between two churn signals of one customer.", ge=0)] = 14.0
    visit_horizon_d: Annotated[float, _s("days", "The same by visits: P(a visit within this time).", gt=0)] = 28.0
    message_horizon_d: Annotated[
        float, _s("days", "The same by messages: P(one opened, clicked or answered within this time).", gt=0)
    ] = 28.0
    churn_min_repeats: Annotated[
        int, _s("days", "Who bought (visited, ...) on fewer days after the first is not told.", ge=0)
    ] = 1
    churn_recheck_d: Annotated[
        float,
        _s(
            "days",
            "How often a waiting churn timer is solved again, for parameters may have changed: the latest that a "
            "crossing under new ones is noticed. 0: only when it is due, and at the next event.",
            ge=0,
        ),
    ] = 14.0
    clv_weeks: Annotated[int, _s("weeks", "How far the predicted customer value looks ahead.", ge=1, le=520)] = 52
    clv_discount_rate: Annotated[float, _s("a year", "What it discounts.", ge=0, le=10)] = 0.15
    fit_hour: Annotated[
        int,
        _s(
            "hour",
            "When a worker fits the churn models of a site anew each night, in the site's time zone: 0 to 23; -1: "
            "never (`tracker fit` does it by hand).",
            ge=-1,
            le=23,
        ),
    ] = 3
    fit_check_s: Annotated[
        float,
        _s("s", "How often a worker looks whether a site's fit of the night is due, and shows the last one.", gt=0),
    ] = 300.0
    fit_max_customers: Annotated[
        int, _s("customers", "Most histories that a fit takes; of more a sample by profile id.", ge=1000)
    ] = 1_000_000
    stale_s: Annotated[
        float, _s("s", "A timer due longer ago than this changes state, but its trigger is suppressed.", ge=0)
    ] = 86400.0

    # -- webhooks out (the endpoints stand in tracker.toml: see below)
    webhook_group: Annotated[
        str, _s("name", "Kafka consumer groups of `tracker webhooks deliver` begin so; the endpoint's name follows.")
    ] = "tracker-webhooks"
    webhook_host: Annotated[str, _s("address", "Address of its /metrics, /livez and /readyz.")] = "127.0.0.1"
    webhook_port: Annotated[int, _s("port", "Port of its /metrics, /livez and /readyz.", ge=0, le=65535)] = 8090
    webhook_retry_s: Annotated[
        float, _s("s", "Wait after the first failure; four times as long after each further one.", gt=0)
    ] = 1.0
    webhook_retry_max_s: Annotated[
        float, _s("s", "Longest wait, also for an endpoint that asks for a longer one (Retry-After).", gt=0, le=3600)
    ] = 300.0
    webhook_breaker_failures: Annotated[
        int, _s("failures", "So many in a row, of whatever triggers, and the endpoint is left alone for a while.", ge=1)
    ] = 5
    webhook_breaker_s: Annotated[
        float, _s("s", "The while; doubled by each further failure, up to webhook_retry_max_s.", gt=0)
    ] = 15.0

    # -- embedded servers of `tracker up`
    data_dir: Annotated[str, _s("path", "Where `tracker up` keeps Kafka's and Redis's data.")] = "data"
    kafka_heap_mb: Annotated[int, _s("MB", "Heap of the embedded Kafka.", ge=256)] = 512

    webhooks: Annotated[tuple[Webhook, ...], _s("tables", "Endpoints that triggers are posted to: see above.")] = ()
    sites: Annotated[dict[str, Site], _s("table", "The sites, by name: see above.")] = {}


Network = IPv4Network | IPv6Network


def networks(text: str) -> tuple[Network, ...]:
    """'10.0.0.0/8, ::1' -> networks. Raises ValueError."""
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())
