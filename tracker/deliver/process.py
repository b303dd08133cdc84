"""`tracker webhooks deliver`: the process. It runs the endpoints of tracker.toml, as that is now.

An endpoint that was changed ends as at a stop, and begins again under the same consumer group: what was under way is
sent once more, nothing is left out. One that was removed or paused leaves its group, whose offsets Kafka keeps.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from aiohttp import web
from aiokafka import AIOKafkaProducer
from prometheus_client import CONTENT_TYPE_LATEST, disable_created_metrics, generate_latest

from tracker.contract.reload import Watch, keep_reloading
from tracker.contract.settings import Settings
from tracker.contract.sites import Webhook
from tracker.deliver import metrics
from tracker.deliver.service import Endpoint


class Running:
    """The endpoints that run: all that are configured and not paused."""

    def __init__(self, settings: Settings, letters: AIOKafkaProducer) -> None:
        self.settings = settings
        self._letters = letters
        self._tasks: dict[str, tuple[Endpoint, asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()

    def waiting(self) -> list[str]:
        """The endpoints that do not deliver yet as they are configured now."""
        joined = [endpoint.hook for endpoint, _ in self._tasks.values() if endpoint.joined]
        return [hook.name for hook in self._hooks() if hook not in joined]

    def _hooks(self) -> list[Webhook]:
        return [hook for hook in self.settings.webhooks if not hook.paused]

    def reconfigure(self, settings: Settings) -> None:
        """Other webhooks; those that are as they were go on undisturbed."""
        self.settings = settings
        self._changed.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._put_right(tasks)
                await self._changed.wait()
                self._changed.clear()

    async def _put_right(self, tasks: asyncio.TaskGroup) -> None:
        wanted = {hook.name: hook for hook in self._hooks()}
        ending = {name: task for name, (e, task) in self._tasks.items() if wanted.get(name) != e.hook}
        for task in ending.values():
            task.cancel()
        if ending:  # what they have done is committed before others go on with it
            await asyncio.wait(ending.values())
        for name in ending:
            del self._tasks[name]
            if name not in wanted:
                metrics.forget(name)
        metrics.declare(wanted.keys() - self._tasks.keys())
        for name, hook in wanted.items():
            if name not in self._tasks:
                endpoint = Endpoint(hook, self.settings, self._letters)
                self._tasks[name] = endpoint, tasks.create_task(endpoint.run())


async def deliver(settings: Settings, watch: Watch | None = None) -> int:
    """Run all webhooks that are not paused, until cancelled. `watch`: tracker.toml, for changes of them."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    letters = AIOKafkaProducer(
        bootstrap_servers=settings.kafka, acks="all", enable_idempotence=True, client_id="tracker-webhooks",
        max_request_size=4 << 20,
    )  # fmt: skip
    running = Running(settings, letters)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(_web(settings, running))
        stack.push_async_callback(letters.stop)
        await letters.start()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(running.run())
            if watch is not None:
                failed = metrics.CONFIG_FAILURES.inc
                tasks.create_task(keep_reloading(watch, lambda: running.settings, running.reconfigure, failed))
    return 0


@contextlib.asynccontextmanager
async def _web(settings: Settings, running: Running) -> AsyncIterator[None]:
    """/metrics, /livez, /readyz."""

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def livez(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def readyz(_: web.Request) -> web.Response:
        waiting = running.waiting()
        if waiting:
            return web.json_response({"status": "not ready", "waiting": waiting}, status=503)
        return web.json_response({"status": "ok"})

    app = web.Application()
    app.add_routes([web.get("/metrics", show_metrics), web.get("/livez", livez), web.get("/readyz", readyz)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.webhook_host, settings.webhook_port).start()
        yield
    finally:
        await runner.cleanup()
