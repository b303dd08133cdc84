"""The visitor's cookie, set by the endpoint: browsers that forget a script's cookies after 7 days keep those of a
site's own server longer.

    POST /v1/batch/id?writeKey=KEY&id=ANONYMOUS_ID    (behind `batch_path`, too)

The snippet asks for it with `data-cookie="server"` once a visit, and only where it may store anything
itself. It is the same cookie that the snippet writes, and not HttpOnly: a no takes it away in the browser. It is set
where the site has a `cookie_domain`, and only for its own pages (Origin): another page can give nobody an id.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tracker import cors, metrics
from tracker.contract.events import MAX_ID_CHARS
from tracker.contract.settings import Settings
from tracker.keys import Keys, Owner
from tracker.limits import Guard
from tracker.post import error_body
from tracker.rejections import ORIGIN_NOT_ALLOWED, Refusal, refuse

MAX_AGE_S: Final = 31_536_000
UNESCAPED: Final = "!~*'()"
"""What encodeURIComponent leaves as it is, beside what quote() does: the snippet compares the two."""


def router(current: Callable[[], Settings], keys: Keys, guard: Guard) -> APIRouter:
    routes = APIRouter(include_in_schema=False)

    async def set_cookie(request: Request) -> Response:
        query = request.scope["query_string"]
        found = guard.limits.guess(keys.in_open(None, query), guard.sender(request.scope)[1], time.perf_counter())
        answer = (
            found if isinstance(found, Refusal) else cookie_of(current(), found, request.headers.get("origin"), query)
        )
        if isinstance(answer, Refusal):
            metrics.REJECTED[answer.rejection.name].inc()
            return Response(error_body(answer), answer.rejection.status, media_type="application/json")
        return Response(status_code=204, headers={"Set-Cookie": answer} if answer else None)

    for path in {"/v1/batch", current().batch_path} - {""}:
        routes.add_api_route(f"{path}/id", set_cookie, methods=["POST"])
    return routes


def cookie_of(settings: Settings, owner: Owner, origin: str | None, query: bytes) -> str | Refusal:
    """The value of Set-Cookie; '': the site wants none, or there is no id to set."""
    site = settings.sites.get(owner.site)
    domain = site.cookie_domain.lower() if site else ""
    if not domain:
        return ""
    scheme, host = _origin(origin or "")
    if not cors.allowed(owner, (origin or "").encode()) or not (host == domain or host.endswith(f".{domain}")):
        return refuse(ORIGIN_NOT_ALLOWED)
    visitor = parse_qs(query.decode("latin-1")).get("id", [""])[0]
    if not 0 < len(visitor) <= MAX_ID_CHARS:
        return ""
    secure = "; Secure" if scheme == "https" else ""
    name = f"trk_anonymous_id={quote(visitor, safe=UNESCAPED)}"
    return f"{name}; Path=/; Max-Age={MAX_AGE_S}; SameSite=Lax; Domain={domain}{secure}"


def _origin(text: str) -> tuple[str, str]:
    try:
        parts = urlsplit(text)
        return parts.scheme, (parts.hostname or "")
    except ValueError:
        return "", ""
