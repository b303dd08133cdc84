"""Where events come in: every path that takes a POST of events, as a table. tracker/compat.py has what is a GET."""

from __future__ import annotations

from typing import Final, NamedTuple

from tracker.contract.events import EVENT_TYPES
from tracker.contract.settings import Settings

OK_BODY: Final = b'{"success":true}'
_JITSU_OK: Final = b'{"success":true,"ok":true}'


class Route(NamedTuple):
    metric: str
    """Its name in metrics: the labels are a closed set (tracker/metrics.py)."""
    type: str | None = None
    """The call it makes; None: the body says."""
    batch: bool = False
    """The body is {"batch": [...]}, whose items say their types."""
    ok: bytes = OK_BODY
    """The answer when every event is safe."""


_JITSU: Final[dict[str, Route]] = {
    **{kind: Route("/api/s", kind, ok=_JITSU_OK) for kind in EVENT_TYPES},
    "event": Route("/api/s", ok=_JITSU_OK),
    "batch": Route("/api/s", batch=True, ok=_JITSU_OK),
}

ROUTES: Final[dict[str, Route]] = {
    **{f"/v1/{kind}": Route(f"/v1/{kind}", kind) for kind in EVENT_TYPES},
    **{f"/v1/{kind[0]}": Route(f"/v1/{kind}", kind) for kind in EVENT_TYPES},
    "/v1/batch": Route("/v1/batch", batch=True),
    "/v1/b": Route("/v1/batch", batch=True),
    # RudderStack
    "/v1/merge": Route("/v1/merge", "merge"),
    "/beacon/v1/batch": Route("/beacon/v1/batch", batch=True),
    # Jitsu, from pages and from servers
    **{f"/api/s/{kind}": route for kind, route in _JITSU.items()},
    **{f"/api/s/s2s/{kind}": route for kind, route in _JITSU.items()},
}


def routes_of(settings: Settings) -> dict[str, Route]:
    """ROUTES, and the path of batches that this installation has besides."""
    return {**ROUTES, settings.batch_path: ROUTES["/v1/batch"]} if settings.batch_path else ROUTES
