"""What `tracker.toml` says of a site, `[sites.NAME]`, and of a webhook, `[[webhooks]]`:

    [sites.shop]
    write_key = "..."            # in the snippet; may only send events
    secret_key = "..."           # on servers; reads, and imports with past timestamps
    origins = ["https://shop.example"]
    time_zone = "Asia/Ho_Chi_Minh"
    ip = "truncate"              # what of a visitor's address goes to Kafka: keep, truncate (/24, of IPv6 /48) or drop
    bots = "flag"                # programs' events: flag (they are marked) or drop
    consent = "optional"         # ignore what events say of it; optional: a no counts, silence is a yes;
                                 # required: in pages only a yes is a yes
    consent_category = "analytics"  # the category of context.consent.categoryPreferences that counts here
    without_consent = "drop"     # or anonymous: what happened is kept, ids, traits and address are not

    [sites.shop.triggers]        # which triggers may come of a message to a person: docs/triggers.md
    consent = "optional"
    cap = 3
    kind_caps = { cart_abandoned = 1 }
    quiet_hours = "21:00-08:00"
    quiet = "delay"

    [sites.shop.links]           # what triggers name
    cart = "https://shop.example/cart"

    [[webhooks]]                 # triggers for what does not read Kafka: docs/triggers.md
    name = "n8n"
    url = "https://n8n.example/webhook/tracker"
    secret = "whsec_..."

[sites.shop.score] and [sites.shop.lead]: tracker/contract/scoring.py. [sites.shop.browse], .reorder, .usage and
.engagement: tracker/contract/retention.py. [[sites.shop.segments]], [[sites.shop.rules]], [sites.shop.surveys] and
[sites.shop.reviews]: docs/signals.md.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Meta, Struct

from tracker.contract import predicates, retention, scoring
from tracker.contract.predicates import Rule, Segment
from tracker.contract.retention import BrowseRules, FallingRules, ReorderRules
from tracker.contract.scoring import (  # the reference page shows FitRule and OwnIndicator
    FitRule,  # noqa: F401
    LeadRules,
    OwnIndicator,  # noqa: F401
    ScoreRules,
)
from tracker.contract.signature import key_of
from tracker.contract.triggers import TRIGGER_KINDS

DEFAULT_TIME_ZONE: Final = "Asia/Ho_Chi_Minh"
MAX_GOALS: Final = 20

_QUIET_HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])").fullmatch
_ORIGIN = re.compile(r"null|[a-z][a-z0-9+.-]*://[^/\s*]+/?", re.IGNORECASE).fullmatch
_DOMAIN = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+", re.IGNORECASE).fullmatch
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}").fullmatch
_LINK = re.compile(r"https?://[^\s]+").fullmatch


class TriggerPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """What a site lets through of triggers that a message to a person comes of (docs/triggers.md)."""

    consent: Literal["required", "optional", "ignore"] = "optional"
    """required: a yes on one channel. optional: silence is a yes on email, a no on sms, zns, zalo, viber, webpush. Who
    said no on all channels gets nothing, also with ignore."""
    cap: Annotated[int, Meta(ge=0, le=50)] = 0
    """Most triggers of all kinds that a message comes of, a profile within cap_h; 0: no limit."""
    kind_caps: dict[str, Annotated[int, Meta(ge=1, le=50)]] = {}
    """The same of a kind: { cart_abandoned = 1 }."""
    cap_h: Annotated[float, Meta(gt=0, le=168)] = 24.0
    quiet_hours: str = ""
    """Local time of the site, "21:00-08:00"; empty: none."""
    quiet: Literal["delay", "suppress"] = "delay"
    """What becomes of a trigger in quiet hours: it waits for their end, if it is still true then, or is dropped."""


class Links(Struct, frozen=True, forbid_unknown_fields=True):
    """Addresses of a site that its triggers name."""

    site: str = ""
    cart: str = ""
    checkout: str = ""
    unsubscribe: str = ""


class Webhook(Struct, frozen=True, forbid_unknown_fields=True):
    """One endpoint that triggers are posted to (docs/triggers.md): a table [[webhooks]]."""

    name: str
    """Its own: the consumer group, metrics and dead letters go by it."""
    url: str
    secret: str | tuple[str, ...]
    """whsec_ and base64 of 24 to 64 random bytes. Two while a secret is changed: the request is signed by both."""
    sites: tuple[str, ...] = ()
    """Empty: all."""
    kinds: tuple[str, ...] = ()
    """Of triggers; empty: all."""
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 10.0
    """Of one try."""
    attempts: Annotated[int, Meta(ge=1, le=20)] = 8
    """Then the trigger is a dead letter."""
    in_flight: Annotated[int, Meta(ge=1, le=64)] = 8
    """Most requests at once."""
    paused: bool = False
    """Nothing is sent; what comes meanwhile waits in Kafka, as long as that keeps it."""
    allow_http: bool = False
    """A URL without TLS may be."""
    allow_private: bool = False
    """The endpoint may be in a private network, or on this machine."""

    @property
    def secrets(self) -> tuple[str, ...]:
        return (self.secret,) if isinstance(self.secret, str) else self.secret

    def __repr__(self) -> str:
        return f"Webhook({self.name!r})"


class SurveyRules(Struct, frozen=True, forbid_unknown_fields=True):
    """`[sites.NAME.surveys]`: when a person is asked how it was (domain: A011, A462)."""

    after_order: Annotated[bool, Meta(description="After an order, `order_delay_d` later.")] = True
    order_delay_d: Annotated[float, Meta(description="Days from the order to the question.", ge=0, le=365)] = 3.0
    after_goal: Annotated[
        tuple[str, ...], Meta(description="Names of track events at which the question is asked at once.")
    ] = ()
    after_session: Annotated[
        bool,
        Meta(
            description="When a session is over: 30 minutes after the last visit, or at a Session Ended of the site's "
            "own. It costs a look at each event."
        ),
    ] = False
    at_churn: Annotated[bool, Meta(description="When the churn signal goes on.")] = True
    at_falling: Annotated[bool, Meta(description="When usage or engagement is told to have fallen.")] = False
    gap_d: Annotated[
        float, Meta(description="A person is asked once in so many days, whatever for.", gt=0, le=3650)
    ] = 30.0


class ReviewRules(Struct, frozen=True, forbid_unknown_fields=True):
    """`[sites.NAME.reviews]`: when a person is asked for a review (domain: A474)."""

    delay_d: Annotated[float, Meta(description="Days from the delivery to the question.", ge=0, le=365)] = 7.0
    wait_d: Annotated[
        float,
        Meta(
            description="So long an order waits after that for an answer that shows the person is happy.", ge=0, le=365
        ),
    ] = 30.0
    nps: Annotated[int, Meta(description="Least NPS (0 to 10) of a happy person.", ge=0, le=10)] = 9
    csat: Annotated[float, Meta(description="Least CSAT of a happy person, of a scale to 5.", ge=1, le=5)] = 4.0


class Site(Struct, frozen=True, forbid_unknown_fields=True):
    """One site of `tracker.toml`."""

    write_key: str
    secret_key: str
    origins: tuple[str, ...] = ()
    cookie_domain: Annotated[
        str,
        Meta(
            description="With a domain, `shop.example`, the endpoint on a subdomain of it sets the visitor's cookie "
            "where the snippet asks for it (`data-cookie`): Safari forgets a script's cookies after 7 days. See "
            "docs/snippet.md."
        ),
    ] = ""
    time_zone: str = DEFAULT_TIME_ZONE
    ip: Literal["keep", "truncate", "drop"] = "truncate"
    bots: Literal["flag", "drop"] = "flag"
    consent: Literal["ignore", "optional", "required"] = "optional"
    consent_category: str = "analytics"
    without_consent: Literal["drop", "anonymous"] = "drop"
    triggers: TriggerPolicy = TriggerPolicy()
    links: Links = Links()
    score: Annotated[ScoreRules, Meta(description="What engagement is worth.")] = ScoreRules()
    lead: Annotated[LeadRules, Meta(description="When a lead is qualified.")] = LeadRules()
    activity: Annotated[
        bool,
        Meta(
            description="Keep sessions, their frequency and active days of every person, for the profile API: it costs "
            "a look at each event. Segments and rules that ask for them need no such setting."
        ),
    ] = False
    segments: tuple[Segment, ...] = ()
    rules: tuple[Rule, ...] = ()
    surveys: SurveyRules = SurveyRules()
    reviews: ReviewRules = ReviewRules()
    browse: Annotated[BrowseRules, Meta(description="When what was looked at is left.")] = BrowseRules()
    reorder: Annotated[ReorderRules, Meta(description="When the next order is due.")] = ReorderRules()
    usage: Annotated[FallingRules, Meta(description="When usage has fallen.")] = FallingRules()
    engagement: Annotated[FallingRules, Meta(description="When visits and answers to messages have.")] = FallingRules()


def quiet_minutes(text: str) -> tuple[int, int] | None:
    """'21:00-08:00' -> minutes of the local day (1260, 480); '' -> None. Raises ValueError."""
    if not text:
        return None
    if (match := _QUIET_HOURS(text.strip())) is None:
        raise ValueError(f"'{text}' is no time like 21:00-08:00")
    a, b, c, d = (int(part) for part in match.groups())
    if (a, b) == (c, d):
        raise ValueError(f"'{text}' is a whole day")
    return a * 60 + b, c * 60 + d


def check(name: str, site: Site) -> None:
    """What its types don't say. Raises ValueError with what can't be. (Keys: tracker/contract/loading.py.)"""
    if not _NAME(name):
        raise ValueError("a site's name is lower-case letters, digits, - and _, 40 at most")
    try:
        ZoneInfo(site.time_zone)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        raise ValueError(f"time_zone: '{site.time_zone}' is no time zone like Asia/Ho_Chi_Minh or UTC") from None
    for origin in site.origins:
        if not _ORIGIN(origin):
            raise ValueError(f"origins: '{origin}' is no origin like https://shop.example; [] allows pages of any")
    if site.cookie_domain and not _DOMAIN(site.cookie_domain):
        raise ValueError(f"cookie_domain: '{site.cookie_domain}' is no domain like shop.example")
    _check_triggers(site)
    predicates.check(site.segments, site.rules)
    if len(site.surveys.after_goal) > MAX_GOALS:
        raise ValueError(f"surveys.after_goal: at most {MAX_GOALS} names")
    scoring.check(site.score, site.lead)
    retention.check(site.reorder, {"usage": site.usage, "engagement": site.engagement})


def _check_triggers(site: Site) -> None:
    try:
        quiet_minutes(site.triggers.quiet_hours)
    except ValueError as e:
        raise ValueError(f"triggers.quiet_hours: {e}") from None
    kinds = [kind.name for kind in TRIGGER_KINDS if kind.marketing]
    for kind in site.triggers.kind_caps:
        if kind not in kinds:
            raise ValueError(f"triggers.kind_caps: '{kind}' is none of {', '.join(kinds)}")
    for link in ("site", "cart", "checkout", "unsubscribe"):
        url = getattr(site.links, link)
        if url and (len(url) > 500 or not _LINK(url)):
            raise ValueError(f"links.{link}: '{url[:80]}' is no address like https://shop.example/cart")


def check_webhooks(hooks: Iterable[Webhook], sites: Container[str]) -> None:
    """Raises ValueError with what can't be, and of which one."""
    names: set[str] = set()
    kinds = [kind.name for kind in TRIGGER_KINDS]
    for hook in hooks:
        where = f"webhook '{hook.name}'"
        if not _NAME(hook.name) or hook.name in names:
            raise ValueError(f"{where}: names are lower-case letters, digits, - and _, 40 at most, each used once")
        names.add(hook.name)
        if not _LINK(hook.url) or len(hook.url) > 2000:
            raise ValueError(f"{where}: its url is no address like https://n8n.example/webhook/tracker")
        if hook.url.startswith("http://") and not hook.allow_http:
            raise ValueError(f"{where}: its url is not https; allow_http = true if that is meant")
        if not 1 <= len(hook.secrets) <= 2:
            raise ValueError(f"{where}: it has one secret, or two while it is changed")
        for secret in hook.secrets:
            try:
                key_of(secret)
            except ValueError as e:
                raise ValueError(f"{where}: {e}") from None
        if unknown := set(hook.kinds) - set(kinds):
            raise ValueError(f"{where}: kind '{min(unknown)}' is none of {', '.join(kinds)}")
        if unknown := {site for site in hook.sites if site not in sites}:
            raise ValueError(f"{where}: there is no site '{min(unknown)}'")
