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
"""


def server(
    folder: Path, port: int, log: Path, *, keep_fds: Sequence[int] = (), say: parts.Say = lambda _: None
) -> Child:
    """The server as a child that is ready to start. Raises PartError when there is no redis-server."""
    binary = parts.redis_server(say)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "redis.conf").write_text(CONF.format(port=port), "utf-8")
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
    """True once PING is answered (a server that still loads its file refuses it)."""
    from redis import Redis
    from redis.exceptions import RedisError

    client = Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
    )
    try:
        return bool(client.ping())
    except RedisError:
        return False
    finally:
        client.close()
