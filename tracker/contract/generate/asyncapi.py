"""AsyncAPI 3 of the trigger topics."""

from __future__ import annotations

import json
from typing import Any

from tracker.contract import examples, triggers
from tracker.contract.generate.json_schema import Schema, schemas, trigger_types
from tracker.contract.generate.texts import MARK, one_line


def asyncapi() -> Schema:
    """The trigger topics as an AsyncAPI 3 document: what a system that subscribes to them can build on."""
    told = {type(data): examples.trigger(kind, id, at, data) for kind, id, at, data in examples.TRIGGERS}
    channels: Schema = {}
    operations: Schema = {}
    messages: Schema = {}
    components: Schema = {}
    of_all = schemas()
    for kind, data, ce_type in trigger_types():
        name = ce_type.split(".")[1]
        made = of_all[f"trigger-{name}"]
        defs = {key: _moved(value) for key, value in made.pop("$defs").items()}
        for key, value in defs.items():
            if components.setdefault(key, value) != value:
                raise ValueError(f"two structs of triggers are called {key}")
        payload = _moved({key: value for key, value in made.items() if not key.startswith("$")})
        components[f"{name}_event"] = payload
        messages[name] = {
            "name": ce_type,
            "title": ce_type,
            "summary": one_line(data.__doc__ or ""),
            "contentType": triggers.CONTENT_TYPE.decode(),
            "payload": {"$ref": f"#/components/schemas/{name}_event"},
            "examples": [{"name": name, "payload": json.loads(told[data])}],
            "bindings": {"kafka": {"key": {"type": "string", "description": "The profile id."}}},
        }
        channel = channels.setdefault(
            kind.name,
            {
                "address": kind.topic,
                "title": kind.name,
                "description": f"Told when {kind.what}.",
                "messages": {},
                "bindings": {"kafka": {"topic": kind.topic, "partitions": 1}},
            },
        )
        channel["messages"][name] = {"$ref": f"#/components/messages/{name}"}
        operations[f"send_{kind.name}"] = {
            "action": "send",
            "channel": {"$ref": f"#/channels/{kind.name}"},
            "summary": f"The signals hop of the workers tells that {kind.what}.",
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Triggers of the event streaming tracker",
            "version": "1",
            "description": f"{MARK} Records are CloudEvents 1.0 in structured JSON. Delivery is at least once: drop an "
            "`id` that you have seen.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"kafka": {"host": "127.0.0.1:9092", "protocol": "kafka", "description": "The setting `kafka`."}},
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": components},
    }


def _moved(schema: Any) -> Any:
    """References to $defs as references to components."""
    if isinstance(schema, dict):
        return {
            key: value.replace("#/$defs/", "#/components/schemas/") if key == "$ref" else _moved(value)
            for key, value in schema.items()
        }
    return [_moved(item) for item in schema] if isinstance(schema, list) else schema
