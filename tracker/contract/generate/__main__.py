"""The command."""

from __future__ import annotations

import sys

from tracker.contract.generate import ROOT, drifted, write
from tracker.contract.generate.texts import COMMAND


def main(args: list[str]) -> int:
    if args not in ([], ["--check"]):
        print(f"usage: {COMMAND} [--check]", file=sys.stderr)
        return 2
    if not (ROOT / "pyproject.toml").exists():
        print(f"{ROOT} is no checkout of the project: nothing to generate there", file=sys.stderr)
        return 2
    if args:
        if wrong := drifted(ROOT):
            print(f"not as the contract says: {', '.join(wrong)}. Run: {COMMAND}", file=sys.stderr)
        return 1 if wrong else 0
    for path in write(ROOT):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
