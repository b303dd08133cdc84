"""Where events come in: every path that takes a POST of events, as a table."""

from __future__ import annotations

from typing import Final, NamedTuple

from tracker.contract.events import EVENT_TYPES


OK_BODY: Final = b'{"success":true}'


class Route(NamedTuple):
    metric: str
    """Its name in metrics: the labels are a closed set (tracker/metrics.py)."""
    type: str | None
    """The call it makes; None for a batch, whose items name their own."""
    ok: bytes = OK_BODY
    """The answer when every event is safe."""


ROUTES: Final[dict[str, Route]] = {
    **{f"/v1/{kind}": Route(f"/v1/{kind}", kind) for kind in EVENT_TYPES},
    **{f"/v1/{kind[0]}": Route(f"/v1/{kind}", kind) for kind in EVENT_TYPES},
    "/v1/batch": Route("/v1/batch", None),
    "/v1/b": Route("/v1/batch", None),
}
