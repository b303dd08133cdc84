"""The examples for React, Vue and Next, built as a site would build them, and used: what their buttons tell arrives."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page

from tests.conftest import missing

from .conftest import STUB, Sink, until

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
ESBUILD = ROOT / "sdk_js" / "node_modules" / ".bin" / "esbuild"
PACKAGE = ROOT / "sdk_js" / "dist" / "index.js"


def bundle(source: str, defines: dict[str, str], *options: str) -> str:
    """A module of examples/, with all that it imports."""
    if not (ESBUILD.exists() and PACKAGE.exists() and (EXAMPLES / "node_modules" / "vue").exists()):
        missing("the snippet's package or the examples' packages are not there: make setup clients")
    argv = [
        str(ESBUILD), "--bundle", "--loader=tsx", "--jsx=automatic", "--log-level=error",
        f"--alias:event-streaming-tracker-snippet={PACKAGE}",
        *(f"--define:{name}={json.dumps(value)}" for name, value in defines.items()), *options,
    ]  # fmt: skip
    return run(argv, source)


def run(argv: list[str], source: str) -> str:
    done = subprocess.run(argv, input=source, cwd=EXAMPLES, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def used(page: Page, sink: Sink) -> list[tuple[Any, ...]]:
    """What arrives when each button is pressed: (type, path of the page, what it says)."""
    await page.goto(sink.url)
    await page.click("#add-p1")
    await page.click("#go")
    await page.wait_for_timeout(200)  # the page is told 50 ms after the address has changed
    await page.click("#sign-in")

    def told() -> list[dict[str, Any]]:
        return [e for e in sink.events() if e.get("event") != "Page Engaged"]

    await until(lambda: len(told()) >= 4)
    return [
        (e["type"], e["context"]["page"]["path"], e.get("event") or e.get("traits") or e["properties"]["path"])
        for e in sorted(told(), key=lambda e: str(e["timestamp"]))
    ]


EXPECTED = [
    ("page", "/", "/"),
    ("track", "/", "Product Added"),
    ("page", "/ca-phe", "/ca-phe"),
    ("identify", "/ca-phe", {"email": "lan@example.vn"}),
]


@pytest.mark.parametrize("name", ["react", "vue"])
async def test_an_application_with_the_package(page: Page, sink: Sink, name: str) -> None:
    defines = {
        "import.meta.env.VITE_TRACKER": sink.url,
        "import.meta.env.VITE_WRITE_KEY": sink.key,
        "process.env.NODE_ENV": "production",
    }
    script = bundle(f'import "./{name}/main";', defines)
    sink.html = f'<!doctype html><div id="root"></div><script>{script}</script>'
    assert await used(page, sink) == EXPECTED
    added = next(e for e in sink.events() if e.get("event") == "Product Added")
    assert added["properties"]["price"] == 185000


async def test_the_tags_in_a_layout_that_the_server_renders(page: Page, sink: Sink) -> None:
    """The layout of the example for Next, rendered and hydrated as Next does it."""
    defines = {
        "process.env.NEXT_PUBLIC_TRACKER": sink.url,
        "process.env.NEXT_PUBLIC_WRITE_KEY": sink.key,
        "process.env.NEXT_PUBLIC_TRACKER_STUB": STUB,
        "process.env.NODE_ENV": "production",
    }
    app = """
        import Layout from "./next/app/layout";
        import Page from "./next/app/page";
        const app = <Layout><Page /></Layout>;
    """
    server = 'import { renderToString } from "react-dom/server"; ' + app + "console.log(renderToString(app));"
    html = run(["node", "-"], bundle(server, defines, "--platform=node"))
    client = bundle('import { hydrateRoot } from "react-dom/client"; ' + app + "hydrateRoot(document, app);", defines)
    script = f"<script>{client}</script>"
    sink.html = "<!doctype html>" + html.replace("</body>", script + "</body>")
    assert await used(page, sink) == EXPECTED


async def test_the_package_does_not_throw_where_the_browser_or_a_bundle_lacks_something(page: Page, sink: Sink) -> None:
    source = """
        import { load, subscribeToPush } from "event-streaming-tracker-snippet";
        const tracker = window.loaded = load("k-123456", null);
        tracker.debug(); tracker.debug(false); tracker.popup.show("x"); tracker.ecommerce.productAdded({});
        tracker.track("Here");
        window.subscribe = () => subscribeToPush({publicKey: "x"});
    """
    sink.html = f"<!doctype html><script>{bundle(source, {})}</script>"
    await page.goto(sink.url)
    await until(lambda: sink.events())
    assert [e["event"] for e in sink.events()] == ["Here"]
    # Safari asks only directly after a click, before anything was awaited.
    order = """async () => {
        const order = [];
        Notification.requestPermission = async () => (order.push("asked"), "denied");
        navigator.serviceWorker.register = async () => (order.push("registered"), {});
        order.push(await subscribe());
        return order;
    }"""
    assert await page.evaluate(order) == ["asked", None]
    for lacking in (
        "delete window.Notification",
        "Object.defineProperty(navigator, 'serviceWorker', {value: undefined})",
    ):
        await page.goto(sink.url)
        asks = "window.Notification && (Notification.requestPermission = async () => 'granted')"
        assert await page.evaluate(f"() => {{ {asks}; {lacking}; return subscribe() }}") is None
