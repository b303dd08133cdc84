"""A cart that gets its entries in any order: the log, the fold again when one comes late, and what has been told.

An entry in order costs one `step`. A late one is sorted in and the log folded again; then what was told is compared
with what is true now: abandonments that are no longer true are retracted, new ones told, all others keep their id.
So after every entry, whatever the order they came in: `cart` = fold(base, log, timers due <= fired_ms).

The log holds the last 48 h before its newest entry, at most 200 entries and 400 product lines. What falls out goes
into `base` for good. An entry before the base's time came too late to be sorted in:
- an order still closes the cart, as if at the base's time; if the base's cart was opened after it, it only counts
- a cancellation or refund is applied as if at the base's time
- anything else is ignored
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from stream.core.cart import (
    NEW,
    WAITING,
    Cart,
    Emission,
    Entry,
    Order,
    Rules,
    What,
    advance,
    due_ms,
    key_of,
    merge_carts,
    step,
)

MAX_ENTRIES: Final = 200
MAX_LOG_LINES: Final = 400
MAX_LOG_MS: Final = 48 * 3_600_000
MAX_MINTED: Final = 16


class Told(Struct, frozen=True, omit_defaults=True):
    """An abandonment that was told, and may have to be taken back. Its id is made of (by, n), once and for ever."""

    by: str
    """messageId that opened the episode when it was told."""
    n: int
    opened_ms: int
    at_ms: int
    quiet: bool = False
    """It was suppressed: nobody heard of it."""
    unsure: bool = False
    """A late entry moved it into the near future: its timer is due, but no clock record has fired it yet."""


class CartLog(Struct, frozen=True, omit_defaults=True):
    """The state of the signal `cart`."""

    cart: Cart = NEW
    due_ms: int | None = None
    """When its timer is due."""
    log: tuple[Entry, ...] = ()
    """Sorted by (ms, id)."""
    base: Cart = NEW
    """Fold of everything before the log."""
    lines: int = 0
    """Product lines in the log."""
    fired_ms: int = 0
    """Timers due until then have fired."""
    told: tuple[Told, ...] = ()
    """The abandonments since the base."""
    minted: dict[str, int] = {}
    """Episode's messageId -> the highest n it gave to an id."""
    counted: dict[str, int] = {}
    """Counted too often, for a late entry undid it: subtracted from the next counts, for counters can't go down."""


class Change(Struct, frozen=True):
    """What an entry or the clock did."""

    state: CartLog
    abandoned: tuple[tuple[Emission, Told], ...] = ()
    """To tell; the quiet ones too."""
    retracted: tuple[Told, ...] = ()
    counts: tuple[tuple[What, int], ...] = ()
    """Episodes by what became of them; an episode counts as abandoned once."""
    orders: tuple[Order, ...] = ()
    """Orders not known before."""
    emitted: tuple[Emission, ...] = ()
    """What happened that was not so before."""
    undone: tuple[Emission, ...] = ()
    """What was so before and is not."""


def fire(state: CartLog, now_ms: int, rules: Rules) -> Change:
    """Fire the timers due <= now_ms."""
    cart, emitted = advance(state.cart, now_ms, rules)
    state = replace(state, cart=cart, due_ms=due_ms(cart, rules), fired_ms=max(now_ms, state.fired_ms))
    return _tell(state, emitted, now_ms, rules, known=())


def take(state: CartLog, e: Entry, known_ms: int, rules: Rules) -> Change:
    """Take an entry. known_ms: when it was received; timers due by then are about to be fired by the clock."""
    if any(e.id == old.id for old in state.log):
        return Change(state)
    if e.ms < state.base.at_ms:
        if e.do not in ("order", "undo"):
            return Change(state)
        after = e.do == "order" and e.ms < state.base.opened_ms
        e = replace(e, ms=state.base.at_ms, do="past_order" if after else e.do)
    in_order = e.ms >= state.cart.at_ms and (not state.log or key_of(e) > key_of(state.log[-1]))
    if in_order:
        cart, emitted = step(state.cart, e, rules)
        cart, fired = advance(cart, state.fired_ms, rules)
        state = _with(state, cart, (*state.log, e), e, rules)
        return _trim(_tell(state, emitted + fired, known_ms, rules, known=()), rules)

    _, before = _fold(state.base, state.log, state.fired_ms, rules)
    at = bisect(state.log, key_of(e), key=key_of)
    log = (*state.log[:at], e, *state.log[at:])
    cart, emitted = _fold(state.base, log, state.fired_ms, rules)
    counted = Counter(state.counted)
    counted.update(x.what for x in before if _counts(x))
    told = tuple(replace(t, unsure=True) for t in state.told)
    state = replace(_with(state, cart, log, e, rules), told=told, counted=dict(counted))
    known = tuple(x.order.id for x in before if x.what == "order.completed" and x.order)
    return _trim(_tell(state, emitted, known_ms, rules, known, before), rules)


