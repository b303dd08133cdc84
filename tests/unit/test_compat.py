"""What is a GET for clients of other vendors, and what RudderStack says in its own way."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.asgi import answer
from tracker.compat import MAX_DOTS, event_of, router
from tracker.contract.loading import SettingsError, load
from tracker.intake import Call, take
from tracker.keys import Keys
from tracker.limits import Guard

CONFIG = """
[sites.shop]
write_key = "shop-write-key"
secret_key = "shop-secret-key"
"""


def get(path: str, tmp_path: Any, peer: str = "10.0.0.9", headers: dict[str, str] | None = None, **chosen: Any) -> Any:
    """The JSON that a client gets."""
    file = tmp_path / "tracker.toml"
    file.write_text(CONFIG)
    settings = load({}, file, **chosen)
    app = FastAPI()
    app.include_router(router(lambda: settings, Keys(settings), Guard(settings)))
    _, _, body = answer(app, "GET", path, {"host": "t.example:8080"} | (headers or {}), peer=peer)
    return json.loads(body)


def told(tmp_path: Any, **more: Any) -> tuple[str, str]:
    ours = get("/v1/projects/shop-write-key/settings", tmp_path, **more)["integrations"]["Segment.io"]
    return ours["protocol"], ours["apiHost"]


def test_clients_are_told_the_address_by_which_they_came(tmp_path: Any) -> None:
    assert told(tmp_path) == ("http", "t.example:8080/v1")


def test_a_proxy_that_is_trusted_says_that_it_was_https(tmp_path: Any) -> None:
    https = {"x-forwarded-proto": "https"}
    assert told(tmp_path, headers=https, trusted_proxies="10.0.0.0/8") == ("https", "t.example:8080/v1")
    assert told(tmp_path, headers=https) == ("http", "t.example:8080/v1")
    assert told(tmp_path, headers={"x-forwarded-proto": "x"}, trusted_proxies="10.0.0.0/8")[0] == "http"


@pytest.mark.parametrize("url", ["https://t.shop.example", "https://t.shop.example/"])
def test_public_url_stands_above_what_the_request_says(tmp_path: Any, url: str) -> None:
    assert told(tmp_path, public_url=url) == ("https", "t.shop.example/v1")
    source = get("/sourceConfig", tmp_path, headers={"x-write-key": "shop-write-key"}, public_url=url)["source"]
    assert source["dataplanes"]["US"][0]["url"] == "https://t.shop.example"


@pytest.mark.parametrize("url", ["t.shop.example", "ftp://t.shop.example", "https://", "https://a/?b"])
def test_a_public_url_that_is_none_is_refused_at_the_start(tmp_path: Any, url: str) -> None:
    with pytest.raises(SettingsError, match="public_url"):
        told(tmp_path, public_url=url)


@pytest.mark.parametrize(
    ("query", "event"),
    [
        (b"event=A&userId=u", {"event": "A", "userId": "u"}),
        (b"context.page.url=https://x/%3Fa%3D1", {"context": {"page": {"url": "https://x/?a=1"}}}),
        (b"anonymousId=%22a%22&properties.n=%7B%22a%22%3A1%7D", {"anonymousId": "a", "properties": {"n": '{"a":1}'}}),
        (b"event=A&event=B&properties.a=1&properties.a.b=2", {"event": "A", "properties": {"a": "1"}}),
        (b"properties.a.b=2&properties.a=1", {"properties": {"a": {"b": "2"}}}),
        (b"writeKey=k&type=alias&batch=x&site=y&a.b=c&properties=x&context=", {}),
        (b"%ff=1&event=%ff%00", {"event": "\ufffd\0"}),
    ],
)
def test_a_pixels_parameters_nest_by_their_dots_and_stay_texts(query: bytes, event: dict[str, Any]) -> None:
    assert event_of(query) == event


@given(st.binary(max_size=400))
def test_any_query_is_an_event_of_bounded_depth(query: bytes) -> None:
    def depth(part: Any) -> int:
        return 1 + max(map(depth, part.values()), default=0) if isinstance(part, dict) else 0

    assert depth(event_of(b"properties." + b"a." * 40 + b"b=1&" + query)) <= MAX_DOTS + 1
    json.dumps(event_of(query)).encode()


def taken(event: dict[str, Any], type_: str | None = None) -> tuple[dict[str, Any] | None, str | None]:
    """(what stands in Kafka, why it is refused)."""
    call = Call("shop", "client", 1_760_000_000_000, lambda: "made", 32768, type_)
    draft, refusal = take(json.dumps(event).encode(), call)
    return (None, refusal.rejection.name) if refusal else (json.loads(draft.value), None)


def test_rudderstacks_traits_stand_in_the_context_of_an_identify_call() -> None:
    context = {"traits": {"name": "Hoà"}, "library": {"name": "x"}}
    event, _ = taken({"type": "identify", "userId": "u", "context": context})
    assert event is not None
    assert event["traits"] == {"name": "Hoà"}
    assert "traits" not in event["context"]
    assert event["context"]["library"] == {"name": "x"}


@pytest.mark.parametrize(
    "event",
    [
        {"type": "identify", "traits": {"a": 1}, "context": {"traits": {"b": 2}}},
        {"type": "track", "event": "A", "context": {"traits": {"b": 2}}},
        {"type": "group", "groupId": "g", "context": {"traits": {"b": 2}}},
        {"type": "identify", "context": {"traits": None, "x": '"traits"'}},
    ],
)
def test_traits_in_the_context_of_other_calls_stay_there(event: dict[str, Any]) -> None:
    found, _ = taken({**event, "userId": "u"})
    assert found is not None
    assert found.get("traits") == event.get("traits")
    assert found["context"]["traits"] == event["context"]["traits"]


@pytest.mark.parametrize("in_batch", [True, False])
def test_a_merge_call_is_an_identify_call(in_batch: bool) -> None:
    identifiers = [{"type": "email", "value": "a@example.com"}, {"type": "mobile", "value": "+84 90 000 0000"}]
    sent = {"type": "merge", "userId": "u", "mergeProperties": identifiers}
    event, _ = taken(sent, None if in_batch else "merge")
    assert event is not None
    assert (event["type"], event["userId"]) == ("identify", "u")
    assert event["traits"] == {"email": "a@example.com", "mobile": "+84 90 000 0000"}


def test_a_merge_call_may_name_its_ids_among_the_identifiers() -> None:
    identifiers = [{"type": "anonymous_id", "value": "a"}, {"type": "user_id", "value": 7}]
    event, _ = taken({"type": "merge", "mergeProperties": identifiers})
    assert event is not None
    assert (event["userId"], event["anonymousId"], event["traits"]) == ("7", "a", {})


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({"userId": "u"}, "wrong_type"),
        ({"userId": "u", "mergeProperties": {"type": "email"}}, "wrong_type"),
        ({"userId": "u", "mergeProperties": [{"type": "email"}]}, "wrong_type"),
        ({"mergeProperties": [{"type": "email", "value": "a@example.com"}]}, "missing_id"),
    ],
)
def test_a_merge_call_that_cannot_be_read_is_refused(event: dict[str, Any], reason: str) -> None:
    assert taken({"type": "merge", **event}) == (None, reason)
