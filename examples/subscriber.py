"""A subscriber of trigger topics: does something with each trigger once.

python examples/subscriber.py 127.0.0.1:9092 triggers.db cart_abandoned churn_risk
"""

import asyncio
import json
import sqlite3
import sys

from aiokafka import AIOKafkaConsumer


def handle(trigger: dict) -> None:
    """Yours: write to the person on the first channel that may be used."""
    data = trigger["data"]
    if "retracts" in data:
        print("taken back", data["retracts"], flush=True)
        return
    way = next((c for c in data.get("channels", []) if c["usable"]), None)
    print(trigger["id"], trigger["type"], data["profileId"], way and way["channel"], flush=True)


async def main(kafka: str, database: str, *kinds: str) -> None:
    seen = sqlite3.connect(database)
    seen.execute("CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY, at REAL DEFAULT (unixepoch()))")
    consumer = AIOKafkaConsumer(
        *(f"tracker.triggers.{kind}.v1" for kind in kinds),
        bootstrap_servers=kafka, group_id="example-subscriber", enable_auto_commit=False, auto_offset_reset="earliest",
    )  # fmt: skip
    async with consumer:
        async for record in consumer:
            trigger = json.loads(record.value)
            with seen:  # the id is kept if, and only if, handle() came to its end
                if seen.execute("INSERT OR IGNORE INTO seen (id) VALUES (?)", (trigger["id"],)).rowcount:
                    handle(trigger)
                seen.execute("DELETE FROM seen WHERE at < unixepoch() - 30 * 86400")  # Kafka keeps triggers for 7 days
            await consumer.commit()  # only now: a crash before it repeats, and loses nothing


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
