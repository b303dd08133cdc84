"""Whose key a request came with: Basic user name, X-Write-Key, body writeKey, ?writeKey=, in this order."""

from __future__ import annotations

import base64
import binascii
from hashlib import sha256
from typing import NamedTuple
from urllib.parse import parse_qs

from tracker.contract.settings import Settings
from tracker.intake.draft import Policy
from tracker.intake.policy import policy_of
from tracker.rejections import INVALID_KEY, MISPLACED_SECRET_KEY, MISSING_KEY, Refusal, refuse


class Owner(NamedTuple):
    """Who a key belongs to."""

    site: str
    source: str
    """'client' for the write key, 'import' for the secret key."""
    origins: frozenset[bytes]
    """Origins whose pages may send; empty: all."""
    policy: Policy


class Keys:
    def __init__(self, settings: Settings) -> None:
        self.reconfigure(settings)

    def reconfigure(self, settings: Settings) -> None:
        """The keys and policies of these sites, and of no others, hold from now on."""
        self._write: dict[str, Owner] = {}
        self._secret: dict[bytes, Owner] = {}
        """By the key's hash: the keys themselves are compared nowhere, so the time it takes tells nothing of them."""
        for name, site in settings.sites.items():
            origins = frozenset(origin.rstrip("/").lower().encode() for origin in site.origins)
            policy = policy_of(site)
            self._write[site.write_key] = Owner(name, "client", origins, policy)
            self._secret[_hash(site.secret_key)] = Owner(name, "import", origins, policy)

    def find(self, key: str) -> Owner | None:
        return self._write.get(key) or self._secret.get(_hash(key))

    def _find(self, key: str) -> Owner | Refusal:
        """Jitsu's keys are `id:secret`, in bodies `id:***`: where the whole is not a site's key, the id is."""
        return self.find(key) or self.find(key.partition(":")[0]) or refuse(INVALID_KEY)

    def in_head(self, headers: dict[bytes, bytes]) -> Owner | Refusal | None:
        """The key of a header; None: there is none."""
        authorization, key = headers.get(b"authorization"), None
        if authorization is not None:
            key = _basic_user(authorization)
        if not key and (plain := headers.get(b"x-write-key")) is not None:
            key = plain.decode("latin-1").strip()
        return self._find(key) if key else None

    def in_open(self, body_key: str | None, query: bytes) -> Owner | Refusal:
        """The key of the body, else of the address: there a secret key would be seen by others."""
        key = body_key or _query_key(query)
        if not key:
            return refuse(MISSING_KEY)
        owner = self._find(key)
        return refuse(MISPLACED_SECRET_KEY) if isinstance(owner, Owner) and owner.source != "client" else owner

    def of_query(self, query: bytes) -> Owner | None:
        return self._write.get(_query_key(query) or "")


def _hash(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogatepass")).digest()


def _basic_user(authorization: bytes) -> str:
    """User name, and password if there is one, of a Basic Authorization header; or ''."""
    if authorization[:6].lower() != b"basic ":
        return ""
    try:
        text = base64.b64decode(authorization[6:].strip(), validate=True).decode().strip()
        return "" if text.startswith(":") else text.removesuffix(":")
    except (binascii.Error, UnicodeDecodeError):
        return "\0"  # a header that can't be read is not the same as none: it is an unknown key


def _query_key(query: bytes) -> str | None:
    if b"writeKey" not in query:
        return None
    return parse_qs(query.decode("latin-1")).get("writeKey", [None])[0]
