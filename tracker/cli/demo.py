"""`tracker demo`: simulated shoppers, who send through the public HTTP API as any client does.

A shopper's visit is a story (`visit`): a list of messages from a seeded generator, without messageIds and times.
Some only look, some leave a cart, a checkout or a payment, some buy; popups show; known customers get messages by
e-mail, Zalo and SMS, and some click. The same seed tells the same stories; only messageIds and times differ from run
to run (or a second run would be repeats of the first and count nothing).
"""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from tracker.cli.common import Failure, run_until_signal
from tracker.contract.loading import load
from tracker.contract.settings import DEMO_WRITE_KEY

if TYPE_CHECKING:
    import aiohttp

Message = dict[str, Any]

PRODUCTS: Final[tuple[tuple[str, str, str, int], ...]] = (
    ("ao-thun", "Áo thun cotton", "Áo", 189_000),
    ("ao-khoac", "Áo khoác gió", "Áo", 459_000),
    ("so-mi", "Sơ mi linen", "Áo", 349_000),
    ("quan-jean", "Quần jean ống đứng", "Quần", 520_000),
    ("vay-hoa", "Váy hoa nhí", "Váy", 415_000),
    ("giay-chay", "Giày chạy bộ", "Giày", 1_290_000),
    ("sandal", "Sandal da", "Giày", 390_000),
    ("balo", "Balo laptop 15 inch", "Túi", 690_000),
    ("tui-vai", "Túi vải canvas", "Túi", 159_000),
    ("mu-len", "Mũ len", "Phụ kiện", 129_000),
)
"""(product id, name, category, price in VND)."""

ENDINGS: Final[dict[str, int]] = {"looks": 36, "cart": 24, "checkout": 8, "payment": 5, "buys": 27}
"""How far a visit goes -> its share, per cent."""

BATCH_EVENTS: Final = 50
SENDERS: Final = 8
QUEUE_EVENTS: Final = 200
"""Events waiting at a sender; when it is full the simulator waits: the rate is what the endpoint takes."""
TRIES: Final = 6


def visit(seed: int, shopper: int, number: int) -> Iterator[Message]:
    """The messages of a shopper's visit `number` (0, 1, ...), in order. The same arguments, the same messages."""
    rng = Random(f"{seed}/{shopper}/{number}")
    who: Message = {"anonymousId": f"demo-{seed}-{shopper}"}
    person = Random(f"{seed}/{shopper}")
    known = person.random() < 0.45
    user: Message = {"userId": f"demo-user-{seed}-{shopper}", **who}
    if known and number > 0:  # identified on an earlier visit
        who = user

    if known and number > 0 and rng.random() < 0.6:
        yield from _message(rng, user, shopper, number)
    campaign = rng.choice([None, None, "thu-dong", "flash-sale"])
    context: Message = {"page": {"url": "https://shop.example/", "title": "Shop"}}
    if campaign:
        context["campaign"] = {"name": campaign, "source": rng.choice(["facebook", "google", "zalo"]), "medium": "cpc"}
    yield {"type": "page", **who, "name": "Home", "properties": {"url": "https://shop.example/"}, "context": context}
    if rng.random() < 0.4:
        yield from _popup(rng, who)

    ending = rng.choices(list(ENDINGS), list(ENDINGS.values()))[0]
    cart: dict[str, Message] = {}
    cart_id = f"demo-cart-{seed}-{shopper}-{number}"
    for _ in range(rng.randint(1, 4)):
        product_id, name, category, price = rng.choice(PRODUCTS)
        product: Message = {
            "product_id": product_id,
            "name": name,
            "category": category,
            "price": price,
            "currency": "VND",
        }
        product["url"] = f"https://shop.example/p/{product_id}"
        yield {"type": "page", **who, "name": "Product", "properties": {"url": product["url"]}}
        yield _track(who, "Product Viewed", product)
        if ending != "looks" and (not cart or rng.random() < 0.5):
            line = cart.setdefault(product_id, {**product, "quantity": 0})
            line["quantity"] += (quantity := rng.choice([1, 1, 1, 2]))
            yield _track(who, "Product Added", {**product, "quantity": quantity, "cart_id": cart_id})
    if ending == "looks":
        return

    if len(cart) > 1 and rng.random() < 0.2:
        removed = cart.pop(next(iter(cart)))
        yield _track(who, "Product Removed", {**removed, "cart_id": cart_id})
    products = list(cart.values())
    value = sum(p["price"] * p["quantity"] for p in products)
    basket: Message = {"cart_id": cart_id, "value": value, "currency": "VND", "products": products}
    yield _track(who, "Cart Viewed", basket)
    if known and number == 0:
        traits = {"name": f"Khách {shopper}", "email": f"khach{shopper}@example.com", "phone": f"+8490{shopper:07d}"}
        yield {"type": "identify", **user, "traits": traits}
        who = user
    if ending == "cart":
        return
    order: Message = {**basket, "order_id": f"demo-order-{seed}-{shopper}-{number}"}
    yield _track(who, "Checkout Started", order)
    if ending == "checkout":
        return
    yield _track(
        who, "Payment Info Entered", {"order_id": order["order_id"], "cart_id": cart_id, "payment_method": "cod"}
    )
    if ending == "payment":
        return
    yield _track(who, "Order Completed", {**order, "total": value + 30_000, "revenue": value, "shipping": 30_000})


