"""The demo's stream: what a listener gets of the real path, and what it does not."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from tests.harness import DEMO, Stack, eventually
from tracker.embedded.process import free_port, wait_until

pytestmark = pytest.mark.integration


class Stream:
    """An open stream, read as a browser reads it."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Any = None
        self.messages: list[tuple[str, str, Any]] = []
        """(kind, id, data)"""
        self.ended = False

    def of(self, kind: str) -> list[Any]:
        return [data for k, _, data in self.messages if k == kind]

    def names(self) -> list[str]:
        return [event["name"] for event in self.of("event")]

    async def read(self, response: aiohttp.ClientResponse) -> None:
        fields: dict[str, str] = {}
        async for raw in response.content:
            line = raw.decode().rstrip("\n")
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                self.messages.append((fields["event"], fields.get("id", ""), json.loads(fields["data"])))
                fields = {}
            else:
                fields = {}
        self.ended = True


@asynccontextmanager
async def listen(base: str, anonymous_id: str, last_id: str = "") -> AsyncIterator[Stream]:
    stream = Stream()
    headers = {"Last-Event-ID": last_id} if last_id else {}
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(f"{base}/demo/live", params={"anonymousId": anonymous_id}, headers=headers) as response,
    ):
        stream.status, stream.headers = response.status, response.headers
        reading = asyncio.create_task(stream.read(response))
        try:
            yield stream
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


def track(anonymous_id: str, name: str, **properties: Any) -> dict[str, Any]:
    message = {"type": "track", "event": name, "messageId": str(uuid4()), "properties": properties}
    return {**message, "anonymousId": anonymous_id}


def has(stream: Stream, kind: str, count: int = 1) -> Callable[[], bool]:
    return lambda: len(stream.of(kind)) >= count


async def test_a_listener_gets_its_own_events_counters_and_trigger_but_nothing_else(stack: Stack) -> None:
    me, other = str(uuid4()), str(uuid4())
    async with listen(stack.http, me) as stream:
        assert stream.status == 200
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        assert stream.headers["X-Accel-Buffering"] == "no"
        await eventually(has(stream, "hello"))
        assert stream.of("hello")[0]["cart_idle_s"] == 5
        await eventually(lambda: {"stream": "live"} in stream.of("status"))
        cart = {"cart_id": f"C-{me}", "product_id": "tra", "price": 240000, "quantity": 2, "currency": "VND"}
        await stack.send(DEMO, track(other, "Product Added", **{**cart, "cart_id": f"C-{other}"}))
        await stack.send(DEMO, track(me, "Product Added", **cart))
        await eventually(has(stream, "event"))
        [event] = stream.of("event")
        assert (event["name"], event["type"], event["channel"]) == ("Product Added", "track", "site")
        assert abs(event["ts"] - time.time() * 1000) < 5000
        assert 0 <= event["latency_ms"] < 5000
        await eventually(has(stream, "trigger"))
        [trigger] = stream.of("trigger")
        assert trigger["kind"] == "cart_abandoned"
        assert trigger["data"]["value"] == 480000
        assert trigger["data"]["anonymousId"] == me
        counters = await eventually(lambda: stream.of("counters"))
        assert {"key", "count"} == set(counters[-1]["groups"][0])
        assert next(g["count"] for g in counters[-1]["groups"] if g["key"] == "Product Added") >= 2
        assert stream.names() == ["Product Added"]


async def test_one_that_comes_back_gets_what_it_missed_and_nothing_twice(stack: Stack) -> None:
    me = str(uuid4())
    async with listen(stack.http, me) as first:
        await eventually(lambda: {"stream": "live"} in first.of("status"))
        await stack.send(DEMO, track(me, "One"), track(me, "Two"))
        await eventually(has(first, "event", 2))
        last_id = first.messages[-1][1] if first.messages[-1][0] == "event" else first_id(first, "Two")
    await stack.send(DEMO, track(me, "Three"))
    async with listen(stack.http, me, last_id) as second:
        await eventually(has(second, "event"))
        await asyncio.sleep(0.5)
        assert second.names() == ["Three"]
    async with listen(stack.http, me) as fresh:  # a reload of the page: the whole story again
        await eventually(has(fresh, "event", 3))
        assert fresh.names() == ["One", "Two", "Three"]


