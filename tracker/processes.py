"""`tracker serve --processes N`: a parent that keeps N endpoints running on one port.

    parent   binds, forks, watches; serves nothing
    +- 0     a socket on http_port (SO_REUSEPORT: the kernel deals connections out) and one on metrics_port
    +- 1     the same, on metrics_port + 1
    ...

The parent holds all sockets too. So while a child that died is started again, connections that were dealt to it wait
in its queue instead of being reset. Children see the end of a pipe when the parent is gone, also by kill -9, and
end in order as on SIGTERM: nothing stays behind.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Final, NoReturn

import msgspec

from tracker.contract.settings import Settings
from tracker.embedded.process import port_problem

log = logging.getLogger(__name__)

Serve = Callable[[Settings, list[socket.socket], int], int]
"""(settings, its sockets, the descriptor that ends with the parent) -> exit code."""

SHORT_LIFE_S: Final = 10.0
"""A child that ends sooner after its start has failed; so many times in a row, and all are ended."""
MAX_SHORT_LIVES: Final = 5
BACKOFF_S: Final = 0.1
"""Pause before a restart; doubled with each short life."""
FORK_AGAIN_S: Final = 1.0
KILL_AFTER_S: Final = 5.0
"""Beyond drain_s, for children that do not end."""
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


class Child:
    def __init__(self, index: int, sockets: list[socket.socket]) -> None:
        self.index = index
        self.sockets = sockets
        self.pid = 0
        """0: it does not run."""
        self.started_s = 0.0
        self.start_at_s = 0.0
        self.short_lives = 0


def run(settings: Settings, serve: Serve) -> int:
    """Until a signal; the exit code. 1 when a port can't be had, a child can't live, or one had to be killed."""
    for port in (settings.http_port, *(settings.metrics_port + i for i in range(settings.processes))):
        # SO_REUSEPORT would let a second tracker share the port unnoticed.
        if port and (problem := port_problem(settings.http_host, port)):
            log.error("address already in use: port %d of %s %s", port, settings.http_host, problem)
            return 1
    try:
        children = _bind(settings)
    except OSError as e:
        log.error("can't listen at %s: %s", settings.http_host, e.strerror or e)
        return 1
    settings = msgspec.structs.replace(settings, http_port=children[0].sockets[0].getsockname()[1])
    return Parent(settings, serve, children).run()


def _bind(settings: Settings) -> list[Child]:
    """Sockets for each child: all share http_port. Raises OSError."""
    port, children = settings.http_port, []
    for index in range(settings.processes):
        shared = _socket(settings.http_host, port, True)
        port = shared[0].getsockname()[1]  # of port 0 it is known now
        own = settings.metrics_port and settings.metrics_port + index
        children.append(Child(index, shared + _socket(settings.http_host, own, False)))
    return children


def _socket(host: str, port: int, shared: bool) -> list[socket.socket]:
    """A bound socket for each address of `host`; they listen when their child is ready."""
    found = []
    for family, kind, proto, _, address in socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        s = socket.socket(family, kind, proto)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        s.bind((address[0], port, *address[2:]))
        s.setblocking(False)
        port = s.getsockname()[1]  # the same at every address
        found.append(s)
    return found


class Parent:
    def __init__(self, settings: Settings, serve: Serve, children: list[Child]) -> None:
        self._settings = settings
        self._serve = serve
        self._children = children
        self._alive, self._lives = os.pipe()
        """Nothing is ever written; the writing end is closed by the parent's end alone."""
        self._woken, wakes = os.pipe()
        os.set_blocking(wakes, False)
        os.set_blocking(self._woken, False)
        self._wakes = wakes
        self._signals: list[int] = []
        self._code = 0
        self._kill_at_s: float | None = None
        """When stopping: when those still there are killed."""

    def run(self) -> int:
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, lambda number, _: self._signals.append(number))
        gc.collect()
        gc.freeze()  # a collection in a child would copy the pages that all share
        while True:
            now_s = time.monotonic()
            if self._kill_at_s is None:
                for child in self._children:
                    if not child.pid and child.start_at_s <= now_s:
                        self._start(child)
            elif now_s >= self._kill_at_s:
                self._kill()
            self._wait(now_s)
            while self._signals:
                self._on_signal(self._signals.pop(0))
            self._reap()
            if self._kill_at_s is not None and not any(child.pid for child in self._children):
                return self._code

    # -- children

    def _start(self, child: Child) -> None:
        with _blocked():
            try:
                pid = os.fork()
            except OSError as e:  # no memory, or too many processes: the others go on
                log.error("process %d can't be started: %s", child.index, e.strerror)
                child.start_at_s = time.monotonic() + FORK_AGAIN_S
                return
            if not pid:
                self._be(child)
        child.pid, child.started_s = pid, time.monotonic()
        host, port = child.sockets[-1].getsockname()[:2]
        log.info("process %d started (pid %d); its metrics are at %s port %d", child.index, pid, host, port)

    def _be(self, child: Child) -> NoReturn:
        """The child's life. Its own group: Ctrl-C in the terminal reaches the parent alone, which passes it on."""
        code = 1
        try:
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            for fd in (self._lives, self._woken, self._wakes):
                os.close(fd)
            for other in self._children:
                if other is not child:
                    for s in other.sockets:
                        s.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            settings = msgspec.structs.replace(self._settings, process_index=child.index)
            code = self._serve(settings, child.sockets, self._alive)
        except Exception:
            log.exception("process %d failed", child.index)
        finally:
            logging.shutdown()
            os._exit(code)

    def _reap(self) -> None:
        for child in self._children:
            if not child.pid:
                continue
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                child.pid = 0
                self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: Child, code: int) -> None:
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        if self._kill_at_s is not None:
            if code not in (0, -signal.SIGTERM, -signal.SIGINT):  # by these, before it served
                log.warning("process %d %s", child.index, how)
                self._code = 1
            return
        now_s = time.monotonic()
        child.short_lives = child.short_lives + 1 if now_s - child.started_s < SHORT_LIFE_S else 0
        if child.short_lives >= MAX_SHORT_LIVES:
            log.error(
                "process %d %s, %d times within %g s of its start: its last lines above tell why; all are ended",
                child.index, how, child.short_lives, SHORT_LIFE_S,
            )  # fmt: skip
            self._stop(signal.SIGTERM)
            self._code = 1
            return
        pause_s = BACKOFF_S * 2 ** (child.short_lives - 1) if child.short_lives else 0.0
        child.start_at_s = now_s + pause_s
        log.error("process %d %s; it is started again in %g s", child.index, how, pause_s)

    # -- the end

    def _on_signal(self, number: int) -> None:
        if number != signal.SIGCHLD:
            self._stop(number)

    def _stop(self, number: int) -> None:
        """Tell all of them; a second time means at once, as they know."""
        if self._kill_at_s is None:
            self._kill_at_s = time.monotonic() + self._settings.drain_s + KILL_AFTER_S
            for child in self._children:  # theirs stay open until they close them: then nobody connects any more
                for s in child.sockets:
                    s.close()
        for child in self._children:
            if child.pid:
                os.kill(child.pid, number)

    def _kill(self) -> None:
        for child in self._children:
            if child.pid:
                log.error("process %d did not end: it is killed", child.index)
                os.kill(child.pid, signal.SIGKILL)
        self._kill_at_s = float("inf")

    def _wait(self, now_s: float) -> None:
        """Until a signal, or until there is something to start or to kill."""
        times = [child.start_at_s for child in self._children if not child.pid] if self._kill_at_s is None else []
        times += [self._kill_at_s] if self._kill_at_s not in (None, float("inf")) else []
        timeout_s = max(0.0, min(times) - now_s) if times else None
        select.select([self._woken], [], [], timeout_s)
        with contextlib.suppress(BlockingIOError):
            while os.read(self._woken, 512):
                pass


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    """Between fork and the child's own handlers no signal is taken for the parent's."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