def _track(who: Message, event: str, properties: Message) -> Message:
    return {"type": "track", **who, "event": event, "properties": properties}


def _popup(rng: Random, who: Message) -> Iterator[Message]:
    popup = rng.choice(["giam-10", "freeship", "nhan-tin"])
    about = {"popup_id": popup, "provider": "demo", "trigger": rng.choice(["scroll", "exit", "delay"])}
    yield _track(who, "Popup Triggered", about)
    yield _track(who, "Popup Viewed", about)
    match rng.choices(["dismiss", "click", "submit", "leave"], [45, 20, 15, 20])[0]:
        case "dismiss":
            yield _track(who, "Popup Dismissed", about)
        case "click":
            yield _track(who, "Popup Clicked", about)
        case "submit":
            yield _track(who, "Popup Clicked", about)
            yield _track(who, "Popup Submitted", about)


def _message(rng: Random, user: Message, shopper: int, number: int) -> Iterator[Message]:
    """One message to a customer, as far as it comes: sent, delivered or failed, seen, clicked."""
    channel = rng.choice(["email", "zalo", "sms"])
    names = {
        "email": ("Email Sent", "Email Delivered", "Email Bounced", "Email Opened", "Email Link Clicked"),
    }.get(channel, ("Message Sent", "Message Delivered", "Message Failed", "Message Seen", "Message Link Clicked"))
    sent, delivered, failed, seen, clicked = names
    about = {"message_id": f"demo-message-{shopper}-{number}", "campaign_name": "nhac-gio-hang"}

    def step(event: str) -> Message:
        return {**_track({"userId": user["userId"]}, event, about), "context": {"channel": channel}}

    yield step(sent)
    if rng.random() < 0.05:
        yield step(failed)
        return
    yield step(delivered)
    if channel != "sms" and rng.random() < 0.5:
        yield step(seen)
    if rng.random() < 0.25:
        yield step(clicked)


def stories(seed: int, visitors: int, active: int) -> Iterator[tuple[int, Message]]:
    """(shopper, message) without end: `active` shoppers at a time; who is done comes back after all others."""
    rng = Random(seed)
    visits: Counter[int] = Counter()
    waiting = list(range(visitors))
    rng.shuffle(waiting)
    running: list[tuple[int, Iterator[Message]]] = []
    while True:
        while waiting and len(running) < active:
            shopper = waiting.pop(0)
            running.append((shopper, visit(seed, shopper, visits[shopper])))
            visits[shopper] += 1
        at = rng.randrange(len(running))
        shopper, story = running[at]
        message = next(story, None)
        if message is None:
            del running[at]
            waiting.append(shopper)
        else:
            yield shopper, message


@dataclass
class Tally:
    sent: int = 0
    """Events handed to HTTP (each once, however often it was sent again)."""
    acked: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """Events lost -> why."""
    retries: int = 0
    slowest_ms: float = 0.0
    events: Counter[str] = field(default_factory=Counter)
    fatal: str | None = None


@click.command()
@click.option("--url", metavar="URL", help="The endpoint.  [default: where the settings say it listens]")
@click.option("--rate", type=click.FloatRange(0.1, 20_000), default=10.0, show_default=True, help="Events a second.")
@click.option(
    "--visitors", type=click.IntRange(1, 1_000_000), default=200, show_default=True, help="Different shoppers."
)
@click.option("--duration", type=click.FloatRange(0.1), default=60.0, show_default=True, help="Seconds.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed tells the same stories.")
@click.option("--write-key", metavar="KEY", default=DEMO_WRITE_KEY, show_default=True, help="Write key of the site.")
def demo(url: str | None, rate: float, visitors: int, duration: float, seed: int, write_key: str) -> int:
    """Send the events of simulated shoppers: visits, carts (some abandoned, some bought), popups, messages.

    The endpoint must know the write key: `tracker up --demo` does.
    """
    if url is None:
        settings = load()
        url = f"http://{settings.http_host}:{settings.http_port}"
    if not url.startswith(("http://", "https://")):
        raise click.UsageError(f"--url: '{url}' is no http:// or https:// address")
    return run_until_signal(_demo(url.rstrip("/"), rate, visitors, duration, seed, write_key))


