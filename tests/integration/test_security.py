"""What strangers may try with the endpoint: bombs, floods, guesses, lies about who they are, and slowness."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.endpoint import SHOP, Http, basic, endpoint, exchange, metric, port_of, raw, recv
from tests.harness import Stack
from tracker.cli.up import ready
from tracker.contract.topics import DEAD_LETTERS, EVENTS
from tracker.embedded.process import Child, wait_until

pytestmark = pytest.mark.integration

HEAD_S, REQUEST_S = 0.8, 1.5
MAX_CONNECTIONS = 250
EVENT = {"userId": "u", "event": "A"}


@pytest.fixture(scope="module")
def guarded(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """An endpoint behind a proxy (which the tests are), with short deadlines and low limits."""
    limits = {
        "trusted_proxies": "127.0.0.0/8", "max_connections": MAX_CONNECTIONS, "max_batch_events": 10_000,
        "head_timeout_s": HEAD_S, "request_timeout_s": REQUEST_S, "keep_alive_s": 20,
        "rate_limit_ip_requests_s": 1, "rate_limit_ip_burst_requests": 10,
        "rate_limit_key_events_s": 2000, "rate_limit_key_burst_events": 12_000,
        "rate_limit_bad_keys_s": 0.5, "rate_limit_bad_keys_burst": 5,
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("guarded")
    with endpoint(folder, stack.settings.kafka, stack.settings.redis, **limits) as child:
        wait_until(lambda: ready("127.0.0.1", port_of(child)), [child], 30, "the endpoint")
        yield child


@pytest.fixture
def port(guarded: Child) -> int:
    return port_of(guarded)


def peak_bytes(child: Child) -> int:
    """Most memory that the process has ever had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{child.pid}/status").read_text("ascii"))
    assert found is not None
    return int(found[1]) * 1024


def code_of(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head[9:12]), json.loads(body).get("code", "")


# -- bodies


def test_200_gzip_bombs_at_once_stay_within_memory(stack: Stack, tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(100_000_000))
    head = (
        f"POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nX-Write-Key: {SHOP.write_key}\r\n"
        f"Content-Length: {len(bomb)}\r\nConnection: close\r\n\r\n"
    ).encode()
    with endpoint(tmp_path, stack.settings.kafka) as child, ExitStack() as open_:
        before = peak_bytes(child)
        sockets = [
            open_.enter_context(socket.create_connection(("127.0.0.1", port_of(child)), timeout=30)) for _ in range(200)
        ]
        for sock in sockets:  # all are under way before the first is complete
            sock.sendall(head + bomb[:-100])
        for sock in sockets:
            sock.sendall(bomb[-100:])
        for sock in sockets:
            answer = b"".join(iter(lambda sock=sock: recv(sock), b""))  # type: ignore[misc]
            assert code_of(answer) == (413, "request_too_large")
        # What was sent (200 x 97 KB), and what one of them may be while it is inflated.
        assert peak_bytes(child) - before < 200 * len(bomb) + (16 << 20)


def test_bodies_that_never_end_share_one_limit_and_whole_ones_go_by(stack: Stack, tmp_path: Path) -> None:
    limits: dict[str, Any] = {"max_request_bytes": 1 << 20, "max_inflight_bytes": 4 << 20}
    head = b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    with endpoint(tmp_path, stack.settings.kafka, **limits) as child, ExitStack() as open_:
        port, before = port_of(child), peak_bytes(child)
        for _ in range(60):
            sock = open_.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            with suppress(OSError):  # refused while sending
                sock.sendall(head + bytes(900_000))
        assert metric(port, "tracker_events_rejected_total", reason="too_many_bodies") > 40
        assert metric(port, "tracker_http_arriving_bytes") <= 5 << 20
        assert peak_bytes(child) - before < 40 << 20
        wait_until(lambda: ready("127.0.0.1", port), [child], 30, "the endpoint")
        with Http(port) as client:
            assert client.post("/v1/track", EVENT, X_Write_Key=SHOP.write_key)[0] == 200


# -- what must not be seen

SENTINELS = ("TokenSentinel7", "203.0.113.77", "mail.sentinel@example.org", "BodySentinel7", "%4DailSentinel7")


