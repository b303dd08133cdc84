"""Webhooks out: triggers for systems that do not read Kafka. `tracker webhooks deliver` runs service.py.

guard       which addresses may be called
retry       when to try again, and when to leave an endpoint alone; pure
post        one try
service     one endpoint: its consumer group, its tries, its dead letters
metrics     what it counts
"""
