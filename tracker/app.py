"""The endpoint as an ASGI app: the hot path first, FastAPI for everything else."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Container, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from tracker import compat, metrics, read_api, rejections, visitor_cookie
from tracker.contract.redis_url import reader
from tracker.contract.reload import Watch, keep_reloading
from tracker.contract.settings import Settings
from tracker.contract.topics import DEAD_LETTERS, EVENTS
from tracker.durable import Durable
from tracker.http_in import HttpIn, Receive, Scope, Send
from tracker.limits import Guard
from tracker.openapi import Documented
from tracker.snippet import add_snippet, snippet_paths
from tracker.waits import keep_telling

log = logging.getLogger(__name__)

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Event streaming tracker</title>
<style>body{font:16px/1.5 system-ui;margin:3rem auto;max-width:40rem;padding:0 1rem}</style>
<h1>Event streaming tracker</h1>
<p>This is the endpoint. Events go to <code>POST /v1/batch</code>; the snippet is at <a href="SNIPPET">SNIPPET</a>.</p>
<p><a href="/readyz">readiness</a> · <a href="/metrics">metrics</a> · <a href="/openapi.json">API</a></p></html>
"""


class Endpoint:
    """What tracker/serve.py runs. `drain()` comes first at the end: /readyz says 503 from then on."""

    def __init__(self, settings: Settings, watch: Watch | None = None) -> None:
        metrics.declare(settings.sites)
        self.settings = settings
        self._snippets = snippet_paths(settings.snippet_path)
        self._watch = watch
        self._reloading: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self.kafka = Durable(settings)
        self.redis = reader(settings.redis)
        self.draining = False
        self.stop_by_s: float | None = None
        """Monotonic time by which a stop must be over; set by who drains."""
        self.guard = Guard(settings)
        self.http_in = HttpIn(settings, self.kafka, self.guard)
        self.pages = _pages(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if path in self.http_in.routes:
                await self.http_in(scope, receive, send)
            elif path in compat.PIXELS:
                await compat.pixel(self.http_in, scope, send)
            else:
                await self._answer(path, scope, receive, send)
        else:
            await self.pages(scope, receive, send)

    async def _answer(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        started_s, status = time.perf_counter(), 500

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.pages(scope, receive, watched)
        finally:
            route = _route(path, self._snippets)
            # A stream lasts as long as its page is open: that is no duration of an answer.
            seconds = None if path == "/demo/live" else time.perf_counter() - started_s
            metrics.answered(route, scope["method"], status, seconds)

    def drain(self) -> None:
        """Say that it is not ready; go on answering."""
        self.draining = True
        if (live := getattr(self.pages.state, "live", None)) is not None:
            live.close()

    async def start(self) -> None:
        self.guard.fit_open_files()
        await self.kafka.start({EVENTS: self.settings.partitions, DEAD_LETTERS: None})
        self._telling = asyncio.create_task(keep_telling(self.redis, self.kafka.oldest_ms))
        metrics.CONFIG_LOADED.set_to_current_time()
        if self._watch is not None:
            keep = keep_reloading(self._watch, lambda: self.settings, self.reconfigure, metrics.CONFIG_FAILURES.inc)
            self._reloading = asyncio.create_task(keep)

    def reconfigure(self, settings: Settings) -> None:
        """Other sites, from the next request on."""
        self.settings = settings
        metrics.declare(settings.sites)
        self.http_in.keys.reconfigure(settings)
        metrics.CONFIG_LOADED.set_to_current_time()

    async def stop(self) -> None:
        if self._reloading is not None:
            self._reloading.cancel()
        left_s = self.settings.drain_s if self.stop_by_s is None else self.stop_by_s - time.monotonic()
        await self.kafka.stop(max(0.5, left_s))
        if self._telling is not None:  # Last: what is drained now may come late.
            self._telling.cancel()
        with suppress(Exception):  # nothing depends on how these connections end
            await self.redis.aclose()


def create_app(settings: Settings, watch: Watch | None = None) -> Endpoint:
    return Endpoint(settings, watch)


def _route(path: str, snippets: Container[str]) -> str:
    """A path as a label of metrics: a closed set."""
    if path in snippets:
        return "/t.js"
    if path in ("/livez", "/readyz"):
        return "/health"
    if path.startswith("/v1/projects/"):
        return "/v1/projects"
    first = "/" + path.split("/", 2)[1] if path.startswith("/") else ""
    return first if first in ("/api", "/demo", "/metrics", "/sourceConfig") else metrics.OTHER


def _pages(endpoint: Endpoint) -> FastAPI:
    settings = endpoint.settings

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await endpoint.start()
        try:
            yield
        finally:
            await endpoint.stop()

    # The usual pages of OpenAPI load their scripts from a CDN; the document itself does not.
    app = Documented(
        title="Event streaming tracker",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    _add_errors(app, endpoint.guard)

    @app.api_route("/livez", methods=["GET", "HEAD"], include_in_schema=False)
    async def livez() -> Response:
        return JSONResponse({"status": "ok"})

    @app.api_route("/readyz", methods=["GET", "HEAD"], include_in_schema=False)
    async def readyz() -> Response:
        if endpoint.draining:
            return JSONResponse({"status": "not ready", "reason": "stopping"}, 503)
        state = endpoint.kafka.state()
        if state.status == "ready":
            return JSONResponse({"status": "ready"})
        return JSONResponse(state._asdict(), 200 if state.status == "spooling" else 503)

    @app.get("/metrics", include_in_schema=False)
    async def metrics_page(request: Request) -> Response:
        if settings.processes > 1 and request.scope["server"][1] == settings.http_port:
            row = rejections.METRICS_BY_PROCESS
            return error(row.status, row.name, row.message, row.hint)
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    add_snippet(app, settings.snippet_path)

    @app.get("/", include_in_schema=False)
    async def start_page() -> Response:
        if settings.demo:
            return RedirectResponse("/demo/")
        return HTMLResponse(_PAGE.replace("SNIPPET", settings.snippet_path))

    keys, guard = endpoint.http_in.keys, endpoint.guard
    app.include_router(read_api.router(lambda: endpoint.settings, endpoint.redis, keys, guard))
    app.include_router(visitor_cookie.router(lambda: endpoint.settings, keys, guard))
    app.include_router(compat.router(lambda: endpoint.settings, keys, guard))
    if settings.demo:
        from tracker.live import mount

        mount(app, settings, endpoint.redis)
    return app


def error(status: int, code: str, message: str, hint: str, retry_after_s: int = 0) -> Response:
    """Every error has the form of http_in's: success, code, message, hint."""
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s else None
    body = {"success": False, "code": code, "message": message, "hint": hint}
    return JSONResponse(body, status, headers=headers)


def _add_errors(app: FastAPI, guard: Guard) -> None:
    async def api_error(_: Request, e: Exception) -> Response:
        assert isinstance(e, read_api.ApiError)
        retry_after_s = e.retry_after_s or (guard.retry_after_s() if e.status >= 500 else 0)
        return error(e.status, e.code, e.message, e.hint, retry_after_s)

    async def http_error(_: Request, e: Exception) -> Response:
        assert isinstance(e, HTTPException)
        row = {404: rejections.NOT_FOUND, 405: rejections.METHOD_NOT_ALLOWED}.get(e.status_code)
        if row is None:
            return error(e.status_code, "http_error", str(e.detail), "")
        response = error(row.status, row.name, row.message, row.hint)
        response.headers.update(e.headers or {})
        return response

    async def bad_query(_: Request, e: Exception) -> Response:
        assert isinstance(e, RequestValidationError)
        first = e.errors()[0]
        return error(400, "bad_request", f"{'.'.join(map(str, first['loc']))}: {first['msg']}", "See /openapi.json.")

    async def surprise(_: Request, e: Exception) -> Response:
        row = rejections.INTERNAL_ERROR
        return error(row.status, row.name, row.message, row.hint, guard.retry_after_s())

    app.add_exception_handler(read_api.ApiError, api_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, bad_query)
    app.add_exception_handler(Exception, surprise)
