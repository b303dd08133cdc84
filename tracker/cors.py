"""CORS: pages of every origin may send, unless the site lists its origins (`null` among them, where it wants pages of
files and sandboxes).

Without credentials: who sends is told by the key. Access-Control-Request-Private-Network is not answered: a tracker
inside a network is for its pages, not for those of the internet.
"""

from __future__ import annotations

from typing import Final

from tracker.keys import Owner

Header = tuple[bytes, bytes]

ANY_ORIGIN: Final[tuple[Header, ...]] = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"Retry-After"),
)
_PREFLIGHT: Final = (
    (b"access-control-allow-methods", b"POST, GET, OPTIONS"),
    (b"access-control-max-age", b"86400"),
    (b"vary", b"Origin, Access-Control-Request-Headers"),
)
MAX_ASKED_BYTES: Final = 1000


def allowed(owner: Owner, origin: bytes | None) -> bool:
    """May a page of this origin send? Servers have no origin, and a secret key is not in any page."""
    return not owner.origins or origin is None or owner.source != "client" or origin.lower() in owner.origins


def headers(owner: Owner, origin: bytes | None) -> tuple[Header, ...]:
    """Of an answer to a site's page. One of the listed origins is echoed, others get none."""
    if not owner.origins:
        return ANY_ORIGIN
    if origin is None or origin.lower() not in owner.origins:
        return ((b"vary", b"Origin"),)
    return (
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", b"Retry-After"),
        (b"vary", b"Origin"),
    )


def preflight(owner: Owner | None, request: dict[bytes, bytes]) -> tuple[Header, ...]:
    """A preflight seldom tells the key, so it allows what some site may allow; the answer to POST is exact."""
    cors = ANY_ORIGIN if owner is None else headers(owner, request.get(b"origin"))
    asked = request.get(b"access-control-request-headers", b"")[:MAX_ASKED_BYTES]
    return (*cors, *_PREFLIGHT, *(((b"access-control-allow-headers", asked),) if asked else ()))
