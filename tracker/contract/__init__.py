"""The event contract, defined once: events, triggers, topics, Redis keys, settings.

Both sides import it: `tracker` (endpoint, read API, command line) and `stream` (workers), and `stream` imports nothing
else from `tracker`. JSON Schema, TypeScript types and docs/reference are generated from here by
`python -m tracker.contract.generate`; `make check` fails when they drift.
"""
