"""Which identifier values mean somebody."""

from __future__ import annotations

import re
from typing import Final

from tracker.contract.events import MAX_ID_CHARS

_nobody = re.compile(r"[0-]*|-1").fullmatch
BLOCKED: Final[frozenset[str]] = frozenset(
    {
        "null", "none", "nil", "anonymous", "guest", "distinctid", "distinct_id", "id", "not_authenticated", "email",
        "undefined", "true", "false", "nan", "[object object]",
    }
)  # fmt: skip
"""Values that broken integrations send for everybody (compared in lower case, quotes and blanks stripped)."""


def usable(value: str | None) -> str | None:
    """The identifier, or None when it means nobody: blank, blocked, zeros and dashes only, or longer than 200."""
    if value is None or len(value) > MAX_ID_CHARS:
        return None
    bare = value.strip().strip("\"'").strip().lower()
    return None if bare in BLOCKED or _nobody(bare) else value
