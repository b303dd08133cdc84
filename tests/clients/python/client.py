"""Make the calls of stdin with a Python client (argv: its module), unmodified. See tests/clients/drive.py."""

from __future__ import annotations

import importlib
import json
import logging
import re
import sys
import time
from datetime import datetime


def main() -> None:
    task = json.load(sys.stdin)
    refused: list[int] = []
    errors: list[str] = []

    class Dropped(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "exceeds 32kb" in record.msg and (number := re.search(r"'n': (\d+)", record.getMessage())):
                refused.append(int(number[1]))

    logging.getLogger("segment").addHandler(Dropped())
    client = importlib.import_module(sys.argv[1]).Client(
        task["key"],
        host=task["host"],
        gzip=task["gzip"],
        upload_size=task["batch"],
        upload_interval=0.2,
        on_error=lambda error, batch: errors.append(str(error)),
    )
    for call in task["calls"]:
        snake = {"userId": "user_id", "groupId": "group_id", "previousId": "previous_id"}
        values = {snake.get(name, name): value for name, value in call.items() if name not in ("n", "type")}
        if "moment" in values.get("properties", {}):
            values["properties"]["moment"] = datetime.fromisoformat(values["properties"]["moment"])
        try:
            getattr(client, call["type"])(**values)
        except RuntimeError:  # larger than the client sends
            refused.append(call["n"])
    if sys.argv[1] == "analytics":
        # This old one drops what is too large with a line in its log, and then its flush() never ends.
        while not client.queue.empty():
            time.sleep(0.05)
    else:
        client.flush()
    client.join()
    json.dump({"refused": refused, "errors": errors}, sys.stdout)


main()
