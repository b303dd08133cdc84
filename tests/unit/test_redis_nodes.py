"""A node that leaves a Redis Cluster: whoever waits for it hears that, and is not ended by it."""

from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from stream.redis_nodes import Node, Nodes


async def prepared(_: object) -> None:
    pass


async def test_commands_to_a_node_that_is_given_up_fail_and_cancel_nobody() -> None:
    """A cancelled future would end the task that waits for it, without a word: the clock's, a lane's, the claimer's."""
    came = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        await reader.read(-1)
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        node = Node(("127.0.0.1", port), Nodes(f"redis://127.0.0.1:{port}/0", 5.0, prepared))
        sent, waiting = (asyncio.get_running_loop().create_future() for _ in range(2))
        node.run(("GET", "a"), sent)
        await came.wait()  # it is under way
        node.run(("GET", "b"), waiting)
        await node.close()
        for future in (sent, waiting):
            with pytest.raises(RedisConnectionError, match=f"127.0.0.1:{port}"):
                await future
