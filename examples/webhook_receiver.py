"""A receiver of signed webhooks (Standard Webhooks): checks who sent it, answers at once, does each trigger once.

python examples/webhook_receiver.py 8099 triggers.db whsec_...
"""

import base64
import hmac
import json
import sqlite3
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

TOLERANCE_S = 300
MAX_BYTES = 1 << 20


def is_signed(secret: str, headers, body: bytes, now_s: float) -> bool:
    """Whether the tracker sent exactly this, within the last five minutes."""
    id, at, given = (headers.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
    if not at.isdecimal() or abs(now_s - int(at)) > TOLERANCE_S:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = b"v1," + base64.b64encode(hmac.digest(key, f"{id}.{at}.".encode() + body, "sha256"))
    return any(hmac.compare_digest(expected, signature.encode()) for signature in given.split(" "))


def handle(trigger: dict) -> None:
    """Yours. What takes longer than a second belongs into a queue: the tracker waits for the answer."""
    print(trigger["id"], trigger["type"], trigger["data"]["profileId"], flush=True)


class Receiver(BaseHTTPRequestHandler):
    secret: str
    seen: sqlite3.Connection

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BYTES:
            self.answer(413)
            return
        body = self.rfile.read(int(length))
        if not is_signed(self.secret, self.headers, body, time.time()):
            self.answer(401)
            return
        trigger = json.loads(body)
        with self.seen:  # the id is kept if, and only if, handle() came to its end
            if self.seen.execute("INSERT OR IGNORE INTO seen (id) VALUES (?)", (trigger["id"],)).rowcount:
                handle(trigger)
        self.answer(204)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    port, database, Receiver.secret = sys.argv[1:]
    Receiver.seen = sqlite3.connect(database)
    Receiver.seen.execute("CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY)")
    HTTPServer(("127.0.0.1", int(port)), Receiver).serve_forever()
