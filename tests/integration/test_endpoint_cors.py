"""Pages of other origins."""

from __future__ import annotations

import pytest

from tests.endpoint import (
    SHOP,
    Http,
)
from tests.harness import Stack

pytestmark = pytest.mark.integration


def test_any_origin_may_send_to_a_site_that_lists_none(stack: Stack) -> None:
    with Http(stack.settings.http_port) as client:
        body = {"userId": "u", "event": "A", "writeKey": stack.sites[0].write_key}
        status, headers, _ = client.post("/v1/track", body, Origin="https://any.example")
    assert (status, headers["access-control-allow-origin"]) == (200, "*")
    assert headers["access-control-expose-headers"] == "Retry-After"
    assert "access-control-allow-credentials" not in headers


@pytest.mark.parametrize("origin", ["https://shop.example", "https://www.shop.example"])
def test_a_listed_origin_is_echoed(shop: int, origin: str) -> None:
    body = {"userId": "u", "event": "A", "writeKey": SHOP.write_key}
    with Http(shop) as client:
        status, headers, _ = client.post("/v1/track", body, Origin=origin)
        assert (status, headers["access-control-allow-origin"], headers["vary"]) == (200, origin, "Origin")
        refusal = client.post("/v1/track", {**body, "userId": None}, Origin=origin)
        assert (refusal[0], refusal[1]["access-control-allow-origin"]) == (400, origin)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://shop.example", "https://shop.example.evil"])
def test_another_origin_is_refused(shop: int, origin: str) -> None:
    body = {"userId": "u", "event": "A"}
    with Http(shop) as client:
        status, headers, answer = client.post("/v1/track", {**body, "writeKey": SHOP.write_key}, Origin=origin)
        assert (status, answer["code"]) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in headers
        # A server has no origin, and one with the secret key may name any.
        assert client.post("/v1/track", {**body, "writeKey": SHOP.write_key})[0] == 200
        assert client.post("/v1/track", body, X_Write_Key=SHOP.secret_key, Origin=origin)[0] == 200


def test_a_preflight_allows_the_headers_that_it_asks_for(shop: int) -> None:
    asked = "authorization,content-type,x-write-key,x-retry-count,anonymousid"
    ask = {
        "Origin": "https://shop.example",
        "Access_Control_Request_Headers": asked,
        "Access_Control_Request_Method": "POST",
    }
    with Http(shop) as client:
        status, headers, body = client.request("OPTIONS", "/v1/batch", **ask)
        assert (status, body) == (204, b"")
        assert headers["access-control-allow-headers"] == asked
        assert headers["access-control-allow-origin"] == "*"
        assert headers["access-control-max-age"] == "86400"
        assert "POST" in headers["access-control-allow-methods"]
        by_key = f"/v1/batch?writeKey={SHOP.write_key}"
        assert client.request("OPTIONS", by_key, **ask)[1]["access-control-allow-origin"] == "https://shop.example"
        other = client.request("OPTIONS", by_key, **{**ask, "Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other[1]
