"""Where in tracker.toml a value is wrong, in the file's own names.

msgspec says `$[...].triggers`, of whatever site, and of a wrong word not which there are.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from msgspec import inspect

Step = str | int

_STEP: Final = re.compile(r"\.(\w+)|\[(\d+)\]|(\[\.\.\.\])")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`").fullmatch
_MISSING: Final = re.compile(r"Object missing required field `(.*)`").fullmatch
_NO_WORD: Final = re.compile(r"Invalid enum value (.*)").fullmatch
_NO_LIST: Final = "Expected `array`, got `object`"


def convert(value: Any, type: Any) -> Any:
    """A setting's value as `type`. Raises PlaceError."""
    try:
        return msgspec.convert(value, type, strict=False)
    except msgspec.ValidationError as e:
        raise _found(str(e), value, type) from None


class PlaceError(ValueError):
    """`place`: under the setting, as `shop.triggers.cap`, or empty; `why`: one line."""

    def __init__(self, place: str, why: str) -> None:
        super().__init__(why)
        self.place, self.why = place, why

    def told(self, name: str) -> str:
        """With the setting's name, where it stands in the file."""
        place = name + ("" if self.place[:1] in ("", "[") else ".") + self.place
        table = f"; a list of tables is written [[{place}]]" if self.why == _NO_LIST else ""
        return f"{place}: {self.why}{table}"


def meant(name: str, known: Iterable[str], else_: str) -> str:
    """What to add to an unknown name: the one that is like it, else `else_`."""
    alike = difflib.get_close_matches(name, list(known), 1, 0.75)
    return f"is '{alike[0]}' meant?" if alike else else_


def _found(error: str, value: Any, type: Any) -> PlaceError:
    why, _, path = error.partition(" - at `$")
    steps: list[Step] = []
    node: inspect.Type | None = inspect.type_info(type)
    here = value
    for field, index, any_key in _STEP.findall(path):
        step: Step | None = field or (int(index) if index else None)
        if any_key:
            step = _culprit(error, value, type, steps, here)
        if step is None or isinstance(here, dict) != isinstance(step, str):
            break
        node, here = _under(node, step), here[step]
        steps.append(step)
    place = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps).removeprefix(".")
    return PlaceError(place, _hinted(why, _bare(node)))


def _hinted(why: str, nodes: tuple[inspect.Type, ...]) -> str:
    if unknown := _UNKNOWN(why):
        names = [f.encode_name for node in nodes if isinstance(node, inspect.StructType) for f in node.fields]
        return f"unknown setting '{unknown[1]}'; {meant(unknown[1], names, 'there are ' + ', '.join(names))}"
    if missing := _MISSING(why):
        return f"'{missing[1]}' is missing"
    if no_word := _NO_WORD(why):
        words = [str(word) for node in nodes if isinstance(node, inspect.LiteralType) for word in node.values]
        return f"{no_word[1]} is none of {', '.join(words)}"
    return why


def _culprit(error: str, value: Any, type: Any, steps: list[Step], table: Any) -> str | None:
    """The key of `table`, which is at `steps`, that alone gives the same error."""
    for key in table if isinstance(table, dict) else ():
        try:
            msgspec.convert(_with(value, steps, {key: table[key]}), type, strict=False)
        except msgspec.ValidationError as e:
            if str(e) == error:
                return str(key)
    return None


def _with(value: Any, steps: list[Step], new: Any) -> Any:
    """A copy of `value` that has `new` at `steps`."""
    if not steps:
        return new
    copy = value.copy()
    copy[steps[0]] = _with(value[steps[0]], steps[1:], new)
    return copy


def _bare(node: inspect.Type | None) -> tuple[inspect.Type, ...]:
    """Without what only describes it; of a union all that it may be."""
    if isinstance(node, inspect.Metadata):
        return _bare(node.type)
    if isinstance(node, inspect.UnionType):
        return tuple(bare for part in node.types for bare in _bare(part))
    return () if node is None else (node,)


def _under(node: inspect.Type | None, step: Step) -> inspect.Type | None:
    for bare in _bare(node):
        if isinstance(bare, inspect.StructType):
            return next((f.type for f in bare.fields if f.encode_name == step), None)
        if isinstance(bare, inspect.DictType):
            return bare.value_type
        if isinstance(bare, inspect.ListType | inspect.VarTupleType):
            return bare.item_type
        if isinstance(bare, inspect.TupleType) and isinstance(step, int):
            return bare.item_types[step]
    return None
