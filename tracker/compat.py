"""What the clients of other vendors ask for with GET: where to send, and pixels.

    Segment      GET /v1/projects/{key}/settings
    RudderStack  GET /sourceConfig/
    RudderStack  GET /pixel/v1/track, /pixel/v1/page: an event as the address of an image

What they POST is in tracker/routes.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tracker import cors, metrics
from tracker.contract.settings import Settings
from tracker.http_in import Awaited, HttpIn, Scope, Send
from tracker.keys import Keys, Owner
from tracker.limits import Guard
from tracker.post import error_body
from tracker.proxies import Proxies
from tracker.rejections import METHOD_NOT_ALLOWED, Refusal
from tracker.routes import Route

SETTINGS_MAX_AGE_S: Final = 300
"""How long browsers use a client's settings without asking."""
MAX_DOTS: Final = 8
"""Deepest nesting that a pixel's dotted parameter makes."""
GIF: Final = (
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00"
    b"\x01\x00\x01\x00\x00\x02\x01D\x00;"
)
"""One transparent point."""

PIXELS: Final[dict[str, Route]] = {
    "/pixel/v1/track": Route("/pixel", "track"),
    "/pixel/v1/page": Route("/pixel", "page"),
}
_FLAT: Final = frozenset(
    ("anonymousId", "userId", "event", "name", "category", "messageId", "timestamp", "originalTimestamp", "sentAt")
)
_NESTED: Final = frozenset(("context", "properties"))

_encode = msgspec.json.Encoder().encode


# -- settings


def router(current: Callable[[], Settings], keys: Keys, guard: Guard) -> APIRouter:
    settings = current()
    routes = APIRouter(include_in_schema=False)
    proxies = guard.proxies

    @routes.get("/v1/projects/{key}/settings")
    async def segment(key: str, request: Request) -> Response:
        ip = guard.sender(request.scope)[1]
        owner = guard.limits.guess(keys.in_open(key, b""), ip, time.perf_counter())
        return _settings(owner, {} if isinstance(owner, Refusal) else _segment(key, _base(settings, proxies, request)))

    @routes.get("/sourceConfig")
    @routes.get("/sourceConfig/")
    async def rudder(request: Request) -> Response:
        headers, ip = guard.sender(request.scope)
        found_key = keys.in_head(headers) or keys.in_open(None, request.scope["query_string"])
        owner = guard.limits.guess(found_key, ip, time.perf_counter())
        found = {} if isinstance(owner, Refusal) else _rudder(current(), owner, _base(settings, proxies, request))
        return _settings(owner, found)

    @routes.options("/v1/projects/{key}/settings")
    @routes.options("/sourceConfig")
    @routes.options("/sourceConfig/")
    async def preflight(request: Request) -> Response:
        response = Response(status_code=204)
        response.raw_headers += cors.preflight(None, dict(request.scope["headers"]))
        return response

    return routes


def _settings(owner: Owner | Refusal, found: dict[str, Any]) -> Response:
    """Nothing of it is secret, so pages of every origin may read it: it is sending that a site's origins limit."""
    if isinstance(owner, Refusal):
        metrics.REJECTED[owner.rejection.name].inc()
        response = Response(error_body(owner), owner.rejection.status, media_type="application/json")
        if owner.retry_after_s:
            response.headers["Retry-After"] = str(owner.retry_after_s)
    else:
        response = Response(_encode(found), media_type="application/json")
        response.headers["Cache-Control"] = f"private, max-age={SETTINGS_MAX_AGE_S}"
    response.raw_headers += cors.ANY_ORIGIN
    return response


def _base(settings: Settings, proxies: Proxies, request: Request) -> str:
    """Address under which the client reached the endpoint, without a slash at its end."""
    if settings.public_url:
        return settings.public_url.rstrip("/")
    peer = request.client.host if request.client else ""
    told = request.headers.get("x-forwarded-proto") if peer in proxies else None
    return f"{'https' if told == 'https' else 'http'}://{request.headers.get('host', '')}"


def _segment(key: str, base: str) -> dict[str, Any]:
    """What @segment/analytics-next and the mobile clients read: no destination but us, and no metrics to Segment."""
    protocol, _, host = base.partition("://")
    ours = {"apiKey": key, "apiHost": f"{host}/v1", "protocol": protocol, "addBundledMetadata": True}
    return {
        "integrations": {"Segment.io": ours},
        "plan": {},
        "edgeFunction": {},
        "middlewareSettings": {},
        "enabledMiddleware": {},
        "metrics": {"sampleRate": 0},
        "legacyVideoPluginsEnabled": False,
        "remotePlugins": [],
    }


def _rudder(settings: Settings, owner: Owner, base: str) -> dict[str, Any]:
    """What @rudderstack/analytics-js and the mobile clients read: a source without destinations, no error reports."""
    quiet = {"errors": {"enabled": False}, "metrics": {"enabled": False}}
    return {
        "isHosted": False,
        "source": {
            "id": owner.site,
            "name": owner.site,
            "writeKey": settings.sites[owner.site].write_key,
            "workspaceId": owner.site,
            "enabled": True,
            "config": {"statsCollection": quiet},
            "destinations": [],
            "connections": [],
            "dataplanes": {"US": [{"url": base, "default": True}]},
        },
    }


# -- pixels


class _Pixel(Awaited):
    method = "GET"


async def pixel(http_in: HttpIn, scope: Scope, send: Send) -> None:
    """Answer a request whose path is in PIXELS: always with the image, a refusal is in its status and X-Refused."""
    route, query, method = PIXELS[scope["path"]], scope["query_string"], scope["method"]
    refused, status = None, 200
    if method == "GET":
        post = _Pixel(route, *http_in.guard.sender(scope), query)
        http_in.take(post, _encode(event_of(query)))
        answer = await post.answered
        status = answer.status
        if status != 200:
            refused = msgspec.json.decode(answer.body)["code"].encode()
    elif method != "HEAD":  # HEAD comes from scanners of mail: nobody saw the image
        status, refused = METHOD_NOT_ALLOWED.status, METHOD_NOT_ALLOWED.name.encode()
        metrics.REJECTED[METHOD_NOT_ALLOWED.name].inc()
    if method != "GET":
        metrics.answered(route.metric, method, status, None)
    headers = [(b"content-type", b"image/gif"), (b"content-length", b"%d" % len(GIF)), (b"cache-control", b"no-store")]
    if refused is not None:
        headers.append((b"x-refused", refused))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else GIF})


def event_of(query: bytes) -> dict[str, Any]:
    """Flat parameters -> an event: `context.page.path=/` nests by its dots, other unknown names are left out.

    Values stay texts: nothing of them is decoded further. Of two values for the same place the first stands.
    """
    event: dict[str, Any] = {}
    for name, value in parse_qsl(query.decode("utf-8", "replace")):
        first, *rest = name.split(".", MAX_DOTS)
        if not rest and first in _FLAT:
            # AMP puts quotes around the ids of its own.
            event.setdefault(first, value.strip('"') if first == "anonymousId" else value)
        elif rest and first in _NESTED:
            _nest(event.setdefault(first, {}), rest, value)
    return event


def _nest(target: dict[str, Any], path: list[str], value: str) -> None:
    for part in path[:-1]:
        inner = target.setdefault(part, {})
        if not isinstance(inner, dict):
            return
        target = inner
    target.setdefault(path[-1], value)
