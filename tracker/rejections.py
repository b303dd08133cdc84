"""Every way in which the endpoint refuses something, by name. The name is the `code` of the answer, the reason of
a dead letter and the label of a metric; the reference page lists this table.

4xx other than 408 and 429 tell a client never to send the same again; 408, 429 and 5xx ask it to try later and carry
Retry-After.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct


class Rejection(Struct, frozen=True):
    name: str
    status: int
    """HTTP status when it is the answer to a whole request. An item of a batch goes to the dead letters instead."""
    message: str
    hint: str
    """What would do instead."""

    @property
    def drops(self) -> bool:
        """It is as the site wants it: the request is a success, and nothing is kept of the event, no dead letter."""
        return self.status == 200

    @property
    def asks_again(self) -> bool:
        """Clients shall send the same again later: the answer carries Retry-After."""
        return self.status in (408, 429) or self.status >= 500


class Refusal(Struct, frozen=True):
    """One refusal as it happened."""

    rejection: Rejection
    detail: str = ""
    retry_after_s: int = 0
    """When to send again; 0: the setting retry_after_s."""


# -- about the request
MISSING_KEY: Final = Rejection(
    "missing_key",
    401,
    "There is no write key.",
    'Send it as the Basic user name, in X-Write-Key, as "writeKey" in the body, or as ?writeKey=.',
)
INVALID_KEY: Final = Rejection(
    "invalid_key",
    401,
    "The key is not known here.",
    "Compare it with the site's keys in tracker.toml.",
)
MISPLACED_SECRET_KEY: Final = Rejection(
    "misplaced_secret_key",
    401,
    "A secret key was sent in the body or the address.",
    "Secret keys go into the Authorization or X-Write-Key header only; in pages use the write key.",
)
ORIGIN_NOT_ALLOWED: Final = Rejection(
    "origin_not_allowed",
    403,
    "Pages of this origin may not send to this site.",
    "Add the origin to the site's `origins` in tracker.toml.",
)
NOT_FOUND: Final = Rejection(
    "not_found",
    404,
    "There is nothing at this address.",
    "Events go to /v1/track, /v1/page, /v1/screen, /v1/identify, /v1/group, /v1/alias or /v1/batch; "
    "what can be read stands in /openapi.json.",
)
METHOD_NOT_ALLOWED: Final = Rejection(
    "method_not_allowed",
    405,
    "This address does not take this method.",
    "Send events with POST.",
)
METRICS_BY_PROCESS: Final = Rejection(
    "metrics_by_process",
    404,
    "Several processes share this port, and each counts for itself.",
    "Scrape each at its own port: metrics_port, metrics_port + 1, ...",
)
HEAD_TIMEOUT: Final = Rejection(
    "head_timeout",
    408,
    "The headers did not arrive in time.",
    "Send again; the limit is the setting head_timeout_s.",
)
BODY_TIMEOUT: Final = Rejection(
    "body_timeout",
    408,
    "The body did not arrive in time.",
    "Send again, in smaller batches if the line is slow.",
)
MALFORMED_REQUEST: Final = Rejection(
    "malformed_request",
    400,
    "This is no valid request, or one that could be read in two ways.",
    "Send one Host, one Content-Length or `Transfer-Encoding: chunked`, and lines that end with CR LF.",
)
URL_TOO_LONG: Final = Rejection(
    "url_too_long",
    414,
    "The address is too long.",
    "Send events in the body of a POST; the limit is the setting max_url_bytes.",
)
HEADERS_TOO_LARGE: Final = Rejection(
    "headers_too_large",
    431,
    "There are too many headers, or they are too large.",
    "Send fewer cookies; the limits are the settings max_headers and max_head_bytes.",
)
RATE_LIMITED: Final = Rejection(
    "rate_limited",
    429,
    "Too much was sent in a short time.",
    "Send again after Retry-After; the limits are the settings rate_limit_key_events_s and rate_limit_ip_requests_s.",
)
TOO_MANY_BAD_KEYS: Final = Rejection(
    "too_many_bad_keys",
    429,
    "Too many unknown keys came from this address.",
    "Compare the key with the site's keys in tracker.toml; the limit is the setting rate_limit_bad_keys_s.",
)
REQUEST_TOO_LARGE: Final = Rejection(
    "request_too_large",
    413,
    "The body is too large.",
    "Send smaller batches; the limit is the setting max_request_bytes.",
)
TOO_MANY_EVENTS: Final = Rejection(
    "too_many_events",
    413,
    "The batch has too many events.",
    "Split it; the limit is the setting max_batch_events.",
)
UNSUPPORTED_ENCODING: Final = Rejection(
    "unsupported_encoding",
    415,
    "The Content-Encoding is not known here.",
    "Send the body as it is, or with gzip, deflate, br or zstd.",
)
BAD_COMPRESSION: Final = Rejection(
    "bad_compression",
    400,
    "The compressed body is damaged.",
    "Send one complete stream of the encoding that Content-Encoding names.",
)
INVALID_JSON: Final = Rejection(
    "invalid_json",
    400,
    "The body is not valid JSON.",
    "Send one JSON object in UTF-8, without NaN or Infinity.",
)
INVALID_BATCH: Final = Rejection(
    "invalid_batch",
    400,
    "The body is not a batch.",
    'A batch is {"batch": [ ...events... ]}.',
)

# -- about one event
WRONG_TYPE: Final = Rejection(
    "wrong_type",
    400,
    "A field has a wrong type.",
    "docs/reference/events.md lists the fields and their types.",
)
UNKNOWN_TYPE: Final = Rejection(
    "unknown_type",
    400,
    'The event\'s "type" is missing or not known.',
    "Use track, page, screen, identify, group or alias.",
)
MISSING_ID: Final = Rejection(
    "missing_id",
    400,
    "The event names nobody.",
    "Set userId or anonymousId.",
)
MISSING_EVENT: Final = Rejection(
    "missing_event",
    400,
    "A track event has no name.",
    'Set "event", for example "Product Added".',
)
FIELD_TOO_LONG: Final = Rejection(
    "field_too_long",
    400,
    "An id or a name is too long.",
    "Ids and names have at most 200 characters.",
)
BAD_TIMESTAMP: Final = Rejection(
    "bad_timestamp",
    400,
    "A time can't be read.",
    "Use ISO 8601, for example 2026-01-02T03:04:05.678Z.",
)
TOO_DEEP: Final = Rejection(
    "too_deep",
    400,
    "The JSON is nested too deeply.",
    "Nest objects and arrays at most 32 levels deep.",
)
BAD_NUMBER: Final = Rejection(
    "bad_number",
    400,
    "A number is too large.",
    "Send integers of at most 64 bits and numbers that a double can hold; send longer ones as texts.",
)
EVENT_TOO_LARGE: Final = Rejection(
    "event_too_large",
    413,
    "The event is too large.",
    "Send less in one event; the limit is the setting max_event_bytes.",
)

# -- by the site's policy: nothing is wrong with them, so their sender is told 200, and nothing of them is kept
BOT: Final = Rejection(
    "bot",
    200,
    "The event is a program's, and the site drops those.",
    "Set `bots` of the site to 'flag' to keep and mark them.",
)
NO_CONSENT: Final = Rejection(
    "no_consent",
    200,
    "The person has not consented.",
    "Set `without_consent` of the site to 'anonymous' to keep what happened without who it was.",
)

# -- about us: send again
KAFKA_UNAVAILABLE: Final = Rejection(
    "kafka_unavailable",
    503,
    "Kafka did not take the events.",
    "Send them again later, with the same messageIds.",
)
OVERLOADED: Final = Rejection(
    "overloaded",
    503,
    "Too many events are waiting for Kafka.",
    "Send them again later, with the same messageIds.",
)
TOO_MANY_CONNECTIONS: Final = Rejection(
    "too_many_connections",
    503,
    "Too many connections are open.",
    "Connect again later; the limits are the settings max_connections and max_ip_connections.",
)
TOO_MANY_BODIES: Final = Rejection(
    "too_many_bodies",
    503,
    "Too many bodies are arriving at once.",
    "Send them again later; the limit is the setting max_inflight_bytes.",
)
SPOOL_FULL: Final = Rejection(
    "spool_full",
    503,
    "Kafka does not take events, and no more go to the disk.",
    "Send them again later, with the same messageIds; the limit is the setting spool_max_bytes.",
)
INTERNAL_ERROR: Final = Rejection(
    "internal_error",
    500,
    "The endpoint failed.",
    "Send again later; the endpoint's log has the cause.",
)

REJECTIONS: Final[tuple[Rejection, ...]] = tuple(row for row in vars().values() if isinstance(row, Rejection))

REASONS: Final[tuple[str, ...]] = tuple(row.name for row in REJECTIONS)


def refuse(rejection: Rejection, detail: str = "") -> Refusal:
    return Refusal(rejection, detail)
