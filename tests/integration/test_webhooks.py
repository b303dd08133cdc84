"""`tracker webhooks deliver` against real topics and real receivers: each trigger once, or a dead letter."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tests.harness import Stack, cli, request
from tests.integration.test_dead_letters import of
from tracker.contract.loading import load
from tracker.contract.signature import headers, key_of
from tracker.contract.triggers import CART_ABANDONED, HEADERS, CartAbandoned, encode_trigger
from tracker.deliver.service import Endpoint
from tracker.embedded.process import free_port

pytestmark = pytest.mark.integration
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Receiver:
    """An endpoint that notes what is signed well, and answers as it is told."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str]] = []
        """(endpoint, id), of tries that it said yes to."""
        self.tries: Counter[tuple[str, str]] = Counter()
        self.answers: dict[str, Callable[[int], Awaitable[int]]] = {}
        """Endpoint -> number of the try of an id -> status."""
        self.url = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Receiver]:
        app = web.Application()
        app.add_routes([web.post("/{name}", self._post)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{port}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _post(self, request: web.Request) -> web.Response:
        body, name, id = await request.read(), request.match_info["name"], request.headers["webhook-id"]
        at_s = int(request.headers["webhook-timestamp"])
        assert request.headers["webhook-signature"] == headers([key_of(SECRET)], id, at_s, body)["webhook-signature"]
        assert request.headers["content-type"].startswith("application/cloudevents+json")
        assert json.loads(body)["id"] == id
        self.tries[name, id] += 1
        status = await self.answers[name](self.tries[name, id]) if name in self.answers else 204
        if 200 <= status < 300:
            self.got.append((name, id))
        where = {"Location": f"{self.url}/elsewhere"} if status == 302 else None
        return web.Response(status=status, headers=where)

    def ids(self, name: str) -> list[str]:
        return [id for of, id in self.got if of == name]


class Setup:
    def __init__(self, stack: Stack, receiver: Receiver) -> None:
        self.stack, self.receiver = stack, receiver
        self.site = stack.site().name
        self.run = secrets.token_hex(3)
        self.config = stack.folder / f"webhooks-{self.run}.toml"
        self.port = free_port()
        self.text = stack.config.read_text()

    def only_sites(self) -> None:
        """Without webhooks, until the next `hook`."""
        self.text = self.stack.config.read_text()

    def hook(self, name: str, **fields: Any) -> None:
        given = {
            "name": name, "url": f"{self.receiver.url}/{name}", "secret": SECRET, "sites": [self.site],
            "allow_http": True, "allow_private": True, **fields,
        }  # fmt: skip
        self.text += "[[webhooks]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in given.items())
        self.config.write_text(self.text)

    @asynccontextmanager
    async def delivering(self) -> AsyncIterator[Any]:
        child = self.stack.command(
            f"webhooks-{self.run}", "webhooks", "deliver", config=self.config, webhook_port=self.port,
            webhook_group=f"hooks-{self.run}", webhook_retry_s=0.05, webhook_retry_max_s=0.5, webhook_breaker_s=0.1,
            session_timeout_s=6,
        )  # fmt: skip
        child.start()
        try:
            await until(self.ready)
            yield child
        finally:
            await asyncio.to_thread(child.stop)

    async def ready(self) -> bool:
        try:
            status, _ = await asyncio.to_thread(request, "GET", f"http://127.0.0.1:{self.port}/readyz")
        except OSError:
            return False
        return status == 200

    async def publish(self, *ids: str, site: str | None = None) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.stack.settings.kafka) as producer:
            for n, id in enumerate(ids):
                data = CartAbandoned(
                    profile_id=f"p{n % 3}", stage="cart", value=1, items=[], episode=1, seq=1, opened_at_ms=1,
                    last_activity_ms=1, abandoned_at_ms=1,
                )  # fmt: skip
                value = encode_trigger(
                    CART_ABANDONED, id=id, site=site or self.site, profile_id=data.profile_id, at_ms=1, data=data
                )
                await producer.send_and_wait(CART_ABANDONED.topic, value, data.profile_id.encode(), headers=HEADERS)


async def until(holds: Callable[[], Any], seconds: float = 90) -> None:
    async with asyncio.timeout(seconds):
        while True:
            found = holds()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(0.05)


@pytest.fixture
async def setup(stack: Stack) -> AsyncIterator[Setup]:
    async with Receiver().serving() as receiver:
        yield Setup(stack, receiver)


async def test_each_endpoint_gets_its_triggers_whatever_the_others_do(setup: Setup) -> None:
    receiver = setup.receiver
    hang = asyncio.Event()

    async def slow(_: int) -> int:
        await hang.wait()
        return 200

    async def flaky(n: int) -> int:
        return 200 if n > 2 else 503

    async def redirects(_: int) -> int:
        return 302

    receiver.answers = {"slow": slow, "flaky": flaky, "redirects": redirects}
    setup.hook("good")
    setup.hook("flaky")
    setup.hook("slow", in_flight=1, timeout_s=60)
    setup.hook("redirects", attempts=2)
    setup.hook("private", allow_private=False, attempts=1)
    ids = [f"t{n}-{setup.run}" for n in range(6)]
    async with setup.delivering():
        await setup.publish(*ids)
        await setup.publish("other", site="some-other-site")
        await until(lambda: sorted(receiver.ids("good")) == ids and sorted(receiver.ids("flaky")) == ids)
        for profile in range(3):  # a profile's triggers in their order
            own = [id for id in receiver.ids("flaky") if ids.index(id) % 3 == profile]
            assert own == sorted(own)
        assert receiver.ids("slow") == []
        assert {n for (name, _), n in receiver.tries.items() if name == "flaky"} == {3}

        def buried() -> Counter[str]:
            return Counter(letter["endpoint"] for letter in letters(setup))

        await until(lambda: asyncio.to_thread(lambda: buried() == {"redirects": 6, "private": 6}))
        hang.set()
        await until(lambda: sorted(receiver.ids("slow")) == ids)
        _, page = await asyncio.to_thread(request, "GET", f"http://127.0.0.1:{setup.port}/metrics")
        assert 'tracker_webhook_deliveries_total{endpoint="good",outcome="delivered"} 6.0' in str(page)
        assert 'tracker_webhook_deliveries_total{endpoint="private",outcome="dead_letter"} 6.0' in str(page)
    assert "elsewhere" not in {name for name, _ in receiver.tries}
    assert "private" not in {name for name, _ in receiver.tries}
    details = {letter["endpoint"]: letter["detail"] for letter in await asyncio.to_thread(letters, setup)}
    assert details["redirects"] == "webhook redirects: HTTP 302 (redirects are not followed), 2 tries"
    assert re.search(r"refused: 127\.0\.0\.1 is a loopback address", details["private"])


async def test_a_killed_service_repeats_but_loses_nothing_and_a_letter_is_replayed_to_its_endpoint_alone(
    setup: Setup,
) -> None:
    receiver = setup.receiver
    down = True

    async def answer(_: int) -> int:
        return 500 if down else 200

    receiver.answers = {"down": answer}
    setup.hook("good")
    setup.hook("down", attempts=3)
    early, late = [f"e{n}-{setup.run}" for n in range(3)], [f"l{n}-{setup.run}" for n in range(3)]
    async with setup.delivering() as child:
        await setup.publish(*early)
        await until(lambda: sorted(receiver.ids("good")) == early)
        child.process.kill()
        await asyncio.to_thread(child.process.wait)
    await setup.publish(*late)
    async with setup.delivering():
        await until(lambda: set(receiver.ids("good")) == {*early, *late})
        await until(lambda: asyncio.to_thread(lambda: len(letters(setup)) == 6), 60)
        down = False
        assert "6 replayed" in await asyncio.to_thread(run, setup, "replay", "--site", setup.site)
        await until(lambda: set(receiver.ids("down")) == {*early, *late})
    assert all(letter["state"] == "replayed" for letter in await asyncio.to_thread(letters, setup))
    assert Counter(receiver.ids("good")).most_common(1)[0][1] <= 2


async def test_webhooks_are_added_changed_paused_and_back_while_it_runs_and_nothing_is_lost(setup: Setup) -> None:
    receiver, hang = setup.receiver, asyncio.Event()

    async def stuck(_: int) -> int:
        await hang.wait()
        return 204

    async def shows(text: str, wanted: bool = True) -> bool:
        _, page = await asyncio.to_thread(request, "GET", f"http://127.0.0.1:{setup.port}/metrics")
        return (text in str(page)) is wanted

    async def moved(*hooks: dict[str, Any]) -> None:
        """The file is written, and all of it has been taken up."""
        setup.only_sites()
        for hook in hooks:
            setup.hook(**hook)
        for hook in hooks:
            series, runs = f'tracker_webhook_queue{{endpoint="{hook["name"]}"}}', not hook.get("paused", False)
            await until(lambda series=series, runs=runs: shows(series, runs))  # type: ignore[misc]
        await until(setup.ready)

    receiver.answers = {"old": stuck}
    early, late, last = ([f"{part}{n}-{setup.run}" for n in range(6)] for part in "abc")
    same, gone = {"name": "same"}, {"name": "gone"}
    setup.hook("same")
    setup.hook("gone")
    setup.hook("moves", url=f"{receiver.url}/old")
    async with setup.delivering():
        await setup.publish(*early)
        await until(lambda: sorted(receiver.ids("same")) == early == sorted(receiver.ids("gone")))
        await until(lambda: len([name for name, _ in receiver.tries if name == "old"]) == 3)  # one of each profile
        await moved(same, {**gone, "paused": True}, {"name": "moves", "url": f"{receiver.url}/new"}, {"name": "more"})
        hang.set()
        await until(lambda: sorted(receiver.ids("new")) == early)  # also what was under way when it moved
        await setup.publish(*late)
        for name in ("same", "new", "more"):
            await until(lambda n=name: set(late) <= set(receiver.ids(n)))  # type: ignore[misc]
        assert set(receiver.ids("gone")) == set(early)
        assert set(receiver.ids("more")) == set(late)
        setup.config.write_text("[[webhooks]\n")  # nobody can read that: all goes on
        await until(lambda: shows("tracker_webhook_config_reload_failures_total 1.0"))
        await moved(same, gone)
        await setup.publish(*last)
        await until(lambda: set(receiver.ids("gone")) == {*early, *late, *last})
        await until(lambda: set(last) <= set(receiver.ids("same")))
        assert await shows('tracker_webhook_lag{endpoint="moves"}', wanted=False)
    assert sorted(receiver.ids("same")) == sorted([*early, *late, *last]), "it was never disturbed"
    assert not set(last) & {*receiver.ids("new"), *receiver.ids("more")}


async def test_what_is_read_while_the_endpoint_still_asks_where_it_stands_is_delivered(setup: Setup) -> None:
    class Slow(Endpoint):
        async def assigned(self, consumer: AIOKafkaConsumer, partitions: Iterable[TopicPartition]) -> None:
            await asyncio.sleep(wait_s)
            await super().assigned(consumer, partitions)

    setup.hook("good")
    settings = load({}, setup.config)
    settings = msgspec.structs.replace(settings, kafka=setup.stack.settings.kafka, webhook_group=f"hooks-{setup.run}")
    ids = [f"t{n}-{setup.run}" for n in range(6)]
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka) as letters:
        for wait_s, published in ((0, ids[:3]), (3, ids[3:])):
            endpoint = Slow(settings.webhooks[0], settings, letters)
            running = asyncio.create_task(endpoint.run())
            try:
                if not wait_s:
                    await until(lambda e=endpoint: e.joined)  # type: ignore[misc]
                await setup.publish(*published)
                await until(lambda ids=published: set(ids) <= set(setup.receiver.ids("good")), 30)  # type: ignore[misc]
                await until(lambda e=endpoint: e.joined)  # type: ignore[misc]
            finally:
                running.cancel()
                await asyncio.wait([running])
    assert set(setup.receiver.ids("good")) == set(ids)  # one that was just delivered when it ended comes again


