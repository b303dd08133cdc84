"""When a delivery is tried again, and when an endpoint is left alone. Pure: times and randomness are arguments."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import Final

from msgspec import Struct

FACTOR: Final = 4.0
MAX_DOUBLINGS: Final = 16


def wait_s(failures: int, *, first_s: float, most_s: float, draw: float, retry_after_s: float | None) -> float:
    """How long to wait after so many failures (1, 2, ...): first_s, 4 x, 16 x ..., of that half to all by `draw`
    (0..1), so that what failed together does not come back together. An endpoint that says when is believed, up to
    most_s."""
    planned = min(most_s, first_s * FACTOR ** min(failures - 1, 30))
    jittered = planned * (0.5 + draw / 2)
    return jittered if retry_after_s is None else min(most_s, max(jittered, retry_after_s))


def retry_after_s(value: str | None, now_s: float) -> float | None:
    """A Retry-After header: seconds or a date."""
    if value is None or len(value) > 64:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(min(int(text), 10**9))
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now_s)
    except (ValueError, TypeError, OverflowError):
        return None


class Breaker(Struct):
    """After so many failures in a row an endpoint is left alone for a while, then asked by one request at a time.

    Each further failure doubles the while, up to most_s; a success closes it.
    """

    failures: int
    first_s: float
    most_s: float
    in_a_row: int = 0
    until_s: float = 0.0
    probing: bool = False

    @property
    def open(self) -> bool:
        return self.in_a_row >= self.failures

    def may_go(self, now_s: float) -> bool:
        """Whether a request may be sent now; the caller sends it, and says how it went."""
        if not self.open:
            return True
        if self.probing or now_s < self.until_s:
            return False
        self.probing = True
        return True

    def went(self, ok: bool, now_s: float, retry_after: float | None = None) -> None:
        if self.open and not self.probing and not ok:
            return  # It was sent before the breaker opened: what many requests found out at once counts once.
        self.probing = False
        if ok:
            self.in_a_row = 0
            return
        self.in_a_row += 1
        if self.open:
            doublings = min(self.in_a_row - self.failures, MAX_DOUBLINGS)
            pause = max(self.first_s * 2**doublings, retry_after or 0.0)
            self.until_s = now_s + min(pause, self.most_s)

    def gave_up(self) -> None:
        """The request that was to probe was not sent after all."""
        self.probing = False