def merge(one: CartLog, other: CartLog, rules: Rules) -> Change:
    """Both carts as one person's: what was told and is no longer true is retracted, what is true was told under its id.

    The same whichever comes first. Bases meet at the later one's time: what stands before it in the other's log goes
    into that one's base, and so do its timers; what that gives is compared with what was told like all else.
    """
    at_ms = max(one.base.at_ms, other.base.at_ms)
    fired_ms = max(one.fired_ms, other.fired_ms)
    counted: Counter[str] = Counter()
    known: list[str] = []
    earlier: list[Emission] = []
    parts: list[tuple[Cart, tuple[Entry, ...]]] = []
    for state in (one, other):
        n = sum(e.ms < at_ms for e in state.log)
        base, emitted = _fold(state.base, state.log[:n], at_ms, rules)
        earlier += emitted
        _, emitted = _fold(state.base, state.log, state.fired_ms, rules)
        counted.update(state.counted)
        counted.update(x.what for x in emitted if _counts(x))
        known += (x.order.id for x in emitted if x.what == "order.completed" and x.order)
        parts.append((base, state.log[n:]))
    (base1, log1), (base2, log2) = parts
    base = merge_carts(base1, base2)
    log = tuple(sorted({e.id: e for e in (*log2, *log1)}.values(), key=key_of))
    cart, emitted = _fold(base, log, fired_ms, rules)
    emitted = sorted(earlier, key=lambda x: (x.at_ms, x.cart.opened_ms, x.cart.opened_by)) + emitted
    told = {(t.by, t.n): replace(t, unsure=True) for t in (*one.told, *other.told)}
    minted = {by: max(one.minted.get(by, 0), other.minted.get(by, 0)) for by in sorted({*one.minted, *other.minted})}
    merged = CartLog(
        cart=cart,
        due_ms=due_ms(cart, rules),
        log=log,
        base=base,
        lines=sum(len(e.lines or ()) for e in log),
        fired_ms=fired_ms,
        told=tuple(sorted(told.values(), key=lambda t: (t.opened_ms, t.by, t.n))),
        minted=minted,
        counted=dict(sorted(counted.items())),
    )
    change = _tell(merged, emitted, fired_ms, rules, tuple(known))
    told_since = tuple(t for t in change.state.told if t.unsure or t.at_ms > base.at_ms)
    change = replace(change, state=replace(change.state, told=told_since))
    return _trim(change, rules) if log else change


def _with(state: CartLog, cart: Cart, log: tuple[Entry, ...], e: Entry, rules: Rules) -> CartLog:
    """The state with the entry in its log."""
    return replace(state, cart=cart, due_ms=due_ms(cart, rules), log=log, lines=state.lines + len(e.lines or ()))


def _fold(cart: Cart, log: tuple[Entry, ...], until_ms: int, rules: Rules) -> tuple[Cart, list[Emission]]:
    out: list[Emission] = []
    for e in log:
        cart, emitted = step(cart, e, rules)
        out += emitted
    cart, emitted = advance(cart, until_ms, rules)
    return cart, out + emitted


def _counts(x: Emission) -> bool:
    return x.what != "order.completed" and (x.what != "cart.abandoned" or x.cart.seq == 1)


