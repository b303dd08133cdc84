"""A real Kafka broker and a real Redis server from packages alone, for `tracker up` and the tests.

process   one child process: start, watch, stop, and why it died
parts     where Java, Kafka's jars and redis-server come from; fetched once, checked by hash
kafka     a single-node KRaft broker in a data directory
redis     a Redis server with an append-only file in a data directory
"""
