"""Every block of code in docs/snippet.md and README.md is true: scripts run beside the real builds without an error or
a word in the console, types fit, commands are known with their options, the endpoint answers what is asked of it."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
from argparse import ArgumentParser
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from aiohttp import ClientSession, encode_basic_auth
from playwright.async_api import ConsoleMessage, Page

from tests.conftest import missing
from tests.harness import Stack
from tracker.cli import COMMANDS, Lazy

from .conftest import STUB, Sink, ready, until

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
TSC = ROOT / "sdk_js" / "node_modules" / "typescript" / "bin" / "tsc"
TYPES = ROOT / "sdk_js" / "dist" / "index.d.ts"


class Block(NamedTuple):
    place: str
    """docs/snippet.md:12"""
    language: str
    code: str


def blocks(name: str) -> list[Block]:
    text = (ROOT / name).read_text("utf-8")
    return [
        Block(f"{name}:{text.count(chr(10), 0, found.start()) + 1}", found[1], found[2])
        for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


BLOCKS = [*blocks("docs/snippet.md"), *blocks("README.md")]

NOT_RUN = {
    " browser (t.js)": "a drawing",
    "make run ": "starts everything, and runs until it is stopped",
    "import asyncio, json": "Python: examples/subscriber.py is the same as a program, which tests/integration runs",
}
"""How a block begins that this file does not check -> why."""

PRELUDE = """
    const banner = { onAnswer: heard => heard({ statistics: true, marketing: false }) };
    const openMyPopup = () => (window.opened = {});
