"""Every panel and every alert, against a real Prometheus that scrapes the real processes under demo traffic."""

from __future__ import annotations

import asyncio
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import yaml
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import missing
from tests.harness import Stack, eventually
from tracker.embedded.process import Child, free_port

ROOT = Path(__file__).parents[2]
BOARDS = {path.name: json.loads(path.read_text("utf-8")) for path in (ROOT / "ops/grafana/dashboards").glob("*.json")}
RULES = ROOT / "ops/prometheus/rules"
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "ops/prometheus/prometheus.yml").read_text("utf-8"))
OF_LOAD = {"ApplySlow", "ConsumerLagGrowing", "EventsLate", "EventsLateFast", "EventsLateSlowly"}
ALERTS = [
    rule
    for path in sorted(RULES.glob("*.yml"))
    for group in yaml.safe_load(path.read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
VARIABLES = {"$__rate_interval": "1m", "$__interval": "1s", "$site": ".*"}


class Query(NamedTuple):
    board: str
    panel: str
    legend: str
    expr: str


QUERIES = [
    Query(name, panel["title"], target["legendFormat"], target["expr"])
    for name, board in BOARDS.items()
    for panel in board["panels"]
    for target in panel.get("targets", [])
]


# -- what needs no server --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("board", BOARDS.values(), ids=list(BOARDS))
def test_a_dashboard_keeps_the_rules_of_the_linter(board: dict[str, Any]) -> None:
    variables = {v["name"]: v for v in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    panels = [p for p in board["panels"] if p["type"] != "row"]
    assert panels
    ids = [p["id"] for p in board["panels"]]
    assert len(set(ids)) == len(ids)
    titles = [p["title"] for p in panels]
    assert len(set(titles)) == len(titles)
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        for target in panel["targets"]:
            assert re.findall(r"\[(?!\$__rate_interval\])", target["expr"]) == [], panel["title"]
            used = set(re.findall(r"\$(?!__)(\w+)", target["expr"]))
            assert used <= variables.keys(), panel["title"]


def test_no_two_panels_overlap() -> None:
    for board in BOARDS.values():
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not cells & taken, panel["title"]
            assert at["x"] + at["w"] <= 24
            taken |= cells


def test_the_dashboards_are_the_generated_ones(tmp_path: Path) -> None:
    """And a changed file is found: the script is run on a copy."""
    copy = tmp_path / "grafana"
    shutil.copytree(ROOT / "ops/grafana", copy)
    check = [sys.executable, str(copy / "build.py"), "--check"]
    assert subprocess.run(check, capture_output=True, text=True, check=False).stderr == ""
    board = copy / "dashboards/pipeline.json"
    board.write_text(board.read_text("utf-8").replace("histogram_quantile(0.99", "histogram_quantile(0.9"), "utf-8")
    tampered = subprocess.run(check, capture_output=True, text=True, check=False)
    assert tampered.returncode == 1
    assert "pipeline.json" in tampered.stderr
    assert "python ops/grafana/build.py" in tampered.stderr


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    names = [rule["alert"] for rule in ALERTS]
    assert len(set(names)) == len(names)
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "action"}


def test_the_rules_fire_and_are_silent_as_promtool_says() -> None:
    tests = sorted((ROOT / "ops/prometheus/tests").glob("*.yml"))
    assert tests
    done = subprocess.run(
        [_tool("promtool"), "test", "rules", *map(str, tests)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = "".join(path.read_text("utf-8") for path in tests)
    assert [rule["alert"] for rule in ALERTS if f'alertname="{rule["alert"]}"' not in told] == []


def test_prometheus_takes_its_configuration() -> None:
    check = [_tool("promtool"), "check", "config", str(ROOT / "ops/prometheus/prometheus.yml")]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# -- against the real processes --------------------------------------------------------------------------------------


class Prometheus:
    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self.url, self.http = url, http

    async def get(self, path: str, **params: str) -> Any:
        async with self.http.get(f"{self.url}/api/v1/{path}", params=params) as response:
            body = await response.json()
            assert body["status"] == "success", f"{params}: {body.get('error')}"
            return body["data"]

    async def is_ready(self) -> bool:
        try:
            async with self.http.get(f"{self.url}/-/ready") as response:
                return response.status == 200
        except aiohttp.ClientConnectionError:
            return False

    async def values(self, expr: str) -> list[float]:
        """The values of an instant query."""
        return [float(series["value"][1]) for series in (await self.get("query", query=expr))["result"]]


@pytest.fixture(scope="module")
async def prometheus(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Prometheus]:
    """A Prometheus with the committed configuration, but 1 s intervals and the stack's addresses."""
    folder = tmp_path_factory.mktemp("prometheus")
    port = free_port()
    targets = {
        "tracker": stack.http, "worker": stack.worker_http, "prometheus": f"http://127.0.0.1:{port}",
        "webhooks": f"http://127.0.0.1:{stack.settings.webhook_port}",
    }  # fmt: skip
    jobs = [
        {
            "job_name": job["job_name"],
            "static_configs": [{"targets": [targets[job["job_name"]].removeprefix("http://")]}],
        }
        for job in CONFIG["scrape_configs"]
    ]
    fast = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config = {"global": fast, "rule_files": [f"{RULES}/*.yml"], "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), "utf-8")
    options = [
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    child = Child("prometheus", [_tool("prometheus"), *options], folder / "log").start()
    try:
        async with aiohttp.ClientSession() as http, _webhooks(stack):
            server = Prometheus(targets["prometheus"], http)
            await eventually(server.is_ready)
            await _traffic(stack, server)
            yield server
    finally:
        child.stop()


@asynccontextmanager
async def _webhooks(stack: Stack) -> AsyncIterator[None]:
    """A deliverer, and an endpoint that says yes to all."""

    async def yes(_: web.Request) -> web.Response:
        return web.Response(status=204)

    app = web.Application()
    app.add_routes([web.post("/", yes)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    config = stack.folder / "dashboards.toml"
    hook = {"name": "crm", "url": f"http://127.0.0.1:{port}/", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
    lines = [f'{name} = "{value}"' for name, value in hook.items()]
    allowed = ["allow_http = true", "allow_private = true"]
    config.write_text("\n".join([stack.config.read_text("utf-8"), "[[webhooks]]", *lines, *allowed, ""]), "utf-8")
    child = stack.command("webhooks", "webhooks", "deliver", config=config).start()
    try:

        async def ready() -> bool:
            url = f"http://127.0.0.1:{stack.settings.webhook_port}/readyz"
            try:
                async with aiohttp.ClientSession() as http, http.get(url) as response:
                    return response.status == 200
            except aiohttp.ClientConnectionError:
                return False

        await eventually(ready)
        yield
    finally:
        child.stop()
        await runner.cleanup()


async def _traffic(stack: Stack, server: Prometheus) -> None:
    """Demo shoppers until carts have been abandoned and told."""
    options = ("--url", stack.http, "--rate", "100", "--visitors", "200", "--seed", "7", "--duration", "20")
    demo = stack.command("demo", "demo", *options).start()
    try:
        await eventually(lambda: not demo.running, 60)
    finally:
        code = demo.stop()
    assert code == 0, demo.log.read_text("utf-8")

    async def was_told() -> bool:
        return sum(await server.values("sum(increase(stream_triggers_fired_total[1m]))")) > 0

    await eventually(was_told, 60, 0.5)
    await asyncio.sleep(2)  # two more scrapes of every target


@pytest.mark.integration
async def test_every_target_is_scraped(prometheus: Prometheus) -> None:
    targets = (await prometheus.get("targets"))["activeTargets"]
    assert {t["labels"]["job"]: t["health"] for t in targets} == dict.fromkeys(
        ("tracker", "worker", "webhooks", "prometheus"), "up"
    )


@pytest.mark.integration
@pytest.mark.parametrize("query", QUERIES, ids=lambda q: f"{q.panel}: {q.legend}")
async def test_every_panel_shows_numbers(prometheus: Prometheus, query: Query) -> None:
    expr = query.expr
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    assert "$" not in expr
    values = await prometheus.values(expr)
    assert values, f"nothing to see: {expr}"
    assert [v for v in values if not math.isfinite(v)] == [], expr


MOVES = ("Requests by code", "Events applied by hop", "Triggers", "Ends of carts", "Orders", "Revenue", "Popup events",
         "Message events", "Anonymous ids linked", "Carts", "Cart rates", "Why carts are left", "Stages",
         "Profiles", "Published and suppressed", "Webhooks: tries")  # fmt: skip


@pytest.mark.integration
@pytest.mark.parametrize("panel", MOVES)
async def test_the_demo_moves_the_panel(prometheus: Prometheus, panel: str) -> None:
    """Not only zeros that were there from the start."""
    queries = [q.expr.replace("$__rate_interval", "5m").replace("$site", ".*") for q in QUERIES if q.panel == panel]
    assert queries
    assert sum([sum(await prometheus.values(expr)) for expr in queries]) > 0


@pytest.mark.integration
@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
async def test_every_alert_looks_at_numbers_and_is_silent(prometheus: Prometheus, rule: dict[str, Any]) -> None:
    for condition in re.split(r"\s+and\s+", rule["expr"]):
        left, threshold = re.split(r"\s+>\s+", condition)
        float(threshold)
        values = await prometheus.values(left)
        assert values, f"nothing to look at: {left}"
        assert [v for v in values if not math.isfinite(v)] == [], left
    loaded = [r for group in (await prometheus.get("rules"))["groups"] for r in group["rules"]]
    (state,) = [r for r in loaded if r["name"] == rule["alert"]]
    assert state["health"] == "ok", state.get("lastError")
    # Those of a machine that has too much to do may be about to; for that they wait.
    assert state["state"] in (("inactive", "pending") if rule["alert"] in OF_LOAD else ("inactive",)), state["alerts"]


@pytest.mark.integration
async def test_every_metric_has_a_good_name_and_a_text(stack: Stack) -> None:
    async with aiohttp.ClientSession() as http:
        for url, prefix in ((stack.http, "tracker_"), (stack.worker_http, "stream_")):
            async with http.get(f"{url}/metrics") as response:
                assert response.status == 200
                families = list(text_string_to_metric_families(await response.text()))
            assert len(families) > 10
            for family in families:
                assert re.fullmatch(rf"({prefix}|process_|python_)[a-z0-9_]+", family.name), family.name
                assert family.documentation, family.name
            assert f"{prefix}build_info" in {family.name for family in families}


def _tool(name: str) -> str:
    return shutil.which(name) or missing(f"{name} is missing: apt-get install prometheus")