def _tell(
    state: CartLog,
    emitted: list[Emission],
    known_ms: int,
    rules: Rules,
    known: tuple[str, ...],
    before: Sequence[Emission] = (),
) -> Change:
    """Compare what happened with what was told and counted; `known`: orders counted before; `before`: what had happened
    until now, where `emitted` is all of it again."""
    if not emitted and not state.told and not before:
        return Change(state)
    counts: Counter[What] = Counter(x.what for x in emitted if _counts(x))
    counted = state.counted
    if counted:
        rest: dict[str, int] = {}
        for what, n in counted.items():
            used = min(n, counts[what])  # type: ignore[index]  # JSON's keys are plain strings
            counts[what] -= used  # type: ignore[index]
            if n > used:
                rest[what] = n - used
        counted = rest

    news, undone = _difference(before, emitted) if before else (emitted, ())
    told, minted, abandoned = list(state.told), state.minted, []
    ids: dict[tuple[int, str], tuple[str, int]] = {}
    for x in emitted:
        if x.what != "cart.abandoned":
            continue
        i = _same(told, x)
        if i is not None:
            old = told[i]
            told[i] = Told(old.by, old.n, x.cart.opened_ms, x.at_ms, old.quiet)
            ids[x.at_ms, x.cart.opened_by] = (old.by, old.n)
            continue
        by = x.cart.opened_by
        n = max(x.cart.seq, minted.get(by, 0) + 1)
        minted = {**minted, by: n}
        new = Told(by, n, x.cart.opened_ms, x.at_ms, x.quiet)
        told.append(new)
        ids[x.at_ms, x.cart.opened_by] = (by, n)
        abandoned.append((x, new))
    gone = [t for t in told if t.unsure and not _may_come(t, state.cart, known_ms, rules)]
    if gone:
        told = [t for t in told if t not in gone]
    while len(minted) > MAX_MINTED:
        minted = {k: v for k, v in minted.items() if k != next(iter(minted))}
    return Change(
        replace(state, told=tuple(told), minted=minted, counted=counted),
        tuple(abandoned),
        tuple(t for t in gone if not t.quiet),
        tuple((what, n) for what, n in counts.items() if n),
        tuple(x.order for x in emitted if x.what == "order.completed" and x.order and x.order.id not in known),
        tuple(replace(x, told=ids[x.at_ms, x.cart.opened_by]) if x.what == "cart.abandoned" else x for x in news)
        if ids
        else tuple(news),
        tuple(undone),
    )


def _difference(before: Sequence[Emission], now: Sequence[Emission]) -> tuple[list[Emission], list[Emission]]:
    """(what is new, what is no more)."""
    gone = list(before)
    news = []
    for x in now:
        if x in gone:
            gone.remove(x)
        else:
            news.append(x)
    return news, gone


def _same(told: list[Told], x: Emission) -> int | None:
    """Index of the told abandonment that this one is: of an overlapping episode, and heard if this is to be heard."""
    found = None
    for i, t in enumerate(told):
        if t.unsure and t.opened_ms <= x.at_ms and x.cart.opened_ms <= t.at_ms and (x.quiet or not t.quiet):
            if t.quiet == x.quiet:
                return i
            found = i if found is None else found
    return found


def _may_come(t: Told, cart: Cart, known_ms: int, rules: Rules) -> bool:
    """Will the clock, once it is where the last entry was received, find this abandonment true after all?"""
    due = due_ms(cart, rules) if cart.state in WAITING else None
    return due is not None and due <= known_ms and cart.opened_ms <= t.at_ms


def _trim(change: Change, rules: Rules) -> Change:
    """Move what is beyond the bounds into the base."""
    state = change.state
    log, base, lines = state.log, state.base, state.lines
    oldest = log[-1].ms - MAX_LOG_MS
    n = 0
    while n < len(log) - 1 and (len(log) - n > MAX_ENTRIES or lines > MAX_LOG_LINES or log[n].ms < oldest):
        base, _ = step(base, log[n], rules)
        lines -= len(log[n].lines or ())
        n += 1
    if n == 0:
        return change
    told = tuple(t for t in state.told if t.unsure or t.at_ms > base.at_ms)
    minted = state.minted
    if minted:  # Whoever may open an episode again gives no id twice, also after its abandonment was retracted.
        live = {base.opened_by, *(t.by for t in told), *(e.id for e in log[n:])}
        minted = {by: k for by, k in minted.items() if by in live}
    return replace(change, state=replace(state, log=log[n:], base=base, lines=lines, told=told, minted=minted))
