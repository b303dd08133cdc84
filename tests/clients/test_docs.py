"""docs/clients.md says what is pinned and tested."""

from __future__ import annotations

import re

from tests.clients.drive import SERVER_CLIENTS, pins
from tests.clients.test_browser_clients import CASES
from tests.harness import ROOT
from tracker.compat import PIXELS
from tracker.routes import ROUTES

PAGE = (ROOT / "docs" / "clients.md").read_text("utf-8")


def test_the_table_names_every_client_with_its_pinned_version() -> None:
    rows = dict(re.findall(r"^\| \[([^\]]+)\]\(#[\w-]+\) \| (\S+) \|", PAGE, re.MULTILINE))
    assert rows == pins()


def test_the_table_names_the_calls_that_are_tested() -> None:
    tested = re.findall(r"^\| \[([^\]]+)\]\(#[\w-]+\) \|.*\| ([a-z, ]+)[;|]", PAGE, re.MULTILINE)
    types = {client.package: client.types for client in SERVER_CLIENTS.values()}
    types |= {case.client.package: case.client.types for case in CASES.values()}
    assert {package: tuple(calls.split(", ")) for package, calls in tested} == types


def test_every_link_of_the_table_leads_to_a_section() -> None:
    sections = {line[3:].lower().replace(" ", "-") for line in PAGE.splitlines() if line.startswith("## ")}
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= sections


def test_every_route_is_listed() -> None:
    for path in ("/v1/merge", "/beacon/v1/batch", "/api/s/{type}", "/api/s/s2s/{type}", *PIXELS):
        assert f"{path}" in PAGE
    kinds = {path.split("/")[2] for path in ROUTES if path.count("/") == 2 and path.startswith("/v1/")}
    for kind in (kind for kind in kinds if len(kind) > 1):
        assert f"`{kind}`" in PAGE or f"/v1/{kind}" in PAGE
