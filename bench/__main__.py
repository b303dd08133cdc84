"""`python -m bench [endpoint|worker|stream-peers|fit|snippet [options]]`: what each stage costs, in one run.

In one run on one machine: compare rows with each other, not with another machine's figures.
"""

from __future__ import annotations

import sys

from bench import endpoint, fit, snippet, stream, stream_peers

PARTS = {
    "endpoint": endpoint.main,
    "worker": stream.main,
    "stream-peers": stream_peers.main,
    "fit": fit.main,
    "snippet": snippet.main,
}


def main() -> int:
    if not sys.argv[1:]:
        for run in PARTS.values():
            run([])
        return 0
    part, *options = sys.argv[1:]
    if part in {"-h", "--help"}:
        print(__doc__)
        return 0
    if part not in PARTS:
        print(f"bench: there is no part {part}; there are: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    PARTS[part](options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
