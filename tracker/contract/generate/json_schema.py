"""JSON Schema (draft 2020-12) of every message of the contract."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec
from msgspec import Struct

from tracker.contract import events, merges, models, predicates, topics, triggers
from tracker.contract.generate.texts import MARK, one_line

Schema = dict[str, Any]


def schemas() -> dict[str, Schema]:
    """File name -> JSON Schema (draft 2020-12) of every message of the contract."""
    made = {
        "message": schema_of(events.Message),
        "event": schema_of(events.Event),
        "profile-event": schema_of(events.ProfileEvent),
        "clock": schema_of(events.Clock),
        "merge": schema_of(merges.Merge),
        "unmerge": schema_of(merges.Unmerge),
        "handover": schema_of(merges.Handover),
        "model": schema_of(models.Model),
        "dead-letter": schema_of(topics.DeadLetter),
        "replay": schema_of(topics.Replay),
        "cloudevent": schema_of(triggers.CloudEvent),
    }
    for kind, data, ce_type in trigger_types():
        schema = schema_of(triggers.CloudEvent)
        body = schema_of(data)
        attributes = schema["properties"]
        attributes["type"] = {"const": ce_type}
        attributes["specversion"] = {"const": "1.0"}
        attributes["data"] = {"$ref": f"#/$defs/{data.__name__}"}
        schema["required"] = sorted({*schema["required"], "specversion"})
        schema["title"] = ce_type
        schema["description"] = f"A record of {kind.topic}. {body['description']}"
        schema["$defs"] = {**body.pop("$defs", {}), data.__name__: body}
        made[f"trigger-{ce_type.split('.')[1]}"] = schema
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$comment": MARK}
    return {name: {**head, "$id": f"urn:tracker:{name}", **schema} for name, schema in made.items()}


def trigger_types() -> Iterator[tuple[triggers.TriggerKind, type[Struct], str]]:
    """(kind, struct of `data`, CloudEvent type): every kind, and its retraction where it has one."""
    for kind in triggers.TRIGGER_KINDS:
        yield kind, kind.data, kind.ce_type
        if kind.retraction is not None:
            yield kind, kind.retraction, kind.ce_type.replace(".v1", "_retracted.v1")


def schema_of(type_: type[Struct]) -> Schema:
    """msgspec's schema of a struct: the struct on top, Raw fields as objects, descriptions in one line."""
    (_,), defs = msgspec.json.schema_components([type_], ref_template="#/$defs/{name}")
    for name, schema in defs.items():
        notes = _field_notes(inner_struct(type_, name))
        if "description" in schema:
            schema["description"] = one_line(schema["description"])
        for field, about in schema.get("properties", {}).items():
            if not about.keys() - {"description"}:  # msgspec.Raw
                about["type"] = "object"
            if about.get("default", "") is None:
                del about["default"]  # null and missing mean the same
            if field in notes:
                about.setdefault("description", notes[field])
    top: Schema = defs.pop(type_.__name__)
    return {**top, "$defs": defs} if defs else top


def inner_struct(type_: type[Struct], name: str) -> type[Struct]:
    """The struct of this name, in the module of one that it stands in, or in the conditions'."""
    module = inspect.getmodule(type_)
    found: type[Struct] = getattr(module if hasattr(module, name) else predicates, name)
    return found


@cache  # to find a class in its source takes the time of reading the whole file
def _field_notes(type_: type[Struct]) -> dict[str, str]:
    """Encoded field name -> the string under the field in the source."""
    names = {f.name: f.encode_name for f in msgspec.structs.fields(type_)}
    (cls,) = ast.parse(inspect.getsource(type_)).body
    assert isinstance(cls, ast.ClassDef)
    notes = {}
    for field, note in zip(cls.body, cls.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match note:
                case ast.Expr(value=ast.Constant(value=str() as text)):
                    notes[names[field.target.id]] = one_line(text)
    return notes
