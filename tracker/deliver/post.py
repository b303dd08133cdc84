"""One try to deliver a trigger: a POST that is signed, does not follow redirects and reads next to nothing."""

from __future__ import annotations

import ssl
from types import TracebackType
from typing import Final

import aiohttp
from msgspec import Struct

from tracker.contract import signature
from tracker.contract.sites import Webhook
from tracker.contract.triggers import CONTENT_TYPE
from tracker.deliver import guard
from tracker.deliver.retry import retry_after_s

MAX_ANSWER_BYTES: Final = 4096
"""Read of an answer, so that the connection can be used again; of a longer one the connection is closed."""
USER_AGENT: Final = "event-streaming-tracker-webhooks/1"
GONE: Final = 410


class Outcome(Struct, frozen=True):
    ok: bool
    what: str
    """'HTTP 500', 'no answer in 10 s', ...: for a log and a dead letter; nothing of the URL or the secret."""
    final: bool = False
    """Trying again is of no use."""
    retry_after_s: float | None = None


class Poster:
    """The connections to one webhook's endpoint. Use as `async with`."""

    def __init__(self, hook: Webhook) -> None:
        self._hook = hook
        self._keys = [signature.key_of(secret) for secret in hook.secrets]
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Poster:
        hook = self._hook
        self._session = aiohttp.ClientSession(
            connector=guard.connector(hook.in_flight, hook.allow_private),
            timeout=aiohttp.ClientTimeout(total=hook.timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"User-Agent": USER_AGENT, "Content-Type": CONTENT_TYPE.decode()},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, id: str, body: bytes, now_s: float) -> Outcome:
        assert self._session is not None
        signed = signature.headers(self._keys, id, int(now_s), body)
        try:
            async with self._session.post(self._hook.url, data=body, headers=signed, allow_redirects=False) as answer:
                read = await answer.content.read(MAX_ANSWER_BYTES)
                if len(read) == MAX_ANSWER_BYTES or not answer.content.at_eof():
                    answer.close()
                return Outcome(
                    200 <= answer.status < 300,
                    f"HTTP {answer.status}" + (" (redirects are not followed)" if 300 <= answer.status < 400 else ""),
                    final=answer.status == GONE,
                    retry_after_s=retry_after_s(answer.headers.get("Retry-After"), now_s),
                )
        except TimeoutError:
            return Outcome(False, f"no answer in {self._hook.timeout_s:g} s")
        except (aiohttp.ClientError, OSError, ssl.SSLError, ValueError) as e:
            return Outcome(False, _told(e))


def _told(error: BaseException) -> str:
    """Why nothing was sent, without the URL."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, guard.Refused):
        return f"refused: {cause}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host's name is unknown"
    if isinstance(cause, ssl.SSLError | ssl.CertificateError | aiohttp.ClientSSLError):
        return "the TLS certificate is not good"
    name = getattr(cause, "strerror", None) or type(cause).__name__
    return f"no connection: {name}"[:200]
