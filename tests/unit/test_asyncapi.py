"""docs/reference/asyncapi.json: by AsyncAPI's own schema, and of all kinds."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from tests.conftest import missing
from tests.harness import ROOT
from tracker.contract.generate.json_schema import trigger_types
from tracker.contract.triggers import TRIGGER_KINDS

SCHEMA = ROOT / "tests/clients/node/node_modules/@asyncapi/specs/schemas/3.0.0-without-$id.json"


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads((ROOT / "docs/reference/asyncapi.json").read_text("utf-8"))


def test_it_is_an_asyncapi_document(document: Any) -> None:
    if not SCHEMA.exists():
        missing("AsyncAPI's schema is not there: make clients")
    validator = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text("utf-8")))
    assert [e.message[:300] for e in validator.iter_errors(document)] == []
    broken = {**document, "channels": {"x": {"address": 7}}}
    assert not validator.is_valid(broken)


def test_it_has_every_kind_and_its_retraction(document: Any) -> None:
    assert {c["address"] for c in document["channels"].values()} == {kind.topic for kind in TRIGGER_KINDS}
    for kind in TRIGGER_KINDS:
        messages = [ref["$ref"].rsplit("/", 1)[-1] for ref in document["channels"][kind.name]["messages"].values()]
        assert messages == [kind.name] + ([f"{kind.name}_retracted"] if kind.retraction else [])
    assert {m["name"] for m in document["components"]["messages"].values()} == {
        ce_type for _, _, ce_type in trigger_types()
    }


def test_its_references_lead_somewhere_and_its_examples_are_what_its_schemas_say(document: Any) -> None:
    for ref in _references(document):
        place: Any = document
        for part in ref.removeprefix("#/").split("/"):
            place = place[part]
    for message in document["components"]["messages"].values():
        schema = {**message["payload"], "components": document["components"]}
        (example,) = message["examples"]
        jsonschema.Draft202012Validator(schema).validate(example["payload"])


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [ref for inner in value.values() for ref in _references(inner)]
    return [ref for inner in value for ref in _references(inner)] if isinstance(value, list) else []