def run(setup: Setup, *args: str) -> str:
    done = cli("dead-letters", *args, cwd=setup.stack.folder, **{**of(setup.stack), "config": setup.config})
    assert done.returncode == 0, done
    return done.stdout


def letters(setup: Setup) -> list[dict[str, Any]]:
    found = []
    for line in run(setup, "list", "--site", setup.site, "--stage", "webhooks", "--json").splitlines():
        row = json.loads(line)
        found.append({**row, "endpoint": row["detail"].split(":")[0].removeprefix("webhook ")})
    return found


async def test_a_sample_is_sent_by_hand(setup: Setup) -> None:
    setup.hook("n8n")
    settings = {**of(setup.stack), "config": setup.config}
    listed = await asyncio.to_thread(cli, "webhooks", "list", cwd=setup.stack.folder, **settings)
    assert listed.stdout.startswith("n8n ")
    assert SECRET not in listed.stdout
    sent = await asyncio.to_thread(cli, "webhooks", "test", "n8n", cwd=setup.stack.folder, **settings)
    assert (sent.returncode, sent.stdout) == (0, "n8n: HTTP 204\n")
    assert setup.receiver.ids("n8n")[0].startswith("test-")
    unknown = await asyncio.to_thread(cli, "webhooks", "test", "x", cwd=setup.stack.folder, **settings)
    assert unknown.returncode == 1
    assert "there is no webhook 'x'" in unknown.stderr