"""
"""What the blocks take of the page that they stand in."""

ONLY_FULL = ("popup", "ecommerce")
"""Blocks that name one of these are for /t.full.js; the others run in /t.js, too."""


def of(*languages: str) -> list[Block]:
    found = [block for block in BLOCKS if block.language in languages]
    return [block for block in found if not any(block.code.startswith(start) for start in NOT_RUN)]


def places(each: Block) -> str:
    return each.place


def test_each_block_is_checked_or_named_with_a_reason() -> None:
    unknown = [
        b.place for b in BLOCKS if b not in of("html", "js", "ts", "sh") and not b.code.startswith(tuple(NOT_RUN))
    ]
    assert unknown == []
    unused = [start for start in NOT_RUN if not any(b.code.startswith(start) for b in BLOCKS)]
    assert unused == []


@pytest.fixture
async def words(page: Page) -> list[str]:
    """What the console says: warnings, errors. (On the page's loop: listening is a call to the browser.)"""
    words: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type in ("warning", "error"):
            words.append(message.text)

    page.on("console", hear)
    return words


def here(code: str, sink: Sink) -> str:
    """As somebody writes it who has copied it: with his own endpoint and key."""
    return (
        code.replace("https://t.shop.example", sink.url)
        .replace('"KEY"', f'"{sink.key}"')
        .replace("=KEY", f"={sink.key}")
    )


@pytest.mark.parametrize(
    ("block", "build"),
    [
        (block, build)
        for block in of("js")
        if "importScripts" not in block.code
        for build in ("t.js", "t.full.js")
        if build == "t.full.js" or not any(name in block.code for name in ONLY_FULL)
    ],
    ids=lambda value: value.place if isinstance(value, Block) else value,
)
async def test_a_script_runs_beside_the_snippet(
    page: Page, sink: Sink, words: list[str], block: Block, build: str
) -> None:
    sink.build = build
    # Once while the calls wait in the stub, once when the script is there.
    sink.head = f"<script>{{{PRELUDE}{block.code}}}</script>"
    await ready(page, sink.url)
    await page.evaluate(f"() => {{{PRELUDE}{block.code}\ntracker.track('Last')}}")
    await until(lambda: "Last" in [e.get("event") for e in sink.events()])
    assert words == []


@pytest.mark.parametrize("block", of("html"), ids=places)
async def test_tags_work_as_they_stand_there(page: Page, sink: Sink, words: list[str], block: Block) -> None:
    code = here(block.code, sink)
    code = re.sub(r"/\* the stub: .*? \*/", lambda _: STUB, code)
    tags = "" if "data-write-key" in code else f"{sink.script()}<script>{STUB}</script>"
    sink.html = f"<!doctype html><html><head>{tags}{code}</head></html>"
    await ready(page, sink.url)
    await until(lambda: sink.events())
    assert words == []


@pytest.mark.parametrize("block", [b for b in of("js") if "importScripts" in b.code], ids=places)
async def test_a_worker_starts_with_it(page: Page, sink: Sink, words: list[str], block: Block) -> None:
    sink.worker = here(block.code, sink)
    await ready(page, sink.url)
    started = (
        "navigator.serviceWorker.register('/sw.js').then(() => navigator.serviceWorker.ready).then(r => !!r.active)"
    )
    assert await page.evaluate(started)
    assert words == []


def test_types_fit(tmp_path: Path) -> None:
    if not (TSC.exists() and TYPES.exists()):
        missing("the snippet's package is not there: make setup clients")
    found = of("ts")
    assert found
    for n, block in enumerate(found):
        (tmp_path / f"block{n}.ts").write_text(block.code, "utf-8")
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "event-streaming-tracker-snippet").symlink_to(ROOT / "sdk_js")
    argv = ["node", str(TSC), "--noEmit", "--strict", "--target", "es2022", "--module", "esnext", "--moduleResolution"]
    names = [f"block{n}.ts" for n in range(len(found))]
    done = subprocess.run(
        [*argv, "bundler", *names], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout + done.stderr == ""


@pytest.mark.integration
async def test_what_is_asked_of_the_endpoint_is_answered(stack: Stack) -> None:
    """The blocks in their order: what is sent first is read then."""
    site = stack.sites[0]
    told = {"http://127.0.0.1:8080": stack.http, "demo-write-key": site.write_key, "demo-secret-key": site.secret_key}
    asked = "".join(b.code for b in of("sh") if b.code.startswith("curl "))
    asked = asked.replace("/sites/demo/", f"/sites/{site.name}/")
    for name, value in told.items():
        assert name in asked
        asked = asked.replace(name, value)
    parser = ArgumentParser()
    for option in ("-u", "-H", "-d"):
        parser.add_argument(option)
    parser.add_argument("url")
    async with ClientSession() as http:
        for command in re.split(r"^curl ", asked, flags=re.MULTILINE)[1:]:
            given = parser.parse_args(shlex.split(command, comments=True))
            headers = dict([given.H.split(": ")]) if given.H else {}
            if given.u:
                headers["Authorization"] = encode_basic_auth(*given.u.split(":"))
            status = 0
            async with asyncio.timeout(30):
                while status != 200:
                    await asyncio.sleep(0.1)  # the worker may not have come to it yet
                    method = "POST" if given.d else "GET"
                    async with http.request(method, given.url, data=given.d, headers=headers) as answer:
                        status = answer.status


@pytest.mark.parametrize("block", [b for b in of("sh") if not b.code.startswith("curl ")], ids=places)
def test_commands_are_known_with_their_options(block: Block) -> None:
    scripts = (ROOT / "sdk_js" / "package.json").read_text("utf-8")
    for line in block.code.splitlines():
        command, _, comment = line.partition("#")
        for words in (shlex.split(part) for part in command.split("&&")):
            match words:
                case [".venv/bin/tracker", name, *arguments]:
                    # Parsed, not run; options that the comment names are options of the command.
                    parse(name, arguments, re.findall(r"--\w[\w-]*", comment))
                case ["cd", folder]:
                    assert (ROOT / folder).is_dir()
                case ["npm", "ci" | "pack"]:
                    assert comment.count(".tgz") in (0, 1)
                case ["npm", "run", name]:
                    assert f'"{name}":' in scripts
                case _:
                    raise AssertionError(f"{block.place}: {line}")


def parse(name: str, arguments: list[str], named: list[str]) -> None:
    assert name in COMMANDS
    root = click.Context(Lazy("tracker"))
    command = Lazy("tracker").get_command(root, name)
    assert command is not None
    with command.make_context(name, list(arguments), parent=root) as context:
        known = {option for each in command.get_params(context) for option in each.opts}
    assert set(named) <= known
