"""Which pages may send, and what they are told."""

from __future__ import annotations

import pytest

from tracker import cors
from tracker.contract.loading import load
from tracker.keys import Keys, Owner
from tracker.rejections import Refusal

CONFIG = """
[sites.open]
write_key = "open-write-key"
secret_key = "open-secret-key"
[sites.shop]
write_key = "shop-write-key"
secret_key = "shop-secret-key"
origins = ["https://Shop.example/", "null"]
"""


@pytest.fixture
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    path = tmp_path_factory.mktemp("cors") / "tracker.toml"
    path.write_text(CONFIG, "utf-8")
    return Keys(load({}, path))


def owner(keys: Keys, key: str) -> Owner:
    found = keys.find(key)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("key", "origin", "may"),
    [
        ("open-write-key", b"https://any.example", True),
        ("open-write-key", b"null", True),
        ("shop-write-key", None, True),  # a server
        ("shop-write-key", b"https://shop.example", True),
        ("shop-write-key", b"https://SHOP.example", True),
        ("shop-write-key", b"null", True),  # listed: pages in files and sandboxes
        ("shop-write-key", b"http://shop.example", False),
        ("shop-write-key", b"https://shop.example:8443", False),
        ("shop-write-key", b"https://shop.example.evil", False),
        ("shop-write-key", b"https://evil.example/https://shop.example", False),
        ("shop-write-key", b"", False),
        ("shop-secret-key", b"https://evil.example", True),
    ],
)
def test_a_sites_list_says_which_pages_may_send(keys: Keys, key: str, origin: bytes | None, may: bool) -> None:
    assert cors.allowed(owner(keys, key), origin) is may
    told = dict(cors.headers(owner(keys, key), origin))
    if key.startswith("open"):
        assert told == {b"access-control-allow-origin": b"*", b"access-control-expose-headers": b"Retry-After"}
    else:
        listed = origin is not None and may and key == "shop-write-key"
        assert told.get(b"access-control-allow-origin") == (origin if listed else None)
        assert told[b"vary"] == b"Origin"


def test_a_preflight_echoes_what_is_asked_up_to_a_limit_and_opens_no_network(keys: Keys) -> None:
    asked = b"authorization,content-type,x-write-key,x-retry-count,anonymousid,sentat,rsa-retry-1"
    request = {
        b"origin": b"https://shop.example", b"access-control-request-headers": asked,
        b"access-control-request-private-network": b"true",
    }  # fmt: skip
    for key, origin in ((None, b"*"), ("open-write-key", b"*"), ("shop-write-key", b"https://shop.example")):
        told = dict(cors.preflight(owner(keys, key) if key else None, request))
        assert told[b"access-control-allow-origin"] == origin
        assert told[b"access-control-allow-headers"] == asked
        assert told[b"access-control-max-age"] == b"86400"
        assert b"access-control-allow-private-network" not in told
        assert b"access-control-allow-credentials" not in told
    long = dict(cors.preflight(None, {b"access-control-request-headers": b"x" * 9000}))
    assert len(long[b"access-control-allow-headers"]) == cors.MAX_ASKED_BYTES
    evil = dict(cors.preflight(owner(keys, "shop-write-key"), {b"origin": b"https://evil.example"}))
    assert b"access-control-allow-origin" not in evil


def test_a_masked_key_in_a_body_is_the_write_key_before_the_mask(keys: Keys) -> None:
    assert keys.in_open("shop-write-key:***", b"") is keys.find("shop-write-key")
    for key in ("shop-write-ke:***", "shop-secret-key:***", ":***"):
        assert isinstance(keys.in_open(key, b""), Refusal)


def test_secret_keys_are_nowhere_to_be_compared_with(keys: Keys) -> None:
    assert owner(keys, "shop-secret-key").source == "import"
    assert keys.find("shop-secret-ke") is None
    assert "shop-secret-key" not in repr(vars(keys))
