"""tracker/embedded/process.py: children are watched, stopped, and never outlive their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.harness import ROOT
from tracker.embedded.process import (
    QUIET_PORTS,
    SERVER_PROBLEM,
    Child,
    PartError,
    free_port,
    port_problem,
    rotate,
    wait_until,
)


def python(tmp_path: Path, code: str, **options: float) -> Child:
    return Child("part", [sys.executable, "-u", "-c", code], tmp_path / "part.log", grace_s=options.get("grace_s", 5))


def wait_for_text(child: Child, text: str) -> None:
    wait_until(lambda: any(text in line for line in child.last_lines()), [child], 10, text)


def gone(pid: int) -> bool:
    """No such process, or only its entry that nobody has reaped yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_child_that_ends_on_sigterm_is_given_the_time(tmp_path: Path) -> None:
    handler = "lambda *_: (time.sleep(.3), print('clean'), sys.exit(0))"
    code = f"import signal, time, sys\nsignal.signal(15, {handler})\nprint('up')\ntime.sleep(60)"
    child = python(tmp_path, code).start()
    wait_for_text(child, "up")
    assert child.stop() == 0
    assert child.last_lines()[-1] == "clean"


def test_a_child_that_ignores_sigterm_is_killed_after_its_grace(tmp_path: Path) -> None:
    child = python(
        tmp_path, "import signal,time\nsignal.signal(15, signal.SIG_IGN)\nprint('up')\ntime.sleep(60)", grace_s=0.3
    )
    child.start()
    wait_for_text(child, "up")
    began = time.monotonic()
    assert child.stop() == -signal.SIGKILL
    assert 0.3 <= time.monotonic() - began < 5


def test_the_reason_of_a_death_is_the_line_that_tells_it(tmp_path: Path) -> None:
    child = python(tmp_path, "print('fine'); raise ValueError('the disk is full')").start()
    with pytest.raises(PartError, match=r"part ended with code 1: ValueError: the disk is full \(log: .*part.log\)"):
        wait_until(lambda: False, [child], 10, "part")
    child.stop()


def test_a_child_that_was_killed_says_by_which_signal(tmp_path: Path) -> None:
    child = python(tmp_path, "import time; print('up'); time.sleep(60)").start()
    wait_for_text(child, "up")
    child.kill()
    assert "part was ended by SIGKILL: up" in child.reason()


def test_the_reason_of_a_death_is_none_of_a_run_before(tmp_path: Path) -> None:
    child = python(tmp_path, "raise SystemExit('tracker: error: an old one')").start()
    assert child.process is not None
    child.process.wait()
    assert "an old one" in child.reason()
    again = python(tmp_path, "raise SystemExit(3)").start()
    assert again.process is not None
    again.process.wait()
    assert again.reason().startswith("part ended with code 3: it wrote nothing")


def test_what_never_answers_is_an_error_after_the_deadline(tmp_path: Path) -> None:
    child = python(tmp_path, "import time; print('still loading'); time.sleep(60)").start()
    try:
        wait_for_text(child, "loading")
        with pytest.raises(PartError, match="part did not answer within 0 s: still loading"):
            wait_until(lambda: False, [child], 0.2, "part")
    finally:
        child.stop()


def test_stopping_what_was_never_started_is_nothing(tmp_path: Path) -> None:
    assert python(tmp_path, "").stop() is None


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_child_dies_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from tracker.embedded.process import Child
argv = [sys.executable, "-c", "import time; time.sleep(60)"]
child = Child("grandchild", argv, Path({str(tmp_path / "log")!r})).start()
print(child.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.kill()
    end = time.monotonic() + 5
    while not gone(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert gone(pid)


def test_new_lines_are_whole_and_told_once(tmp_path: Path) -> None:
    child = python(tmp_path, "import sys\nprint('one\\ntwo\\nthr', end='', flush=True); input()").start()
    wait_until(lambda: child.log.stat().st_size > 0 and not child.running, [], 10, "end")
    assert child.new_lines()[:2] == ["one", "two"]
    assert "one" not in child.new_lines()
    child.stop()


def test_a_log_over_its_limit_is_moved_and_the_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    with log.open("ab") as writer:
        writer.write(b"x" * 2000)
        writer.flush()
        rotate(log, 1000)
        writer.write(b"after")
        writer.flush()
    assert log.read_bytes() == b"after"
    assert (tmp_path / "part.log.1").stat().st_size == 2000


def test_a_free_port_is_none_that_an_outgoing_connection_may_take_before_it_is_listened_on() -> None:
    assert all(free_port() in QUIET_PORTS for _ in range(20))


def test_a_port_that_somebody_listens_on_is_a_problem() -> None:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        assert port_problem("127.0.0.1", s.getsockname()[1]) == "is in use"
    assert port_problem("127.0.0.1", free_port()) is None
    assert "can't be opened" in (port_problem("203.0.113.1", free_port()) or "")


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("2026-11-22T05:30:54.726 [main] ERROR kafka.Kafka - Exiting Kafka due to fatal exception", True),
        ("2026-11-22T05:30:54.726 [main] WARN org.apache.kafka.clients.NetworkClient - closed", False),
        ("1:M 22 Nov 2026 05:30:52.408 # WARNING Memory overcommit must be enabled!", False),
        ("1:M 22 Nov 2026 05:30:52.408 # Can't handle RDB format version 10", True),
        ("1:M 22 Nov 2026 05:30:52.408 * Ready to accept connections", False),
    ],
)
def test_of_servers_only_errors_are_shown(line: str, seen: bool) -> None:
    assert bool(SERVER_PROBLEM.search(line)) is seen


def test_children_do_not_hear_the_terminal(tmp_path: Path) -> None:
    child = python(tmp_path, "import time; print('up'); time.sleep(60)").start()
    try:
        assert os.getpgid(child.pid) == child.pid != os.getpgid(0)
    finally:
        child.stop()
