"""`python -m tracker.embedded fetch` gets the parts of the embedded servers now (`make setup` does it);
`python -m tracker.embedded lock` renews kafka/jgo.lock.toml after a change of kafka/jgo.toml."""

from __future__ import annotations

import sys

from tracker.embedded import parts
from tracker.embedded.process import PartError


def main() -> int:
    try:
        match sys.argv[1:]:
            case ["fetch"]:
                parts.java()
                parts.kafka_jars(print)
                parts.redis_server(print)
            case ["lock"]:
                parts.renew_lock()
            case _:
                print(__doc__)
                return 2
    except PartError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