def first_id(stream: Stream, name: str) -> str:
    return next(id for kind, id, data in stream.messages if kind == "event" and data["name"] == name)


async def test_hostile_names_and_ids_stay_inside_their_message(stack: Stack) -> None:
    me = str(uuid4())
    name = "x\n\nevent: trigger\ndata: {}\n\n<img src=x onerror=alert(1)>"
    async with listen(stack.http, me) as stream:
        await eventually(lambda: {"stream": "live"} in stream.of("status"))
        await stack.send(DEMO, {**track(me, name), "messageId": "a\nevent: trigger\ndata: 1\n\n"}, track(me, "After"))
        await eventually(has(stream, "event", 2))
        assert stream.names() == [name, "After"]
        assert stream.of("trigger") == []
        assert all(re.fullmatch(r"e[0-9a-f]{16}", id) for kind, id, _ in stream.messages if kind == "event")


async def test_an_event_of_another_site_that_names_the_listener_is_not_shown(stack: Stack) -> None:
    me, site = str(uuid4()), stack.site()
    async with listen(stack.http, me) as stream:
        await eventually(lambda: {"stream": "live"} in stream.of("status"))
        await stack.send(site, track(me, 'Not Yours "site":"demo"', note={"site": "demo"}))
        await stack.send(DEMO, track(me, "Yours"))
        await eventually(has(stream, "event"))
        await asyncio.sleep(0.5)
        assert stream.names() == ["Yours"]


async def test_without_an_id_there_is_a_clear_refusal(stack: Stack) -> None:
    for query in ("", "?anonymousId=", f"?anonymousId={'x' * 201}"):
        status, body = await stack.request("GET", f"/demo/live{query}")
        assert status == 400
        assert (body["success"], body["code"]) == (False, "anonymous_id_missing")
        assert body["hint"]


async def test_the_101st_listener_is_asked_to_come_back(stack: Stack) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        url = f"{stack.http}/demo/live?anonymousId=many"

        async def open_one() -> aiohttp.ClientResponse:
            response = await session.get(url)
            if response.status == 200:
                await response.content.readline()
            return response

        responses = [await open_one() for _ in range(101)]
        try:
            assert [r.status for r in responses] == [200] * 100 + [503]
            assert responses[-1].headers["Retry-After"]
            assert (await responses[-1].json())["code"] == "too_many_listeners"
        finally:
            for response in responses:
                response.close()

        status = 503
        for _ in range(50):
            async with session.get(url) as response:
                status = response.status
            if status == 200:
                break
            await asyncio.sleep(0.1)
        assert status == 200


async def test_the_shop_is_served_whole_and_again_only_when_it_has_changed(stack: Stack) -> None:
    async with aiohttp.ClientSession() as session:
        for path, content_type in {
            "/demo/": "text/html",
            "/demo/shop.js": "text/javascript",
            "/demo/shop.css": "text/css",
            "/demo/img/phin-nhom.svg": "image/svg+xml",
        }.items():
            async with session.get(stack.http + path) as response:
                assert response.status == 200, path
                assert response.headers["Content-Type"].startswith(content_type)
                assert response.headers["Cache-Control"] == "no-cache"
                etag = response.headers["ETag"]
            async with session.get(stack.http + path, headers={"If-None-Match": etag}) as response:
                assert response.status == 304, path
        async with session.get(f"{stack.http}/demo/../tracker.toml") as response:
            assert response.status == 404
        async with session.get(f"{stack.http}/demo/%2e%2e/%2e%2e/__init__.py") as response:
            assert response.status == 404


async def test_an_endpoint_that_stops_ends_its_streams_at_once(stack: Stack) -> None:
    port = free_port()
    endpoint = stack.command("endpoint-stopping", "serve", http_port=port).start()
    try:
        from tracker.cli.up import ready

        await asyncio.to_thread(wait_until, lambda: ready("127.0.0.1", port), [endpoint], 30, "the endpoint")
        async with listen(f"http://127.0.0.1:{port}", str(uuid4())) as stream:
            await eventually(has(stream, "hello"))
            started = time.monotonic()
            endpoint.terminate()
            await eventually(lambda: stream.ended)
            assert time.monotonic() - started < 4
    finally:
        endpoint.stop()
