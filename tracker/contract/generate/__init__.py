"""What is generated from the contract: JSON Schema, TypeScript types, docs/reference; `--check` finds drift.

    python -m tracker.contract.generate            write the files, and the examples in docs/triggers.md
    python -m tracker.contract.generate --check    exit 1 and name the files that are not as they should be

The same contract gives the same bytes. Every file says that it is generated; one that says so and is no
longer made counts as drift too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from tracker.contract.generate import reference
from tracker.contract.generate.asyncapi import asyncapi
from tracker.contract.generate.json_schema import schemas
from tracker.contract.generate.texts import MARK, SCHEMA_DIR, to_json
from tracker.contract.generate.typescript import typescript

ROOT: Final = Path(__file__).parents[3]
REFERENCE_DIR: Final = "docs/reference"
TRIGGERS_BY_HAND: Final = "docs/triggers.md"
"""Written by hand, but for the example in the section of each kind."""
TYPESCRIPT: Final = "sdk_js/src/contract.gen.ts"


def files() -> dict[str, str]:
    """Every generated file: path below the project's root -> text."""
    made = {f"{SCHEMA_DIR}/{name}.schema.json": to_json(schema) for name, schema in schemas().items()}
    made[TYPESCRIPT] = typescript()
    made[f"{REFERENCE_DIR}/asyncapi.json"] = to_json(asyncapi())
    made |= {f"{REFERENCE_DIR}/{name}.md": f"<!-- {MARK} -->\n{page}" for name, page in reference.pages().items()}
    return made


def drifted(root: Path) -> list[str]:
    """Paths below `root` that differ from the generated text, are missing, or are no longer generated."""
    return _drifted(root, files() | _with_examples(root))


def _drifted(root: Path, made: Mapping[str, str]) -> list[str]:
    differ = [path for path, text in made.items() if _read(root / path) != text]
    return sorted([*differ, *_stale(root, made)])


def write(root: Path) -> list[str]:
    """Write what differs, remove what is stale; returns the paths that changed."""
    made = files() | _with_examples(root)
    changed = _drifted(root, made)
    for path in changed:
        if path in made:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(made[path], "utf-8")
        else:
            (root / path).unlink()
    return changed


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def _with_examples(root: Path) -> dict[str, str]:
    """docs/triggers.md with the golden example at the end of each kind's section; nothing where there is no page."""
    page = _read(root / TRIGGERS_BY_HAND)
    if page is None:
        return {}
    golden = {kind.name: example for kind, data, example in reference.golden_examples() if data is kind.data}
    head, *sections = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    for i, section in enumerate(sections):
        if (example := golden.get(section.splitlines()[0].removeprefix("## "))) is not None:
            by_hand = re.sub(r"```json\n.*?\n```\n", "", section, flags=re.DOTALL)
            sections[i] = f"{by_hand.rstrip()}\n\n{example}\n\n"
    return {TRIGGERS_BY_HAND: "".join((head, *sections)).rstrip() + "\n"}


def _stale(root: Path, made: Iterable[str]) -> Iterator[str]:
    made = set(made)
    for folder in (SCHEMA_DIR, REFERENCE_DIR):
        for path in (root / folder).glob("*"):
            name = path.relative_to(root).as_posix()
            if name not in made and MARK in (_read(path) or ""):
                yield name
