"""The registered signals."""

from __future__ import annotations

from typing import Any, Final

from stream.signals.base import Signal

SIGNALS: Final[tuple[Signal[Any], ...]] = ()
