"""What docs/snippet.md says of sizes is what lies in tracker/static and what bench/clients pins."""

from __future__ import annotations

import re

import pytest

from bench import snippet

ZLIBS_DIFFER_BYTES = 16
"""Node's and Python's zlib do not compress to the same byte."""


def rows(name: str) -> list[list[str]]:
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", snippet.DOCS.read_text("utf-8"), re.DOTALL)
    assert found, name
    return [line.strip("| ").split(" | ") for line in found[1].splitlines()[2:]]


def test_our_builds_are_as_large_as_the_docs_say_and_below_their_budgets() -> None:
    told = {
        row[0].strip("`/").replace("stub", "stub.js"): [int(n.replace(",", "")) for n in row[1:]]
        for row in rows("sizes")
    }
    assert {name: budget for name, (_, budget) in told.items()} == snippet.budgets()
    for name, (size, budget) in told.items():
        assert snippet.size_of_ours(name) == pytest.approx(size, abs=ZLIBS_DIFFER_BYTES)
        assert snippet.size_of_ours(name) <= budget


@pytest.mark.parametrize("table", ["sizes of others", "costs"])
def test_the_versions_of_others_in_the_docs_are_those_that_are_pinned(table: str) -> None:
    told = dict(row[0].split(" ") for row in rows(table) if " " in row[0])
    assert told.items() <= snippet.pins().items()
    assert told.keys() == {p.name for p in snippet.PEERS if p.timed or table != "costs"}
