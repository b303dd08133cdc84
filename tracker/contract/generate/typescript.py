"""TypeScript types and names."""

from __future__ import annotations

import json

from msgspec import Struct

from tracker.contract import ecommerce, events, triggers
from tracker.contract.generate.json_schema import Schema, schema_of, trigger_types
from tracker.contract.generate.texts import MARK


def typescript() -> str:
    """Types and names for the browser SDK and for subscribers written in TypeScript."""
    types: dict[str, Schema] = {}
    structs: list[type[Struct]] = [
        events.Message,
        triggers.CloudEvent,
        *(data for _, data, _ in trigger_types()),
        *dict.fromkeys(ecommerce.PROPERTIES.values()),
    ]
    for struct in structs:
        schema = schema_of(struct)
        types |= schema.pop("$defs", {})
        types[struct.__name__] = schema
    alternatives = [
        f'\n  | (CloudEvent & {{ type: "{ce_type}"; data: {data.__name__} }})' for _, data, ce_type in trigger_types()
    ]
    return "\n".join(
        [
            f"// {MARK}",
            *(_ts_interface(name, schema) for name, schema in types.items()),
            "\n/** Whatever comes from the trigger topics, told apart by `type`. */",
            f"export type Trigger ={''.join(alternatives)};",
            "\n/** Names of track calls that rules look at. */",
            _ts_const("EVENTS", event_names()),
            "\n/** Names of Segment's ecommerce spec. */",
            f"export const ECOMMERCE = {json.dumps(events.ECOMMERCE)} as const;",
            "\n/** Event of the spec -> its properties. */",
            "export interface Ecommerce {",
            *(f"  {json.dumps(name)}: {struct.__name__};" for name, struct in ecommerce.PROPERTIES.items()),
            "}",
            "\n/** Popup events and the action each is counted under. */",
            _ts_const("POPUP_ACTIONS", events.POPUP_ACTIONS),
            "\n/** The closed set of channels. */",
            f"export const CHANNELS = {json.dumps(events.CHANNELS)} as const;",
            "\n/** Parameters that advertisers and apps add to links. */",
            f"export const CLICK_IDS: readonly string[] = {json.dumps(list(events.CLICK_IDS))};",
            f"\nexport const MAX_ID_CHARS = {events.MAX_ID_CHARS};",
            "",
        ]
    )


def event_names() -> dict[str, str]:
    """Constant in events.py -> the name of a track call."""
    return {name: value for name, value in vars(events).items() if name.isupper() and isinstance(value, str)}


def _ts_interface(name: str, schema: Schema) -> str:
    lines = [f"\nexport interface {name} {{"]
    if "description" in schema:
        lines.insert(0, f"\n/** {schema['description']} */")
        lines[1] = lines[1].lstrip("\n")
    for field, about in schema["properties"].items():
        if "description" in about:
            lines.append(f"  /** {about['description']} */")
        optional = "" if field in schema.get("required", ()) else "?"
        lines.append(f"  {field}{optional}: {ts_type(about)};")
    return "\n".join([*lines, "}"])


def ts_type(schema: Schema) -> str:
    match schema:
        case {"$ref": str(ref)}:
            return ref.rsplit("/", 1)[-1]
        case {"enum": [*values]}:
            return " | ".join(json.dumps(value) for value in values)
        case {"anyOf": [*options]}:
            return " | ".join(ts_type(option) for option in options)
        case {"type": "array", "prefixItems": [*items]}:
            return f"[{', '.join(ts_type(item) for item in items)}]"
        case {"type": "array", "items": dict(item)}:
            return f"{ts_type(item)}[]"
        case {"type": "object"}:
            return "Record<string, unknown>"
        case {"type": "integer" | "number"}:
            return "number"
        case {"type": "string" | "boolean" | "null" as plain}:
            return str(plain)
    raise TypeError(f"no TypeScript type for {schema}")


def _ts_const(name: str, values: dict[str, str]) -> str:
    lines = [
        f"  {key if key.isidentifier() else json.dumps(key)}: {json.dumps(value)}," for key, value in values.items()
    ]
    return "\n".join([f"export const {name} = {{", *lines, "} as const;"])
