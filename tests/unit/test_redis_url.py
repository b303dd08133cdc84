"""What the setting `redis` may say."""

from __future__ import annotations

import pytest

from stream.redis_nodes import _ranges
from tracker.contract.redis_url import parse, shown


@pytest.mark.parametrize(
    ("url", "cluster", "nodes", "options"),
    [
        ("redis://h:1/2", False, (("h", 1),), {"db": 2}),
        ("rediss://u:p@h", False, (("h", 6379),), {"ssl": True, "username": "u", "password": "p"}),
        ("redis+cluster://a:1,b:2, c", True, (("a", 1), ("b", 2), ("c", 6379)), {}),
        ("redis+cluster://[::1]:7,b:2/0", True, (("::1", 7), ("b", 2)), {}),
        (
            "rediss+cluster://u:p%40%2F@a:1,b:2/?ssl_ca_certs=ca.pem",
            True,
            (("a", 1), ("b", 2)),
            {"ssl": True, "username": "u", "password": "p@/", "ssl_ca_certs": "ca.pem"},
        ),
    ],
)
def test_one_server_or_nodes_of_a_cluster(
    url: str, cluster: bool, nodes: tuple[tuple[str, int], ...], options: dict[str, object]
) -> None:
    found = parse(url)
    assert (found.cluster, found.nodes, found.options) == (cluster, nodes, options)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("no-redis://h", "Redis URL must specify one of"),
        ("redis+cluster://", "names no node"),
        ("redis+cluster://a:1,b:2/3", "database 0 only"),
        ("http+cluster://a", "Redis URL must specify one of"),
        ("redis+cluster://a:x", "could not be cast|invalid literal"),
    ],
)
def test_what_it_cannot_be_is_told(url: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse(url)


def test_messages_show_no_password() -> None:
    assert shown("rediss+cluster://u:p%40@a:1,b:2") == "a:1,b:2"
    assert shown("redis://a:1/0") == "a:1/0"


def test_a_node_that_does_not_know_its_own_address_is_the_one_that_was_asked() -> None:
    rows = [[0, 5, [b"", 7, b"id"]], [6, 9, [b"h", 8, b"id"], [b"replica", 9, b"id"]]]
    assert _ranges(rows, ("asked", 1)) == [(0, 5, ("asked", 7)), (6, 9, ("h", 8))]
