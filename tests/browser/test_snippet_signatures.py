"""Segment's signatures, in every build."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.async_api import Page

from tests.signatures import MORE_SIGNATURES, SIGNATURES, Signature

from .conftest import Sink, ready, until

pytestmark = pytest.mark.browser

OF_THE_SNIPPET = ("url", "path", "search", "title", "referrer")
FIELDS = ("event", "name", "category", "userId", "previousId", "groupId", "properties", "traits")


def script(call: list[Any]) -> str:
    method, *arguments = call
    return f"tracker.{method}({', '.join('undefined' if a is ... else json.dumps(a) for a in arguments)})"


def said(event: dict[str, Any]) -> dict[str, Any]:
    fields = {name: event[name] for name in FIELDS if name in event}
    if event["type"] == "page":
        fields["properties"] = {k: v for k, v in fields["properties"].items() if k not in OF_THE_SNIPPET}
    return fields


@pytest.mark.parametrize(
    ("build", "table"), [("t.js", SIGNATURES + MORE_SIGNATURES), ("t.lite.js", SIGNATURES)], ids=["t.js", "t.lite.js"]
)
async def test_a_call_means_what_it_means_to_segment(
    page: Page, sink: Sink, build: str, table: list[Signature]
) -> None:
    sink.build = build
    await ready(page, sink.url)
    # Each as somebody new, so that no message has the userId of the call before.
    await page.evaluate(f"{'; tracker.reset(); '.join(script(each.call) for each in table)}; tracker.track('Last')")
    await until(lambda: sink.events() and sink.events()[-1].get("event") == "Last")
    found = [(e["type"], said(e), e["messageId"] if e["messageId"] == "m-1" else None) for e in sink.events()[:-1]]
    assert found == [(each.call[0], each.fields, each.message_id) for each in table]