async def test_keys_addresses_and_bodies_are_in_no_log_and_no_metric(guarded: Child, stack: Stack, port: int) -> None:
    token, ip, mail, text, encoded = SENTINELS
    head = {"X_Forwarded_For": ip, "User_Agent": text, "Referer": f"https://x.example/?{mail}", "Cookie": text}
    body = {**EVENT, "properties": {"email": mail, "text": text}, "context": {"ip": ip, "userAgent": text}}
    bad = json.dumps(body).encode()[:-1]
    batch = {"batch": [{"type": text}, {"type": "track", "userId": mail}, {**body, "type": "track"}, text]}
    with Http(port) as client:
        for place in ({"X_Write_Key": token}, {"Authorization": basic(token)}, {"Authorization": f"Bearer {token}"}):
            client.post("/v1/track", body, **head, **place)
        for query in (f"writeKey={token}", f"email={mail}", f"x={encoded}"):
            client.post(f"/v1/track?{query}", {**body, "writeKey": token}, **head)
        client.post("/v1/track", bad, X_Write_Key=SHOP.write_key, **head)
        client.post("/v1/batch", batch, X_Write_Key=SHOP.write_key, **head)
        client.post("/v1/track", gzip.compress(bad)[:-5], Content_Encoding=text, **head)
        client.post("/v1/track", body, X_Write_Key=SHOP.write_key, **{**head, "X_Forwarded_For": "203.0.113.78"})
        for path in (f"/{text}/{mail}", f"/v1/projects/{token}/settings", f"/api/v1/sites/{text}/counters?by={mail}"):
            client.request("GET", path, Authorization=f"Bearer {token}", **head)
        client.request("GET", f"/sourceConfig/?writeKey={token}", Authorization=basic(token))
        client.request("GET", f"/pixel/v1/track?writeKey={token}&event={text}&userId={mail}", **head)
        client.request("OPTIONS", f"/v1/track?writeKey={token}", Origin=f"https://{text}.example")
        client.request(text, "/v1/track", **head)
        with Http(port) as other:
            page = other.request("GET", "/metrics")[2].decode()
    exchange(port, f"GET /{text} HTTP/1.1\r\nX-{text}: {mail}\0\r\n\r\n".encode())
    exchange(port, f"POST /v1/track HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n Folded: {mail}\r\n\r\n".encode())
    [letter, *_] = await stack.consume(
        DEAD_LETTERS, 1, site="shop", match=lambda value: mail.encode() in base64.b64decode(value["original"])
    )
    assert mail not in letter["detail"]
    log = guarded.log.read_text("utf-8")
    for sentinel in (*SENTINELS, "MailSentinel7", base64.b64encode(token.encode()).decode()[:12]):
        assert sentinel not in page
        assert sentinel not in log


def test_ten_thousand_made_up_names_add_no_series(port: int) -> None:
    def series() -> set[str]:
        with Http(port) as client:
            text = client.request("GET", "/metrics")[2].decode()
        return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}

    def made_up(i: int) -> dict[str, object]:
        context = {"campaign": {"name": f"c{i}", "source": f"s{i}", "medium": f"m{i}"}, "channel": f"ch{i}"}
        return {
            "type": "track", "event": f"e{i}", "userId": f"u{i}", "site": f"site{i}", "context": context,
            "properties": {"utm_campaign": f"k{i}", "channel": f"ch{i}", "popup_id": f"p{i}"},
        }  # fmt: skip

    def send(start: int, end: int, **headers: str) -> int:
        batch = {"batch": [made_up(i) for i in range(start, end)]}
        return client.post("/v1/batch", batch, X_Forwarded_For=f"198.51.100.{start % 250}", **headers)[0]

    with Http(port) as client:
        assert send(0, 10, X_Write_Key=SHOP.write_key) == 200
        unknown = [send(i, i + 1, X_Write_Key=f"unknown-{i}") for i in (1, 2, 3)]
        client.request("GET", "/warm")
        series()  # its own requests are counted from now on
        before = series()
        for start in range(0, 10_000, 2500):
            assert send(start, start + 2500, X_Write_Key=SHOP.write_key) == 200
        for i in range(300):
            client.request("GET", f"/made/up/{i}", X_Forwarded_For=f"198.51.100.{i % 250}")
            unknown.append(send(i, i + 1, X_Write_Key=f"unknown-{i}"))
    assert set(unknown) == {401}
    assert series() == before


# -- who it is


def is_of(user: str, event: dict[str, Any]) -> bool:
    return event.get("userId") == user


