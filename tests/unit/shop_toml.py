"""A tracker.toml with one site, to which tests add their lines."""

from __future__ import annotations

from typing import Final

SHOP: Final = '[sites.shop]\nwrite_key = "write-key-1"\nsecret_key = "secret-key-1"\n'
