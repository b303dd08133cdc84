"""The setting `redis`: one server, or the start nodes of a cluster; and the client that readers use.

    redis://[user:password@]host:port/db                       one server
    redis+cluster://[user:password@]host:port[,host:port...]   a Redis Cluster: any of its nodes, some are enough
    rediss:// and rediss+cluster://                            the same with TLS (?ssl_ca_certs=..., as redis-py's URLs)

Keys carry one hash tag a partition or site (tracker/contract/keys.py), so nothing else knows which of the two it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

import redis
from msgspec import Struct
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode, ClusterPipeline
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.cluster import ClusterNode as SyncClusterNode
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException

from tracker.contract.loading import SettingsError

CLUSTER: Final = "+cluster"
READ_RETRIES: Final = 2
"""Tries again of a read that a cluster answered with a redirection, or not at all."""


class RedisUrl(Struct, frozen=True):
    """The setting, taken apart."""

    cluster: bool
    nodes: tuple[tuple[str, int], ...]
    """(host, port): the server, or the nodes to ask for the others."""
    options: dict[str, Any]
    """redis-py's arguments for a connection to any of them, without host and port."""


def parse(url: str) -> RedisUrl:
    """Raises SettingsError, which is a ValueError, with what is wrong."""
    try:
        return _parsed(url)
    except ValueError as e:
        raise SettingsError(f"redis: {e}") from None


def _parsed(url: str) -> RedisUrl:
    scheme, _, rest = url.partition("://")
    cluster = scheme.endswith(CLUSTER)
    if not cluster:
        options = _options(url)
        return RedisUrl(False, ((options.pop("host", "localhost"), options.pop("port", 6379)),), options)
    authority, slash, tail = rest.partition("/")
    login, at, hosts = authority.rpartition("@")
    scheme = scheme.removesuffix(CLUSTER)
    each = [_options(f"{scheme}://{login}{at}{host.strip()}{slash}{tail}") for host in hosts.split(",") if host.strip()]
    if not each:
        raise ValueError(f"{scheme}{CLUSTER}:// names no node: HOST:PORT[,HOST:PORT...]")
    nodes = tuple((options.pop("host", "localhost"), options.pop("port", 6379)) for options in each)
    if each[0].pop("db", 0):
        raise ValueError("a Redis Cluster has database 0 only: leave /N out")
    return RedisUrl(True, nodes, each[0])


def _options(url: str) -> dict[str, Any]:
    options = dict(parse_url(url))
    if options.pop("connection_class", None) is SSLConnection:
        options["ssl"] = True
    return options


def shown(url: str) -> str:
    """Where it is, without user and password: for messages."""
    return url.rpartition("@")[2].rpartition("://")[2]


def reader(url: str, *, timeout_s: float = 5.0, connect_timeout_s: float = 2.0) -> Redis:
    """A client for reading, by redis-py's interface for one server also where it is a cluster. Raises ValueError.

    Of a cluster it follows redirections and tries again, which is right for reads only; workers write through
    stream/redis_nodes.py.
    """
    where = parse(url)
    options = {**where.options, "socket_timeout": timeout_s, "socket_connect_timeout": connect_timeout_s}
    if not where.cluster:
        ((host, port),) = where.nodes
        return Redis(host=host, port=port, **options)
    retry = Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), READ_RETRIES)
    nodes = [ClusterNode(host, port) for host, port in where.nodes]
    return cast(Redis, _Cluster(startup_nodes=nodes, retry=retry, **options))


def admin(url: str, *, timeout_s: float = 5.0) -> redis.Redis | redis.RedisCluster:
    """A blocking client for the operator's commands. Raises ValueError; for a cluster that is not there, RedisError."""
    where = parse(url)
    options = {**where.options, "socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    options["decode_responses"] = True
    if not where.cluster:
        ((host, port),) = where.nodes
        return redis.Redis(host=host, port=port, **options)
    try:
        make: Any = SyncClusterNode  # untyped
        return redis.RedisCluster(startup_nodes=[make(host, port) for host, port in where.nodes], **options)
    except RedisClusterException as e:
        raise RedisConnectionError(str(e)) from None


class _Script:
    """What register_script gives. The source goes along: a node that never saw it needs no second try."""

    def __init__(self, cluster: _Cluster, source: str) -> None:
        self._cluster, self._source = cluster, source

    async def __call__(self, keys: Sequence[Any] = (), args: Iterable[Any] = (), client: Any = None) -> Any:
        of = self._cluster if client is None else client
        answer = of.execute_command("EVAL", self._source, len(keys), *keys, *args)
        return of if isinstance(of, ClusterPipeline) else await answer


class _Cluster(RedisCluster):
    """redis-py's client of a cluster, with what it lacks of the other one's ways: scripts in pipelines, and errors that
    are all RedisErrors."""

    def register_script(self, script: Any) -> Any:
        return _Script(self, script)

    def pipeline(self, transaction: Any | None = None, shard_hint: Any | None = None) -> Any:
        return _Pipeline(self)  # type: ignore[abstract]  # as redis-py's own, which it makes all the same

    async def initialize(self, *args: Any, **kwargs: Any) -> RedisCluster:
        try:
            return await super().initialize(*args, **kwargs)
        except RedisClusterException as e:
            raise RedisConnectionError(str(e)) from None

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().execute_command(*args, **kwargs)
        except RedisClusterException as e:
            raise RedisConnectionError(str(e)) from None

    async def ping(self, **kwargs: Any) -> bool:
        return bool(await super().ping(target_nodes=RedisCluster.PRIMARIES))


class _Pipeline(ClusterPipeline):
    async def execute(self, *args: Any, **kwargs: Any) -> list[Any]:
        try:
            return await super().execute(*args, **kwargs)
        except RedisClusterException as e:
            raise RedisConnectionError(str(e)) from None