async def test_a_client_cannot_say_who_it_is_unless_a_trusted_proxy_says_so(stack: Stack, shop: int, port: int) -> None:
    """shop trusts nobody, guarded trusts this machine. Addresses are written to Kafka truncated."""
    lie = "198.51.100.77"
    for at, forwarded, ip in ((shop, lie, "127.0.0.0"), (port, f"{lie}, 203.0.113.9", "203.0.113.0")):
        user = f"who-{at}-{time.time_ns()}"
        with Http(at) as client:
            body = {**EVENT, "userId": user}
            assert client.post("/v1/track", body, X_Write_Key=SHOP.write_key, X_Forwarded_For=forwarded)[0] == 200
        [found] = await stack.consume(EVENTS, 1, site="shop", match=partial(is_of, user))
        assert lie not in json.dumps(found)
        assert found["ip"] == ip


# -- too much


def test_an_address_over_its_rate_is_told_when_to_come_back_and_others_are_not_slowed(port: int) -> None:
    def send(ip: str) -> tuple[int, str | None, str]:
        status, headers, answer = client.post("/v1/track", EVENT, X_Write_Key=SHOP.write_key, X_Forwarded_For=ip)
        return status, headers.get("retry-after"), answer.get("code", "")

    def until_refused(ips: Iterator[str]) -> list[int]:
        """Status of each request. A slow machine gets some more through: a second gives back one."""
        statuses = [200]
        while statuses[-1] == 200 and len(statuses) < 60:
            statuses.append(send(next(ips))[0])
        return statuses[1:]

    with Http(port) as client:
        sock = client.connection.sock
        # What a client adds itself is no other address.
        statuses = until_refused(f"10.9.8.{i}, 203.0.113.1" for i in itertools.count())
        assert statuses[:10] == [200] * 10
        assert statuses[-1] == 429
        refused = [send(f"10.9.8.{i}, 203.0.113.1") for i in range(20)]
        assert (429, "1", "rate_limited") in refused
        assert sock is None or client.connection.sock is sock
        assert send("203.0.113.2")[0] == 200
        statuses = until_refused(f"2001:db8:0:1:{i:x}::1" for i in itertools.count())
        assert statuses[:10] == [200] * 10
        assert statuses[-1] == 429
        assert send("2001:db8:0:2::1")[0] == 200
        time.sleep(1.1)
        assert send("203.0.113.1")[0] == 200


def test_a_key_over_its_rate_does_not_slow_another(port: int) -> None:
    batch = {"batch": [{"type": "page", "userId": "u"}] * 2000}

    def send(key: str) -> tuple[int, dict[str, str]]:
        ip = f"2001:db8:{next(count):x}::1"
        return client.post("/v1/batch", batch, X_Write_Key=key, X_Forwarded_For=ip)[:2]

    count = itertools.count(1)
    with Http(port) as client:
        refused = next(headers for status, headers in (send(SHOP.write_key) for _ in range(50)) if status == 429)
        assert int(refused["retry-after"]) == 1
        assert send(SHOP.secret_key)[0] == 200
        time.sleep(1.1)
        assert send(SHOP.write_key)[0] == 200


def test_who_guesses_keys_learns_nothing_after_a_few(port: int) -> None:
    secret, ip = f"Bearer {SHOP.secret_key}", {"X_Forwarded_For": "203.0.113.200"}
    read = "/api/v1/sites/shop/counters"
    with Http(port) as client:
        assert client.request("GET", read, Authorization=secret, **ip)[0] == 200
        statuses = [client.request("GET", read, Authorization=f"Bearer guess-{i}", **ip)[0] for i in range(8)]
        assert statuses[:5] == [401] * 5
        assert statuses[-1] == 429
        for method, path, headers in (
            ("GET", read, {"Authorization": secret}),
            ("GET", read, {"Authorization": "Bearer guess"}),
            ("GET", "/v1/projects/guess/settings", {}),
            ("GET", f"/v1/projects/{SHOP.secret_key}/settings", {}),
            ("GET", "/sourceConfig/", {"Authorization": basic(SHOP.secret_key)}),
            ("POST", "/v1/track", {"X_Write_Key": SHOP.secret_key}),
            ("POST", f"/v1/track?writeKey={SHOP.secret_key}", {}),
            ("POST", "/v1/track", {"X_Write_Key": "guess"}),
        ):
            status, found, answer = client.request(method, path, EVENT if method == "POST" else None, **headers, **ip)
            assert (status, answer["code"]) == (429, "too_many_bad_keys"), path
            assert int(found["retry-after"]) > 0
        # Visitors behind the same address still send, and elsewhere the key is as good as ever.
        assert client.post("/v1/track", EVENT, X_Write_Key=SHOP.write_key, **ip)[0] == 200
        other = {"X_Forwarded_For": "203.0.113.201"}
        assert client.request("GET", read, Authorization=secret, **other)[0] == 200


