from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.endpoint import endpoint, port_of
from tests.harness import Stack
from tracker.cli.up import ready
from tracker.embedded.process import wait_until


@pytest.fixture(scope="session")
def shop(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of an endpoint with small limits and the site `shop`, over the Kafka of all."""
    limits = {"max_request_bytes": 64 * 1024, "max_event_bytes": 4096, "max_batch_events": 20}
    with endpoint(tmp_path_factory.mktemp("shop"), stack.settings.kafka, stack.settings.redis, **limits) as child:
        wait_until(lambda: ready("127.0.0.1", port_of(child)), [child], 30, "the endpoint")
        yield port_of(child)
