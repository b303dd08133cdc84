"""Webhooks out, without a network: signatures, addresses, waits, the breaker, progress, settings, replays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tracker.contract import examples
from tracker.contract.loading import SettingsError, load
from tracker.contract.settings import Settings
from tracker.contract.signature import headers, key_of
from tracker.contract.sites import Site, Webhook
from tracker.contract.topics import WEBHOOK_REPLAYS, DeadLetter
from tracker.dead_letters import Redo, redo
from tracker.deliver.guard import why_refused
from tracker.deliver.retry import Breaker, retry_after_s, wait_s
from tracker.deliver.service import Progress

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_signature_is_that_of_the_specification() -> None:
    """The vector of the reference implementations (standard-webhooks/libraries)."""
    found = headers([key_of(SECRET)], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert found == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    old = "whsec_" + "QUFB" * 8
    both = headers([key_of(old), key_of(SECRET)], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert both["webhook-signature"].split(" ")[1] == found["webhook-signature"]
    assert len(both["webhook-signature"].split(" ")) == 2


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_QUFB", "whsec_%%%", "whsec_" + "QUFB" * 22]
)
def test_a_secret_that_is_none_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(ValueError, match="24 to 64 random bytes") as e:
        key_of(secret)
    assert len(secret) < 8 or secret not in str(e.value)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1",
        "169.254.169.254", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "224.0.0.1", "ff02::1", "240.0.0.1",
        "255.255.255.255", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::1", "192.0.2.1", "198.18.0.1", "2001:db8::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    assert why_refused(address) is not None


@pytest.mark.parametrize("address", ["1.1.1.1", "203.113.0.1", "2606:4700::1111", "64:ff9b::101:101", "::ffff:8.8.8.8"])
def test_public_addresses_are_not(address: str) -> None:
    assert why_refused(address) is None


def test_waits_grow_within_their_bound_and_an_endpoint_that_says_when_is_believed() -> None:
    def wait(failures: int, draw: float = 1.0, after: float | None = None) -> float:
        return wait_s(failures, first_s=1, most_s=300, draw=draw, retry_after_s=after)

    assert [wait(n) for n in (1, 2, 3, 4, 5, 60)] == [1, 4, 16, 64, 256, 300]
    assert (wait(1, 0.0), wait(2, 0.5)) == (0.5, 3.0)
    assert (wait(1, after=20), wait(1, after=9999), wait(3, after=2)) == (20, 300, 16)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None), ("120", 120), (" 0 ", 0), ("soon", None), ("-1", None), ("9" * 70, None), ("٣", None),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20), ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(header: str | None, expected: float | None) -> None:
    assert retry_after_s(header, 100.0) == expected


def test_the_breaker_opens_after_failures_in_a_row_and_lets_one_request_ask_again() -> None:
    breaker = Breaker(failures=3, first_s=10, most_s=60)
    for ok in (False, False, True, False, False):
        assert breaker.may_go(0)
        breaker.went(ok, 0)
    assert not breaker.open
    breaker.went(False, 0)
    for _ in range(8):
        breaker.went(False, 1)  # sent before it opened
    assert (breaker.open, breaker.may_go(9.9)) == (True, False)
    assert breaker.may_go(10)
    assert not breaker.may_go(10)  # one asks, the others wait
    breaker.went(False, 10)
    assert (breaker.may_go(29.9), breaker.may_go(30)) == (False, True)
    breaker.gave_up()
    assert breaker.may_go(30)
    breaker.went(False, 30, retry_after=50)
    assert (breaker.may_go(79), breaker.may_go(80)) == (False, True)
    breaker.went(False, 80, retry_after=9999)
    assert breaker.may_go(140)
    breaker.went(True, 140)
    assert (breaker.open, breaker.may_go(140), breaker.may_go(140)) == (False, True, True)


def test_only_what_is_before_the_oldest_that_is_not_done_is_committed() -> None:
    progress = Progress(5)
    for offset in (5, 6, 9):
        progress.take(offset)
    progress.done(6)
    assert (progress.safe, len(progress)) == (5, 3)
    progress.done(5)
    assert (progress.safe, len(progress)) == (9, 1)
    progress.done(9)
    assert (progress.safe, len(progress)) == (10, 0)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('url = "ftp://x"', "no address like"),
        ('url = "http://n8n.example/"', "allow_http"),
        ('secret = "whsec_QUFB"', "24 to 64"),
        ("secret = []", "one secret"),
        ('kinds = ["carts"]', "'carts' is none of"),
        ('sites = ["nowhere"]', "no site 'nowhere'"),
        ('name = "N8N"', "lower-case"),
        ("attempts = 0", ">= 1"),
        ("follow_redirects = true", "follow_redirects"),
    ],
)
def test_a_webhook_that_can_not_be_is_told(line: str, says: str, tmp_path: Path) -> None:
    fields = {"name": '"n8n"', "url": '"https://n8n.example/x"', "secret": f'"{SECRET}"'}
    name, _, value = line.partition(" = ")
    path = tmp_path / "tracker.toml"
    text = "[[webhooks]]\n" + "".join(f"{k} = {v}\n" for k, v in {**fields, name: value}.items())
    path.write_text(text)
    with pytest.raises(SettingsError, match=says) as e:
        load({}, path)
    assert SECRET not in str(e.value)
    path.write_text(text.replace(line + "\n", f"{name} = {fields.get(name, '8')}\n") if name in fields else text)
    if name in fields:
        (hook,) = load({}, path).webhooks
        assert SECRET not in repr(hook)


def test_a_letter_goes_to_its_webhook_alone() -> None:
    value = examples.trigger(*examples.TRIGGERS[0])
    fields: dict[str, Any] = {
        "reason": "not_delivered", "detail": "webhook n8n: HTTP 500, 8 tries", "stage": "webhooks", "at_ms": 1,
        "original": value, "site": "shop", "topic": "tracker.triggers.cart_abandoned.v1", "partition": 0, "offset": 7,
        "key": b"p1", "endpoint": "n8n",
    }  # fmt: skip
    hook = Webhook("n8n", "https://n8n.example/x", SECRET)
    settings = Settings(sites={"shop": Site("wk_12345678", "sk_12345678")}, webhooks=(hook,))
    again = redo(DeadLetter(**fields), 3, settings)
    assert isinstance(again, Redo)
    assert (again.topic, again.partition, again.key, again.value(0, 0)) == (WEBHOOK_REPLAYS, 0, b"n8n", value)
    assert redo(DeadLetter(**{**fields, "endpoint": "gone"}), 3, settings)[0] == "unknown_endpoint"  # type: ignore[index]
    assert redo(DeadLetter(**{**fields, "original": b"x"}), 3, settings)[0] == "not_a_trigger"  # type: ignore[index]
