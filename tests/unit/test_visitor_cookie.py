"""The visitor's cookie of the endpoint: set for the site's own pages, with what they say, and for nobody else."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from fastapi import FastAPI

from tests.unit.asgi import answer
from tracker.contract.loading import SettingsError, load
from tracker.contract.settings import Settings
from tracker.keys import Keys
from tracker.limits import Guard
from tracker.visitor_cookie import router

CONFIG = """
batch_path = "/s/in"
[sites.shop]
write_key = "shop-write-key"
secret_key = "shop-secret-key"
cookie_domain = "shop.vn"
[sites.plain]
write_key = "plain-write-key"
secret_key = "plain-secret-key"
[sites.listed]
write_key = "listed-write-key"
secret_key = "listed-secret-key"
cookie_domain = "Listed.vn"
origins = ["https://www.listed.vn"]
"""


@pytest.fixture
def settings(tmp_path: Any) -> Settings:
    file = tmp_path / "tracker.toml"
    file.write_text(CONFIG)
    return load({}, file)


def post(settings: Settings, query: str, origin: str | None, path: str = "/v1/batch/id") -> tuple[int, str | None]:
    """(status, Set-Cookie) of the answer."""
    app = FastAPI()
    app.include_router(router(lambda: settings, Keys(settings), Guard(settings)))
    status, headers, _ = answer(app, "POST", path, {"origin": origin} if origin else {}, query)
    return status, headers.get("set-cookie")


AGE = "Path=/; Max-Age=31536000; SameSite=Lax"
SHOP = "writeKey=shop-write-key"


@pytest.mark.parametrize(
    ("query", "origin", "expected"),
    [
        (f"{SHOP}&id=a1", "https://www.shop.vn", (204, f"trk_anonymous_id=a1; {AGE}; Domain=shop.vn; Secure")),
        (f"{SHOP}&id=a1", "http://shop.vn:8080", (204, f"trk_anonymous_id=a1; {AGE}; Domain=shop.vn")),
        (f"{SHOP}&id=a1", "https://WWW.Shop.vn", (204, f"trk_anonymous_id=a1; {AGE}; Domain=shop.vn; Secure")),
        (f"{SHOP}&id=a1", "https://myshop.vn", (403, None)),
        (f"{SHOP}&id=a1", "https://shop.vn.evil.example", (403, None)),
        (f"{SHOP}&id=a1", "https://evil.example/shop.vn", (403, None)),
        (f"{SHOP}&id=a1", "https://[", (403, None)),
        (f"{SHOP}&id=a1", "null", (403, None)),
        (f"{SHOP}&id=a1", None, (403, None)),
        (SHOP, "https://shop.vn", (204, None)),
        (f"{SHOP}&id={'x' * 201}", "https://shop.vn", (204, None)),
        ("writeKey=plain-write-key&id=a1", "https://shop.vn", (204, None)),
        (
            "writeKey=listed-write-key&id=a1", "https://www.listed.vn",
            (204, f"trk_anonymous_id=a1; {AGE}; Domain=listed.vn; Secure"),
        ),
        ("writeKey=listed-write-key&id=a1", "https://blog.listed.vn", (403, None)),
        ("writeKey=shop-secret-key&id=a1", "https://shop.vn", (401, None)),
        ("writeKey=nobody&id=a1", "https://shop.vn", (401, None)),
        ("id=a1", "https://shop.vn", (401, None)),
    ],
)  # fmt: skip
def test_who_gets_a_cookie(
    settings: Settings, query: str, origin: str | None, expected: tuple[int, str | None]
) -> None:
    assert post(settings, query, origin) == expected


@pytest.mark.parametrize("visitor", ["a; Domain=evil.example", "x\r\nSet-Cookie: a=b", "Lan Ơi", "a,b~!*'()%"])
def test_an_id_is_written_as_the_snippet_writes_it_and_adds_nothing(settings: Settings, visitor: str) -> None:
    status, cookie = post(settings, f"{SHOP}&id={quote(visitor, safe='')}", "https://shop.vn", "/s/in/id")
    assert status == 204
    assert cookie == f"trk_anonymous_id={quote(visitor, safe=chr(33) + chr(126) + '*' + chr(39) + '()')}; " + (
        f"{AGE}; Domain=shop.vn; Secure"
    )


@pytest.mark.parametrize("domain", ["shop", ".shop.vn", "https://shop.vn", "shop.vn; Path=/"])
def test_a_domain_that_is_none_is_named(tmp_path: Any, domain: str) -> None:
    file = tmp_path / "tracker.toml"
    file.write_text(CONFIG.replace('"shop.vn"', f'"{domain}"'))
    with pytest.raises(SettingsError, match="site 'shop': cookie_domain"):
        load({}, file)