async def _demo(url: str, rate: float, visitors: int, duration: float, seed: int, write_key: str) -> int:
    import aiohttp
    from rich.console import Console

    console, tally = Console(highlight=False), Tally()
    authorization = "Basic " + base64.b64encode(f"{write_key}:".encode()).decode()
    headers = {"Authorization": authorization, "Content-Type": "application/json"}
    queues: list[asyncio.Queue[Message | None]] = [asyncio.Queue(QUEUE_EVENTS) for _ in range(min(SENDERS, visitors))]
    began = time.monotonic()
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, trust_env=False) as http:
        senders = [asyncio.create_task(_send(http, f"{url}/v1/batch", queue, tally)) for queue in queues]
        try:
            with console.status("") as status:
                active = max(1, min(visitors, int(rate) or 1))
                await _tell(stories(seed, visitors, active), queues, tally, rate, duration, status.update)
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None:
                task.uncancel()  # Ctrl-C ends the stories; what is under way is still sent and counted
        for queue, sender in zip(queues, senders, strict=True):
            await _put(queue, None, sender)
        await asyncio.wait(senders, timeout=30)
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
    return _summary(console, tally, time.monotonic() - began, url)


async def _tell(
    told: Iterator[tuple[int, Message]],
    queues: list[asyncio.Queue[Message | None]],
    tally: Tally,
    rate: float,
    duration: float,
    show: Any,
) -> None:
    """Hand out the stories at `rate`, all events of a shopper to the same queue: their order is kept."""
    run, began, shown, count = uuid.uuid4().hex[:12], time.monotonic(), 0.0, 0
    while tally.fatal is None:
        elapsed = time.monotonic() - began
        if elapsed >= duration:
            return
        if elapsed - shown > 0.25:
            shown = elapsed
            counts = f"sent {tally.sent}  acked {tally.acked}  errors {tally.errors.total()}"
            show(f"{elapsed:.0f} / {duration:.0f} s  {counts}")
        for _ in range(int(elapsed * rate) + 1 - count):
            shopper, message = next(told)
            message["messageId"] = f"{run}-{count}"
            message["timestamp"] = _now()
            await queues[shopper % len(queues)].put(message)
            count += 1
            tally.events[message.get("event") or message["type"]] += 1
        await asyncio.sleep(min(0.05, 1 / rate))


async def _put(queue: asyncio.Queue[Message | None], item: Message | None, sender: asyncio.Task[None]) -> None:
    """put, unless the sender is gone (it would wait for ever)."""
    put = asyncio.ensure_future(queue.put(item))
    await asyncio.wait({put, sender}, return_when=asyncio.FIRST_COMPLETED)
    put.cancel()


async def _send(http: aiohttp.ClientSession, url: str, queue: asyncio.Queue[Message | None], tally: Tally) -> None:
    """One sender: takes what waits, one request at a time, sends again what the endpoint says is worth it."""
    ended = False
    while not ended:
        batch: list[Message] = []
        item = await queue.get()
        while item is not None:
            batch.append(item)
            if len(batch) >= BATCH_EVENTS or queue.empty():
                break
            item = queue.get_nowait()
        ended = item is None
        if batch and tally.fatal is None:
            tally.sent += len(batch)
            await _post(http, url, batch, tally)


async def _post(http: aiohttp.ClientSession, url: str, batch: list[Message], tally: Tally) -> None:
    import aiohttp

    why = ""
    for attempt in range(TRIES):
        if attempt:
            tally.retries += 1
            await asyncio.sleep(min(2.0, 0.1 * 2**attempt))
        began = time.monotonic()
        try:
            async with http.post(url, data=msgspec.json.encode({"batch": batch, "sentAt": _now()})) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as e:
            why = f"no answer ({type(e).__name__})"
            continue
        tally.slowest_ms = max(tally.slowest_ms, (time.monotonic() - began) * 1000)
        if answer.status == 200:
            tally.acked += len(batch)
            return
        why = f"HTTP {answer.status} {_code(body)}".strip()
        if answer.status in (401, 403, 404):
            tally.fatal = why
            break
        if answer.status not in (408, 429) and answer.status < 500:
            break  # never again
    tally.errors[why] += len(batch)


def _code(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body).get("code", ""))
    except (msgspec.DecodeError, AttributeError):
        return ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _summary(console: Any, tally: Tally, seconds: float, url: str) -> int:
    if tally.fatal:
        raise Failure(
            f"{url} answered {tally.fatal}: is the write key right? `tracker up --demo` knows the demo site's"
        )
    if not tally.acked and tally.errors:
        raise Failure(f"{url}: {next(iter(tally.errors))}: start it with `tracker up --demo`, or pass --url")
    console.print(
        f"sent {tally.sent}, acked {tally.acked}, errors {tally.errors.total()}, sent again {tally.retries} times"
    )
    console.print(f"{tally.acked / seconds:.1f} events/s for {seconds:.1f} s, slowest answer {tally.slowest_ms:.0f} ms")
    for event, count in tally.events.most_common():
        console.print(f"  {count:>7}  {event}")
    for why, count in tally.errors.items():
        console.print(f"  lost {count}: {why}")
    return 1 if tally.errors else 0
