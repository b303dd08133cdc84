"""A Redis that answers, but takes no writes: no fault of a partition, and no restart of a worker helps.

It refuses a script's first write, so nothing of a chunk is written. Workers wait, claim again, and go on by themselves
when it takes writes again; /readyz and the log say what it lacks.
"""

from __future__ import annotations

import re
from typing import Final

from redis.exceptions import OutOfMemoryError, ResponseError

REFUSALS: Final[dict[str, str]] = {
    "OOM": "Redis is out of memory (its maxmemory): raise it, or make room",
    "MISCONF": "Redis can't write to its disk, and takes no writes: its log says why",
    "NOREPLICAS": "Redis has fewer replicas than its min-replicas-to-write, and takes no writes",
}
"""How the error begins, in a script's error somewhere within -> what to tell."""
KEPT_S: Final = 5.0
"""A refusal says so long what is wrong: partitions are claimed again, and refused again, each second."""

_code = re.compile(rf"\b({'|'.join(REFUSALS)})\b").search


def refusal(error: ResponseError) -> str | None:
    """The code of an answer that is such a refusal."""
    if isinstance(error, OutOfMemoryError):
        return "OOM"  # redis-py takes the code off
    found = _code(str(error))
    return found[1] if found is not None else None
