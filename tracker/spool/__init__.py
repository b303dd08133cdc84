"""Events on disk while Kafka is away: the format of a segment (`format`) and a folder of them (`folder`).

tracker/durable.py decides what comes here and when it goes on to Kafka.
"""