# -- too slow, too many


SLOW: tuple[tuple[bytes, bytes], ...] = (
    (b"", b""),  # a connection and nothing more
    (b"POST /v1/track HTTP/1.1\r\nHost: x\r\nX: ", b"y"),
    (b"POST /v1/track HTTP/1.1\r\nHost: x\r\n", b"X: y\r\n"),
    (b"GET /livez HTTP/1.1\r\nHost: x\r\nX: ", b"y"),
    (b"POST /v1/track HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: FROM\r\nContent-Length: 500\r\n\r\n", b" "),
    (
        b"POST /v1/track HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: FROM\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1\r\n \r\n",
    ),
    (b"POST /v1/track HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 500\r\n\r\n", b" "),
)
"""How a request begins, and what drips behind it."""


def test_slow_heads_slow_bodies_and_silence_end_in_time_and_nobody_waits_for_them(port: int) -> None:
    with ExitStack() as open_:
        slow: dict[socket.socket, bytes] = {}
        answers: dict[socket.socket, bytes] = {}
        for i, (start, drip) in enumerate(SLOW * 10):
            sock = open_.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            sock.sendall(start.replace(b"FROM", b"192.0.2.%d" % i))
            sock.settimeout(0.01)
            slow[sock], answers[sock] = drip, b""
        started_s = time.monotonic()
        while slow:
            assert time.monotonic() - started_s < REQUEST_S + 2, f"{len(slow)} are still open"
            for sock, drip in list(slow.items()):
                try:
                    sock.send(drip)
                    part = sock.recv(4096)
                except TimeoutError:
                    continue
                except OSError:
                    part = b""
                answers[sock] += part
                if not part:
                    del slow[sock]
            asked_s = time.monotonic()
            with Http(port, 5) as client:
                assert client.post("/v1/track", {}, X_Write_Key=SHOP.write_key)[0] in (400, 429)
            assert time.monotonic() - asked_s < 1
    # Who began is told, unless it wrote on into the closed connection.
    told = {code_of(answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")) for answer in answers.values() if answer}
    assert told == {(408, "head_timeout"), (408, "body_timeout")}
    assert metric(port, "tracker_events_rejected_total", reason="head_timeout") >= 20
    assert metric(port, "tracker_events_rejected_total", reason="body_timeout") >= 20


def test_connections_over_the_limit_are_refused_at_once_and_it_recovers(port: int) -> None:
    before = metric(port, "tracker_events_rejected_total", reason="too_many_connections")
    with ExitStack() as open_:
        for _ in range(MAX_CONNECTIONS):
            open_.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
        started_s = time.monotonic()
        answers = [exchange(port) for _ in range(20)]
        assert time.monotonic() - started_s < HEAD_S  # before silence ends the first of them
        for answer in answers:
            assert code_of(answer) == (503, "too_many_connections")
            assert b"\r\nretry-after: " in answer
    time.sleep(0.2)
    request = raw("/v1/track", None, "Connection: close", "X-Forwarded-For: 203.0.113.50")
    assert exchange(port, request).startswith(b"HTTP/1.1 200 ")
    assert metric(port, "tracker_events_rejected_total", reason="too_many_connections") >= before + 20
    assert metric(port, "tracker_http_connections") < 20


def test_a_thousand_short_connections_leave_nothing_behind(guarded: Child, port: int) -> None:
    descriptors = Path(f"/proc/{guarded.pid}/fd")
    before = len(list(descriptors.iterdir()))

    def come_and_go(i: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
            sock.sendall((b"", b"GET", b"POST /v1/track HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")[i % 3])

    with ThreadPoolExecutor(20) as threads:
        list(threads.map(come_and_go, range(1000)))
    wait_until(lambda: len(list(descriptors.iterdir())) <= before + 5, [guarded], 5, "the end of connections")
    assert metric(port, "tracker_http_arriving_bytes") == 0
