"""A Redis server in a data directory, on loopback: append-only file, fsync every second, never evicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tracker.embedded import parts
from tracker.embedded.process import SERVER_PROBLEM, Child

CONF = """\
# Written by tracker/embedded/redis.py at every start.
bind 127.0.0.1
port {port}
protected-mode yes
daemonize no
# Every write is in the file; a power cut loses a second at most, which the workers fold again from Kafka.
appendonly yes
appendfsync everysec
aof-load-truncated yes
save ""
# State must never be thrown away in silence: when memory ends, writes fail and are seen.
maxmemory-policy noeviction
# Larger hashes are tables, not lists: of the counters of hundreds of pages, many are looked up at once.
hash-max-ziplist-entries 128
{more}"""


def server(
    folder: Path,
    port: int,
    log: Path,
    *,
    more: str = "",
    keep_fds: Sequence[int] = (),
    say: parts.Say = lambda _: None,
) -> Child:
    """The server as a child that is ready to start. `more`: further lines of its redis.conf.

    Raises PartError when there is no redis-server.
    """
    binary = parts.redis_server(say)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "redis.conf").write_text(CONF.format(port=port, more=more), "utf-8")
    return Child(
        "redis",
        [binary, "redis.conf"],
        log,
        cwd=folder,
        keep_fds=keep_fds,
        grace_s=15,
        problem=SERVER_PROBLEM,
    )


def answers(url: str, timeout_s: float = 2.0) -> bool:
    """True once PING is answered (a server that still loads its file refuses it), of a cluster by every primary."""
    from redis.exceptions import RedisError

    from tracker.contract.redis_url import admin

    try:
        client = admin(url, timeout_s=timeout_s)
    except RedisError:
        return False
    try:
        return bool(client.ping())
    except RedisError:
        return False
    finally:
        client.close()
