"""Kafka Streams for the job of job.py: WindowCounts.java of bench/kafka_streams, compiled here, with its jars.

python -m bench.peers.kafka_streams lock     renews the lock of the jars, after a version was changed in jgo.toml
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tracker.embedded import parts
from tracker.embedded.process import PartError

SOURCE: Final = Path(__file__).parent.parent / "kafka_streams" / "WindowCounts.java"
LOCK: Final = SOURCE.with_name("jgo.lock.toml")


def command(folder: Path) -> list[str]:
    """The program compiled into `folder`: what runs it, but for its arguments. Raises PartError."""
    home = os.environ.get("JAVA_HOME")
    javac = (shutil.which("javac", path=str(Path(home, "bin"))) if home else None) or shutil.which("javac")
    if javac is None:
        raise PartError("no javac: install a JDK of 17 or newer, or set JAVA_HOME")
    jars = parts.kafka_jars(print, LOCK, "Kafka Streams (90 MB, once)")
    done = subprocess.run(
        [javac, "--release", "17", "-cp", str(jars / "*"), "-d", str(folder), str(SOURCE)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        told = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise PartError(f"javac refuses {SOURCE.name}: {told[0] if told else 'no output'}")
    return [
        parts.java(), "-Xmx1g", "-cp", os.pathsep.join((str(folder), str(jars / "*"))),
        f"-Djava.io.tmpdir={folder}", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
        "--enable-native-access=ALL-UNNAMED", "WindowCounts",
    ]  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:] != ["lock"]:
        print(__doc__)
        sys.exit(2)
    parts.renew_lock(LOCK)
