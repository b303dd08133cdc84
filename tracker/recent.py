"""Which events were acked lately: so that a sender who asks (?verbose=1) learns that a repeat is one.

Known are the events of verbose requests to this process, the last of them up to a bound; the others cost nothing. The
effect of repeats does not rest on this: the stream drops them all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

MAX_KNOWN: Final = 100_000
"""About 15 MB."""


class Recent:
    def __init__(self, most: int = MAX_KNOWN) -> None:
        self._most = most
        self._known: dict[int, None] = {}

    def __contains__(self, message_hash: int) -> bool:
        return message_hash in self._known

    def add(self, hashes: Iterable[int]) -> None:
        known = self._known
        for each in hashes:
            known.pop(each, None)  # to the end
            known[each] = None
        while len(known) > self._most:
            del known[next(iter(known))]
