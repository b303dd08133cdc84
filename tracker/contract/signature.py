"""Standard Webhooks (standardwebhooks.com), symmetric: HMAC-SHA256 over id.timestamp.body, base64, `v1,` in front."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from typing import Final

PREFIX: Final = "whsec_"
MIN_KEY_BYTES: Final = 24
MAX_KEY_BYTES: Final = 64


def key_of(secret: str) -> bytes:
    """'whsec_' + base64 of 24 to 64 bytes -> the bytes. Raises ValueError, which does not show the secret."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith(PREFIX) or not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
        raise ValueError(f"a secret is {PREFIX} and base64 of {MIN_KEY_BYTES} to {MAX_KEY_BYTES} random bytes")
    return key


def headers(keys: Sequence[bytes], id: str, at_s: int, body: bytes) -> dict[str, str]:
    """What a request is signed with. Several keys (the new and the old while a secret is changed): a signature each."""
    signed = b"%s.%d.%s" % (id.encode(), at_s, body)
    signatures = [b"v1," + base64.b64encode(hmac.digest(key, signed, "sha256")) for key in keys]
    return {
        "webhook-id": id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": b" ".join(signatures).decode(),
    }
