"""Counters and histograms of one thread show what prometheus-client's would."""

from __future__ import annotations

import prometheus_client
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from tracker import tallies

BOUNDS = (0.1, 1.0, 10.0)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 100) | st.sampled_from(BOUNDS)), max_size=30),
)
def test_both_write_the_same_page(observed: list[tuple[str, float]]) -> None:
    pages = []
    for module in (prometheus_client, tallies):
        registry = CollectorRegistry()
        counter = module.Counter("c_total", "Counted.", ["x"], registry=registry)
        plain = module.Counter("p_total", "Counted.", registry=registry)
        histogram = module.Histogram("h", "Seen.", ["x"], buckets=BOUNDS, registry=registry)
        for label, value in observed:
            counter.labels(label).inc(value)
            plain.inc()
            histogram.labels(label).observe(value)
        page = generate_latest(registry).decode()
        pages.append([line for line in page.splitlines() if "_created" not in line])
    assert pages[0] == pages[1]
