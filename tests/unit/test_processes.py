"""What several processes of the endpoint want of the settings, and how they get their sockets."""

from __future__ import annotations

import pytest

from tracker import processes
from tracker.contract.loading import SettingsError, load


@pytest.mark.parametrize(("http", "first"), [(9464, 9464), (9466, 9464), (8080, 65534)])
def test_ports_of_metrics_that_cannot_be_are_told(http: int, first: int) -> None:
    with pytest.raises(SettingsError, match=f"metrics_port: {first} to {first + 2} must be ports beside http_port"):
        load({}, http_port=http, metrics_port=first, processes=3)
    load({}, http_port=http, metrics_port=first, processes=1)  # a single one has none


def test_each_process_has_a_socket_on_the_shared_port_and_one_of_its_own() -> None:
    children = processes._bind(load({}, http_port=0, metrics_port=0, processes=3))
    try:
        ports = [[s.getsockname()[1] for s in child.sockets] for child in children]
        assert len({shared for shared, _ in ports}) == 1
        assert len({own for _, own in ports}) == 3
        assert len({s.fileno() for child in children for s in child.sockets}) == 6
    finally:
        for child in children:
            for s in child.sockets:
                s.close()
