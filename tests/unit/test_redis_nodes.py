"""A node that leaves a Redis Cluster: whoever waits for it hears that, and is not ended by it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from stream.redis_nodes import Node


class Hanging:
    """A client of a server that answers nothing."""

    def pipeline(self, transaction: bool) -> Any:
        return SimpleNamespace(execute_command=lambda *_: None, execute=lambda **_: asyncio.Event().wait())

    async def aclose(self) -> None:
        pass


async def test_commands_to_a_node_that_is_given_up_fail_and_cancel_nobody() -> None:
    """A cancelled future would end the task that waits for it, without a word: the clock's, a lane's, the claimer's."""
    node = Node(("localhost", 1), cast(Any, Hanging()), cast(Any, None))
    sent, waiting = (asyncio.get_running_loop().create_future() for _ in range(2))
    node.run(("GET", "a"), sent)
    await asyncio.sleep(0)  # it is under way
    node.run(("GET", "b"), waiting)
    await node.close()
    for future in (sent, waiting):
        with pytest.raises(RedisConnectionError, match="localhost:1"):
            await future
