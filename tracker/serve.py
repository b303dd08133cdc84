"""Run the endpoint until Ctrl-C or SIGTERM, and end it in order.

SIGTERM   /readyz says 503, so that a load balancer turns away; requests are answered as before
+ window  no new connections; requests in flight finish
+ most    what still waits for Kafka goes to the spool (503 if there is none)
+ drain_s batches are flushed, connections are closed, exit 0

Several processes are run by tracker/processes.py; each of them lives and ends like this.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
import time
from functools import partial
from types import FrameType
from typing import Final

import uvicorn

from tracker import processes
from tracker.app import Endpoint, create_app
from tracker.contract.reload import Watch
from tracker.contract.settings import Settings
from tracker.http_protocol import Protocol

WINDOW: Final = 0.1
"""Share of drain_s for which /readyz says 503 before connections are refused; a second at most."""
GIVE_UP: Final = 0.6
"""Share of drain_s after which requests no longer wait for Kafka."""
GC_THRESHOLD: Final = 20_000


class Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, endpoint: Endpoint, parent: int | None) -> None:
        super().__init__(config)
        self._endpoint = endpoint
        self._parent = parent
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        if self._parent is not None:
            self._loop.add_reader(self._parent, self._on_orphaned)
        await super().startup(sockets)
        # Otherwise a tenth of the CPU time: what a request makes is freed by reference counts, not by the collector.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, 20, 50)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain. Second: at once. uvicorn's own would end the process by the signal, not with code 0."""
        if self._loop is None:
            self.should_exit = True
        elif self._endpoint.draining:
            self.should_exit = self.force_exit = True
        else:
            self._loop.call_soon_threadsafe(self._drain, sig)

    def _on_orphaned(self) -> None:
        assert self._loop is not None
        assert self._parent is not None
        self._loop.remove_reader(self._parent)
        if not self._endpoint.draining:
            self._drain(signal.SIGTERM)

    def _drain(self, sig: int) -> None:
        assert self._loop is not None
        drain_s = self._endpoint.settings.drain_s
        self._endpoint.stop_by_s = time.monotonic() + drain_s
        self._endpoint.drain()
        window_s = 0.0 if sig == signal.SIGINT else min(1.0, drain_s * WINDOW)
        self._loop.call_later(window_s, setattr, self, "should_exit", True)
        self._loop.call_later(drain_s * GIVE_UP, self._endpoint.kafka.give_up, "stopping")


def run(settings: Settings, watch: Watch | None = None) -> int:
    """Serve until a signal; the exit code. 1 when the port can't be had. `watch`: where settings come from anew."""
    several = "" if settings.processes == 1 else " [%(process)d]"
    line = f"%(asctime)s{several} %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=line)
    for noisy in ("aiokafka", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if settings.processes == 1:
        return _serve(settings, watch=watch)
    return processes.run(settings, partial(_serve, watch=watch))


def _serve(
    settings: Settings,
    sockets: list[socket.socket] | None = None,
    parent: int | None = None,
    *,
    watch: Watch | None = None,
) -> int:
    """`sockets`: what to listen on instead of http_port. `parent`: a pipe that ends with the parent process."""
    endpoint = create_app(settings, watch)
    config = uvicorn.Config(
        endpoint,
        host=settings.http_host,
        port=settings.http_port,
        http=Protocol,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        lifespan="on",
        ws="none",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        log_config=None,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=max(1, int(settings.drain_s * 0.8)),
    )
    server = Server(config, endpoint, parent)
    try:
        server.run(sockets)
    except KeyboardInterrupt:
        return 0
    except SystemExit:  # uvicorn could not start, and has said why
        return 1
    return 0 if server.started else 1
