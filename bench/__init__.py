"""Benchmarks: CPU us an event and events/s of each stage, in one run on one machine. `make bench` runs all of them."""
