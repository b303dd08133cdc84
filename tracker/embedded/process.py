"""One child process: started with its output in a log file, watched, stopped by its own pid, and why it died.

On Linux the kernel kills a child whose parent is gone (PR_SET_PDEATHSIG), so that even a `kill -9` of the parent
leaves nothing behind. Whatever is started through here may be killed at any moment: Kafka and Redis recover from
their logs.
"""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

QUIET_PORTS: Final = range(15_000, 32_000)
"""Linux takes outgoing connections' ports from 32768 on (net.ipv4.ip_local_port_range)."""
PORT_TRIES: Final = 50
LOG_LIMIT_BYTES: Final = 32 << 20
"""A log file over this size becomes `.1` (the one before it goes)."""

PROBLEM: Final = re.compile(r"\b(WARN|WARNING|ERROR|CRITICAL|FATAL)\b|^Traceback|^[\w.]*(Error|Exception)\b")
"""A line of a log that a person should see."""
SERVER_PROBLEM: Final = re.compile(
    r"\b(ERROR|FATAL|OutOfMemoryError|MISCONF)\b"
    r"|^(Caused by: )?[\w.$]+(Exception|Error)\b"
    r"|# .*([Ee]rror|[Cc]an't|[Ff]ailed|FATAL)"
)
"""The same for Kafka and Redis, which warn of much that is nothing."""

_PR_SET_PDEATHSIG: Final = 1


class PartError(Exception):
    """A part of the stack can't be had or can't run. The message is one line: what, and what helps."""


class Child:
    """A process that `start` starts. `stop` may be called in any state and always reaps."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        keep_fds: Sequence[int] = (),
        grace_s: float = 15.0,
        problem: re.Pattern[str] = PROBLEM,
    ) -> None:
        self.name, self.argv, self.log, self.env, self.cwd = name, list(argv), log, env, cwd
        self.keep_fds = tuple(keep_fds)
        """Descriptors that the child holds too: a lock stays taken until the last child is gone."""
        self.grace_s = grace_s
        """Seconds between SIGTERM and SIGKILL."""
        self.problem = problem
        self.process: subprocess.Popen[bytes] | None = None
        self._seen = self._began = 0

    def start(self) -> Child:
        rotate(self.log, 4 << 20)
        with self.log.open("ab") as out:
            self._seen = self._began = out.tell()
            self.process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=None if self.env is None else dict(self.env),
                cwd=self.cwd,
                pass_fds=self.keep_fds,
                # Its own group: Ctrl-C in the terminal reaches the parent alone, which then stops all in order.
                process_group=0,
                preexec_fn=_die_with_parent(),
            )
        return self

    @property
    def pid(self) -> int:
        if self.process is None:
            raise RuntimeError(f"{self.name} is not started")
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def terminate(self) -> None:
        """SIGTERM, without waiting: several children can end at once."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def stop(self, grace_s: float | None = None) -> int | None:
        """SIGTERM, wait, SIGKILL. The exit code (negative: the signal); None if it was never started."""
        if self.process is None:
            return None
        self.terminate()
        try:
            return self.process.wait(self.grace_s if grace_s is None else grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def kill(self) -> None:
        """SIGKILL and reap: what a crash looks like."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def new_lines(self) -> list[str]:
        """What it wrote since the last call: whole lines, 256 KB at most (the next call reads on)."""
        try:
            with self.log.open("rb") as f:
                if f.seek(0, os.SEEK_END) < self._seen:  # rotated
                    self._seen = 0
                f.seek(self._seen)
                data = f.read(256 << 10)
        except OSError:
            return []
        end = data.rfind(b"\n") + 1 or (len(data) if len(data) == 256 << 10 else 0)
        self._seen += end
        return data[:end].decode("utf-8", "replace").splitlines()

    def last_lines(self, count: int = 12) -> list[str]:
        """Of this run: what one before has said explains nothing now."""
        try:
            with self.log.open("rb") as f:
                end = f.seek(0, os.SEEK_END)
                began = self._began if self._began <= end else 0  # rotated
                f.seek(max(began, end - 16384))
                return f.read().decode("utf-8", "replace").splitlines()[-count:]
        except OSError:
            return []

    def reason(self) -> str:
        """Why it is not running, in one line: its exit code and its last line that says a problem."""
        code = self.process.poll() if self.process is not None else None
        how = (
            f"was ended by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with code {code}"
        )
        lines = [line.strip() for line in self.last_lines(60) if line.strip() and not line.startswith((" ", "\t"))]
        told = next(
            (line for line in reversed(lines) if self.problem.search(line)),
            lines[-1] if lines else "it wrote nothing",
        )
        return f"{self.name} {how}: {told} (log: {self.log})"


def wait_until(
    ready: Callable[[], bool],
    children: Sequence[Child],
    deadline_s: float,
    what: str,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Poll `ready` until it is true. Raises PartError when one of `children` ends or the deadline passes."""
    end = time.monotonic() + deadline_s
    while not ready():
        for child in children:
            if not child.running:
                raise PartError(child.reason())
        if time.monotonic() > end:
            last = next(
                (line.strip() for child in children for line in reversed(child.last_lines()) if line.strip()),
                "no output",
            )
            logs = ", ".join(str(child.log) for child in children)
            raise PartError(
                f"{what} did not answer within {deadline_s:.0f} s: {last}" + (f" (log: {logs})" if logs else "")
            )
        pause(0.1)


def rotate(log: Path, limit_bytes: int = LOG_LIMIT_BYTES) -> None:
    """Copy and truncate: the writer holds the file open for appending and goes on at its new end."""
    if log.exists() and log.stat().st_size > limit_bytes:
        shutil.copyfile(log, log.with_name(log.name + ".1"))
        os.truncate(log, 0)


def free_port(host: str = "127.0.0.1") -> int:
    """Below the ports of outgoing connections, if one is free there: a JVM listens only seconds after it was chosen."""
    for _ in range(PORT_TRIES):
        port = secrets.choice(QUIET_PORTS)
        if port_problem(host, port) is None:
            return port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as s:
        s.bind((host, 0))
        return int(s.getsockname()[1])


def port_problem(host: str, port: int) -> str | None:
    """Why nothing can listen there; None if it can."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is not in use
        try:
            s.bind((host, port))
            s.listen(1)
        except OSError as e:
            return "is in use" if e.errno in (98, 48) else f"can't be opened ({e.strerror or e})"
    return None


def _die_with_parent() -> Callable[[], None] | None:
    """What the child runs between fork and exec. Only on Linux: elsewhere an orderly stop ends the children."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()

    def arm() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return arm
