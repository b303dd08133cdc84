"""Lengths of time: in milliseconds, the unit of all times inside, and in seconds, for counters and what Redis keeps."""

from __future__ import annotations

from typing import Final

MINUTE_S: Final = 60
HOUR_S: Final = 3600
DAY_S: Final = 86_400

MINUTE_MS: Final = MINUTE_S * 1000
HOUR_MS: Final = HOUR_S * 1000
DAY_MS: Final = DAY_S * 1000
