"""/openapi.json: what FastAPI knows of its routes, and the ingest routes, which go by its side (tracker/http_in.py)."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from tracker.contract.events import Message
from tracker.contract.examples import MESSAGES
from tracker.post import Result
from tracker.rejections import REJECTIONS
from tracker.routes import ROUTES, Route

Json = dict[str, Any]

OF_CONNECTIONS: Final = (400, 408, 414, 431, 500, 503)
"""What any request may be answered with (tracker/http_protocol.py)."""
OF_INGEST: Final = (*OF_CONNECTIONS, 401, 403, 413, 415, 429)
OF_READING: Final = (*OF_CONNECTIONS, 401, 403, 404, 429)
_KEYS: Final[list[Json]] = [{"writeKeyAsUser": []}, {"writeKeyHeader": []}, {"writeKeyQuery": []}, {}]
"""Where the key may stand; {}: in the body."""


class Documented(FastAPI):
    def openapi(self) -> Json:
        if self.openapi_schema is None:
            self.openapi_schema = document(get_openapi(title=self.title, version=self.version, routes=self.routes))
        return self.openapi_schema


def document(api: Json) -> Json:
    """FastAPI's document, completed."""
    (message, result), schemas = msgspec.json.schema_components(
        (Message, Result), ref_template="#/components/schemas/{name}"
    )
    schemas["Message"]["properties"]["writeKey"] = {"type": ["string", "null"], "description": "Or in the head."}
    batch = {
        "title": "Batch",
        "type": "object",
        "required": ["batch"],
        "properties": {
            "batch": {"type": "array", "items": message},
            "context": {"type": ["object", "null"], "description": "Merged into those of the items."},
            "integrations": {"type": ["object", "null"], "description": "Merged into those of the items."},
            "sentAt": {"type": ["string", "null"], "description": "For items that have none."},
            "messageId": {"type": ["string", "null"], "description": "For items that have none: it and their index."},
            "writeKey": {"type": ["string", "null"]},
        },
    }
    one = {**schemas["Message"], "title": "Call", "required": []}
    schemas |= {
        "Batch": batch,
        "Call": {**one, "description": "A Message whose type the path says."},
        "Accepted": {
            "type": "object",
            "required": ["success"],
            "properties": {
                "success": {"const": True},
                "ok": {"const": True, "description": "Jitsu's routes say it, too."},
                "results": {"type": "array", "items": result, "description": "With ?verbose=1: what became of each."},
            },
        },
        "Error": {
            "type": "object",
            "required": ["success", "code", "message", "hint"],
            "properties": {
                "success": {"const": False},
                "code": {"type": "string", "examples": [row.name for row in REJECTIONS]},
                "message": {"type": "string"},
                "hint": {"type": "string"},
            },
        },
    }
    for path in api["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)  # it is a 400 here
            operation["responses"] |= _errors(OF_READING)
    for name in ("HTTPValidationError", "ValidationError"):
        api.get("components", {}).get("schemas", {}).pop(name, None)
    components = api.setdefault("components", {})
    components["schemas"] = {**components.get("schemas", {}), **schemas}
    components["securitySchemes"] = {
        **components.get("securitySchemes", {}),
        "writeKeyAsUser": {"type": "http", "scheme": "basic", "description": "The key as user name, no password."},
        "writeKeyHeader": {"type": "apiKey", "in": "header", "name": "X-Write-Key"},
        "writeKeyQuery": {"type": "apiKey", "in": "query", "name": "writeKey"},
    }
    api["paths"] |= {path: {"post": _post(path, route)} for path, route in ROUTES.items()}
    return api


def _post(path: str, route: Route) -> Json:
    examples = list(MESSAGES.values())
    example = next((each for each in examples if each["type"] == route.type), examples[0])
    name, example = ("Batch", {"batch": [example]}) if route.batch else ("Call" if route.type else "Message", example)
    return {
        "tags": ["send"],
        "summary": "Send events in a batch" if route.batch else f"Send one {route.type or 'event'}",
        "description": (
            "200 means that every event is safe. What is wrong with one event of a batch goes to the dead letters, and "
            "the batch goes on. The Content-Type is ignored; gzip is known by its first bytes."
        ),
        "operationId": "post" + path.replace("/", "_"),
        "security": _KEYS,
        "parameters": [
            {
                "name": "verbose",
                "in": "query",
                "schema": {"enum": ["1"]},
                "description": "Say what became of each event.",
            }
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref(name), "example": example}},
        },
        "responses": {
            "200": {"description": "Safe.", "content": {"application/json": {"schema": _ref("Accepted")}}},
            **_errors(OF_INGEST),
        },
    }


def _errors(statuses: tuple[int, ...]) -> Json:
    """Answers by status: the refusals that have it, by name."""
    made: Json = {}
    for status in sorted(statuses):
        rows = [row for row in REJECTIONS if row.status == status]
        made[str(status)] = {
            "description": " ".join(f"{row.name}: {row.message}" for row in rows) or "Refused.",
            "content": {"application/json": {"schema": _ref("Error")}},
        }
        if any(row.asks_again for row in rows):
            retry = {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds.", "required": True}
            made[str(status)]["headers"] = {"Retry-After": retry}
    return made


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}
