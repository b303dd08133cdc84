"""`python -m bench [endpoint|worker]`: CPU us an event and events/s, all of it in one run on this machine.

Compare rows with each other, not with another machine's figures.
"""

from __future__ import annotations

import sys

from bench import endpoint, stream

PARTS = {"endpoint": lambda: endpoint.main([]), "worker": stream.main}


def main() -> int:
    wanted = sys.argv[1:] or list(PARTS)
    if unknown := set(wanted) - set(PARTS):
        print(f"bench: there is no part {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    for part in wanted:
        PARTS[part]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
