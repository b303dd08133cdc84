"""`tracker up`: one command starts the real stack, watches it and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

from tests.harness import DEMO, PARTITIONS, ROOT, assert_one_line, cli, cli_env, request
from tracker.embedded.process import Child, PartError, wait_until

pytestmark = pytest.mark.integration

FREE_PORTS = ("--http-port", "0", "--kafka-port", "0", "--redis-port", "0", "--worker-port", "0")


class Up(Child):
    """A `tracker up` of the tests; its output is its log."""

    def __init__(self, folder: Path, *args: str) -> None:
        argv = [sys.executable, "-m", "tracker.cli", "up", "--data-dir", str(folder / "data"), *FREE_PORTS, *args]
        env = cli_env(partitions=PARTITIONS, config=folder / "tracker.toml", kafka_heap_mb=256)
        (folder / "tracker.toml").touch()
        super().__init__("up", argv, folder / f"up-{uuid.uuid4().hex[:8]}.log", env=env, cwd=ROOT, grace_s=40)

    def ready(self) -> Up:
        wait_until(lambda: "Ready after" in self.text(), [self], 120, "tracker up")
        return self

    def text(self) -> str:
        return self.log.read_text("utf-8")

    def told(self, name: str) -> str:
        """What it printed as the address of a part."""
        found = re.findall(rf"^ok {name} +(\S+)", self.text(), re.MULTILINE)
        assert found, self.text()
        return str(found[-1])

    def parts(self) -> dict[str, int]:
        """Part -> pid of its running children."""
        table = subprocess.run(["ps", "-axwwo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
        found = {}
        for line in table.splitlines():
            pid, parent, args = line.split(None, 2)
            if int(parent) == self.pid:
                names = {
                    "kafka.Kafka": "kafka",
                    "redis-server": "redis",
                    "cli serve": "endpoint",
                    "cli worker": "worker",
                }
                found[next((name for text, name in names.items() if text in args), args)] = int(pid)
        return found


@contextmanager
def running(folder: Path, *args: str) -> Iterator[Up]:
    up = Up(folder, *args)
    try:
        up.start()
        yield up.ready()
    except PartError as e:
        pytest.fail(f"{e}\n{up.text()}")
    finally:
        up.stop()


def alive(pids: list[int]) -> list[int]:
    """Those that run; ended ones that nobody has reaped yet do not."""
    table = subprocess.run(["ps", "-axo", "pid=,stat="], capture_output=True, text=True, check=True).stdout
    states = {int(pid): state for pid, state in (line.split() for line in table.splitlines())}
    return [pid for pid in pids if not states.get(pid, "Z").startswith("Z")]


def wait_gone(pids: list[int], timeout_s: float = 10) -> list[int]:
    end = time.monotonic() + timeout_s
    while (left := alive(pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def send(up: Up, message_id: str) -> None:
    event = {"event": "Product Viewed", "anonymousId": f"a-{message_id}", "messageId": message_id}
    status, answer = request("POST", f"http://{up.told('endpoint')}/v1/track", event, key=DEMO.write_key)
    assert (status, answer["success"]) == (200, True)


def counted(up: Up) -> int:
    url = f"http://{up.told('endpoint')}/api/v1/sites/demo/counters?by=event&window=24h"
    status, answer = request("GET", url, bearer=DEMO.secret_key)
    assert status == 200, answer
    return sum(group["count"] for group in answer["groups"] if group["key"] == "Product Viewed")


def wait_counted(up: Up, count: int) -> None:
    wait_until(lambda: counted(up) >= count, [up], 30, f"a counter of {count}")
    assert counted(up) == count


def test_it_starts_everything_keeps_its_data_and_leaves_no_process(tmp_path: Path) -> None:
    with running(tmp_path, "--demo") as up:
        pids = up.parts()
        assert sorted(pids) == ["endpoint", "kafka", "redis", "worker"]
        base = f"http://{up.told('endpoint')}"
        text = up.text()
        for line in (f"shop      {base}/demo/", f"snippet   {base}/t.js", f"metrics   {base}/metrics"):
            assert line in text
        for url in re.findall(r"http://\S+", text):
            assert request("GET", url)[0] in (200, 307), url
        send(up, str(uuid.uuid4()))
        wait_counted(up, 1)

        second = Up(tmp_path, "--demo")
        second.start()
        assert second.process is not None
        assert second.process.wait(30) == 1
        assert f"is in use by another `tracker up` (process {up.pid})" in second.text()
        assert len(second.text().splitlines()) == 1

        assert up.stop() == 0
        assert alive(list(pids.values())) == []
        assert up.text().splitlines()[-1] == "stopped"

    # The same data on other ports; then everything is killed at once, as by a power cut.
    with running(tmp_path, "--demo") as up:
        wait_counted(up, 1)
        send(up, str(uuid.uuid4()))
        wait_counted(up, 2)
        pids = up.parts()
        up.kill()
        if sys.platform == "linux":
            assert wait_gone(list(pids.values())) == []
        for pid in alive(list(pids.values())):
            os.kill(pid, signal.SIGKILL)

    with running(tmp_path, "--demo") as up:
        wait_counted(up, 2)
        send(up, str(uuid.uuid4()))
        wait_counted(up, 3)


@pytest.mark.parametrize("part", ["redis", "endpoint"])
def test_a_part_that_dies_ends_it_with_the_reason(tmp_path: Path, part: str) -> None:
    with running(tmp_path, "--demo") as up:
        pids = up.parts()
        os.kill(pids[part], signal.SIGKILL)
        assert up.process is not None
        assert up.process.wait(60) == 1
        assert f"tracker: error: {part} was ended by SIGKILL" in up.text().splitlines()[-1]
        assert "did not stop" not in up.text()  # it was not us that killed it
        assert alive(list(pids.values())) == []


def test_ctrl_c_while_it_starts_stops_what_has_started(tmp_path: Path) -> None:
    up = Up(tmp_path)
    up.start()
    try:
        wait_until(lambda: "ok Redis" in up.text(), [up], 60, "Redis")
        pids = up.parts()
        assert "redis" in pids
        assert up.process is not None
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(40) == 0
        assert alive(list(pids.values())) == []
    finally:
        up.stop()


def test_servers_that_already_run_are_used(tmp_path: Path, kafka_bootstrap: str, redis_url: str) -> None:
    with running(tmp_path, "--demo", "--kafka", kafka_bootstrap, "--redis", redis_url, "--workers", "1") as up:
        assert sorted(up.parts()) == ["endpoint", "worker"]
        assert up.told("Kafka") == kafka_bootstrap
        before = counted(up)
        send(up, str(uuid.uuid4()))
        wait_counted(up, before + 1)
        assert up.stop() == 0
    with Redis.from_url(redis_url) as redis:
        assert redis.ping()


def test_a_busy_port_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for option, part in (
            ("--http-port", "endpoint"),
            ("--kafka-port", "kafka"),
            ("--redis-port", "redis"),
            ("--worker-port", "worker-0"),
        ):
            done = cli("up", "--data-dir", str(tmp_path / "data"), *FREE_PORTS, option, port)
            assert_one_line(done, 1, f"port {port} ({part}) is in use", f"pass {option} with another")
    assert not (tmp_path / "data").exists()
    done = cli("up", "--data-dir", str(tmp_path / "data"), *FREE_PORTS, "--http-port", port, "--kafka-port", port)
    assert_one_line(done, 1, f"kafka and endpoint both want port {port}", "--kafka-port")


def test_a_data_directory_that_can_not_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_one_line(cli("up", "--data-dir", str(tmp_path / "file"), *FREE_PORTS), 1, "can't be used", "--data-dir")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "redis").write_text("")
    assert_one_line(cli("up", "--data-dir", str(tmp_path / "data"), *FREE_PORTS), 1, str(tmp_path / "data" / "redis"))


def test_damaged_data_of_kafka_is_told_with_kafkas_own_reason(tmp_path: Path) -> None:
    log = tmp_path / "data" / "kafka" / "log"
    log.mkdir(parents=True)
    (log / "meta.properties").write_text("version=1\nnode.id=7\ncluster.id=AAAAAAAAAAAAAAAAAAAAAA\n")
    done = cli("up", "--data-dir", str(tmp_path / "data"), *FREE_PORTS)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "kafka ended with code" in done.stderr
    assert "Stored node id 7 doesn't match" in done.stderr


def test_a_kafka_that_is_not_there_is_one_line(tmp_path: Path, redis_url: str) -> None:
    done = cli("up", "--data-dir", str(tmp_path), *FREE_PORTS, "--redis", redis_url, "--kafka", "127.0.0.1:1")
    assert_one_line(done, 1, "Kafka at 127.0.0.1:1 did not answer")
