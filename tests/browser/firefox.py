"""Debian's Firefox by WebDriver BiDi, which it speaks itself, without a driver; as much of it as the tests need."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse

from tests.harness import eventually

FIREFOX = os.environ.get("FIREFOX") or shutil.which("firefox-esr") or shutil.which("firefox")
START_S, ANSWER_S = 60, 30
# On top of what Firefox sets itself where it is driven: no page of its own, nothing that it asks for by itself.
PREFERENCES = """
user_pref("browser.startup.page", 0);
user_pref("browser.aboutwelcome.enabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("app.normandy.enabled", false);
user_pref("services.settings.server", "data:,none");
user_pref("network.proxy.type", 0);
"""


class Firefox:
    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)

    async def command(self, method: str, **params: Any) -> dict[str, Any]:
        """One at a time. Raises AssertionError with what Firefox says against it."""
        number = next(self._ids)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while (answer := await self._socket.receive_json(timeout=ANSWER_S)).get("id") != number:
            pass
        assert answer["type"] == "success", answer
        result: dict[str, Any] = answer["result"]
        return result

    @asynccontextmanager
    async def visitor(self) -> AsyncIterator[Tab]:
        """A tab of somebody who was never here: no cookies, no storage."""
        user = (await self.command("browser.createUserContext"))["userContext"]
        made = await self.command("browsingContext.create", type="tab", userContext=user)
        yield Tab(self, made["context"])
        await self.command("browser.removeUserContext", userContext=user)


class Tab:
    def __init__(self, firefox: Firefox, context: str) -> None:
        self._firefox, self._context = firefox, context

    async def goto(self, url: str) -> None:
        await self._firefox.command("browsingContext.navigate", context=self._context, url=url, wait="complete")

    async def back(self) -> None:
        await self._firefox.command("browsingContext.traverseHistory", context=self._context, delta=-1)

    async def evaluate(self, script: str) -> Any:
        """The value of an expression, a string, number or boolean; a promise is awaited."""
        done = await self._firefox.command(
            "script.evaluate", expression=script, target={"context": self._context}, awaitPromise=True
        )
        assert done["type"] == "success", done
        return done["result"].get("value")

    async def wait_for(self, expression: str) -> None:
        for _ in range(ANSWER_S * 20):
            try:
                if await self.evaluate(expression):
                    return
            except AssertionError as e:
                if "no such frame" not in str(e) and "discarded" not in str(e):
                    raise
            await asyncio.sleep(0.05)
        raise AssertionError(f"timed out: {expression}")


@asynccontextmanager
async def started() -> AsyncIterator[Firefox]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        (Path(profile) / "user.js").write_text(PREFERENCES, "utf-8")
        log = Path(profile) / "firefox.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                str(FIREFOX), "--headless", "--no-remote", "--profile", profile, "--remote-debugging-port=0",
                stdout=output, stderr=output,
            )  # fmt: skip
        try:
            url = await eventually(lambda: _address(log), START_S)
            async with ClientSession() as http, http.ws_connect(f"{url}/session") as socket:
                firefox = Firefox(socket)
                await firefox.command("session.new", capabilities={})
                yield firefox
        finally:
            process.kill()  # asked nicely it takes 5 s
            await process.wait()


def _address(log: Path) -> str:
    """'' until it is there."""
    found = re.search(r"BiDi listening on (ws://\S+)", log.read_text("utf-8"))
    return found[1] if found else ""
