"""`python -m bench [endpoint|worker]`: one table of CPU us an event and events/s, all of it in one run on this machine.

Compare rows with each other, not with another machine's figures.
"""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from bench import stream


def main() -> int:
    wanted = sys.argv[1:] or ["endpoint", "worker"]
    if unknown := set(wanted) - {"endpoint", "worker"}:
        print(f"bench: unknown part {', '.join(sorted(unknown))}: endpoint, worker", file=sys.stderr)
        return 2
    console = Console()
    table = Table("stage", "CPU us an event", "events/s")
    if "endpoint" in wanted:
        from bench import endpoint

        with console.status("endpoint: 1 and 20 events a request"):
            for what, cpu_us, rate in endpoint.rows():
                table.add_row(what, f"{cpu_us:.1f}", f"{rate:,.0f}")
    if "worker" in wanted:
        with console.status("worker, then stock Faust on the same topic"):
            for what, cpu_us, rate in stream.rows():
                table.add_row(what, f"{cpu_us:.1f}", f"{rate:,.0f}")
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
