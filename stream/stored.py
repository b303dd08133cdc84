"""A signal's state as it stands in Redis: JSON with the version of its form, older ones brought up to today's."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from stream.signals.base import Signal

VERSION: Final = "_v"
_MARKED: Final = f'{{"{VERSION}":'

_encode = msgspec.json.Encoder().encode


class StateError(Exception):
    """A state in Redis that this worker can't read; it must stop. One line: whose it is, and what to do."""


class Newer(StateError):
    """It was written by a newer version than this one."""


class _Newer(Exception):
    pass


class Stored:
    """A signal's state as JSON, with its version in front: {"_v":2,...}; version 1 has none."""

    def __init__(self, signal: Signal[Any]) -> None:
        self._signal = signal
        self._decode = msgspec.json.Decoder(signal.state_type).decode
        self._mark = f'{{"{VERSION}":{signal.version}' if signal.version > 1 else ""

    def encode(self, state: Any) -> bytes:
        value = _encode(state)
        if not self._mark:
            return value
        return self._mark.encode() + (b"," if len(value) > 2 else b"") + value[1:]

    def decode(self, text: str, whose: str) -> Any:
        """`whose`: SITE:PID, for the message. Raises StateError."""
        try:
            if self._mark:
                current = text.startswith((self._mark + ",", self._mark + "}"))
            else:
                current = not text.startswith(_MARKED)
            return self._decode(text) if current else self._migrated(text)
        except _Newer as e:
            raise Newer(self._told(whose, e)) from e
        except (RecursionError, msgspec.MsgspecError, LookupError, TypeError, ValueError, NotImplementedError) as e:
            raise StateError(self._told(whose, e)) from e

    def _told(self, whose: str, e: Exception) -> str:
        return (
            f"the state `{self._signal.name}` of profile {whose} can't be read ({e}): start the version "
            "that wrote it, or mend the signal's `migrate`; docs/signals-howto.md"
        )

    def _migrated(self, text: str) -> Any:
        fields = msgspec.json.decode(text, type=dict[str, Any])
        version = fields.pop(VERSION, 1)
        if version > self._signal.version:
            raise _Newer(f"version {version}, this worker knows up to {self._signal.version}")
        return msgspec.convert(self._signal.migrate(version, fields), self._signal.state_type)
