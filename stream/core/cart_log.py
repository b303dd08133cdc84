"""Carts that get their entries in any order: the log, the fold again when one comes late, and what has been told.

An entry in order costs one `step`. A late one is sorted in and the log folded again; then what was told is compared
with what is true now: abandonments and recoveries that are no longer true are retracted, new ones told, all others keep
their id. So after every entry, whatever the order they came in: `carts` = fold(base, log, timers due <= fired_ms).

The log holds the last 48 h before its newest entry, at most 200 entries and 400 product lines, of all carts together.
What falls out goes into `base` for good. An entry before the base's time came too late to be sorted in:
- an order still closes the carts that were opened before it, as if at the base's time; if there are only others, it
  only counts
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

from stream.core.cart import advance, step
from stream.core.cart_merge import merge_carts, recovered_twice
from stream.core.cart_state import NEW, WAITING, Carts, Emission, Entry, Order, Rules, What, due_ms, due_of, key_of
from tracker.contract.durations import HOUR_MS

MAX_ENTRIES: Final = 200
MAX_LOG_LINES: Final = 400
MAX_LOG_MS: Final = 48 * HOUR_MS
MAX_MINTED: Final = 32
MAX_RECOVERIES: Final = 16
"""Recoveries told before the base that can still be taken back by a cancellation."""


class Told(Struct, frozen=True, omit_defaults=True):
    """An abandonment or a recovery that was told, and may have to be taken back. Its id is of (by, n), for ever."""

    by: str
    """messageId that opened the episode when it was told."""
    n: int
    opened_ms: int
    at_ms: int
    quiet: bool = False
    """It was suppressed: nobody heard of it."""
    unsure: bool = False
    """A late entry moved it into the near future: its timer is due, but no clock record has fired it yet."""
    key: str = ""
    """Of the cart."""
    order: str | None = None
    """A recovery, by this order."""


class CartLog(Struct, frozen=True, omit_defaults=True):
    """The state of the signal `cart`."""

    carts: Carts = NEW
    due_ms: int | None = None
    """When the earliest timer is due."""
    log: tuple[Entry, ...] = ()
    """Sorted by (ms, id)."""
    base: Carts = NEW
    """Fold of everything before the log."""
    lines: int = 0
    """Product lines in the log."""
    fired_ms: int = 0
    """Timers due until then have fired."""
    told: tuple[Told, ...] = ()
    """The abandonments and recoveries since the base, and older recoveries that a cancellation can take back."""
    minted: dict[str, int] = {}
    """Episode's messageId (of recoveries 'recovered ' and that) -> the highest n it gave to an id."""
    counted: dict[str, int] = {}
    """Counted too often, for a late entry undid it: subtracted from the next counts, for counters can't go down."""


class Change(Struct, frozen=True):
    """What an entry or the clock did."""

    state: CartLog
    abandoned: tuple[tuple[Emission, Told], ...] = ()
    """To tell; the quiet ones too."""
    recovered: tuple[tuple[Emission, Told], ...] = ()
    """To tell."""
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
    carts, emitted = advance(state.carts, now_ms, rules)
    state = replace(state, carts=carts, due_ms=due_ms(carts, rules), fired_ms=max(now_ms, state.fired_ms))
    return _tell(state, emitted, now_ms, rules)


def take(state: CartLog, e: Entry, known_ms: int, rules: Rules) -> Change:
    """Take an entry. known_ms: when it was received; timers due by then are about to be fired by the clock."""
    id = e.id
    for old in state.log:
        if old.id == id:
            return Change(state)
    if e.ms < state.base.at_ms:
        if e.do not in ("order", "undo"):
            return Change(state)
        e = replace(e, ms=state.base.at_ms, since_ms=e.ms if e.do == "order" else None)
    in_order = e.ms >= state.carts.at_ms and (not state.log or key_of(e) > key_of(state.log[-1]))
    if in_order:
        carts, emitted = step(state.carts, e, rules)
        if state.fired_ms >= e.ms:  # else no timer is due by then that was not due before the entry
            carts, fired = advance(carts, state.fired_ms, rules)
            emitted += fired
        state = _with(state, carts, (*state.log, e), e, rules)
        return _trim(_tell(state, emitted, known_ms, rules), rules)

    _, before = _fold(state.base, state.log, state.fired_ms, rules)
    at = bisect(state.log, key_of(e), key=key_of)
    log = (*state.log[:at], e, *state.log[at:])
    carts, emitted = _fold(state.base, log, state.fired_ms, rules)
    state = replace(_with(state, carts, log, e, rules), told=_doubted(state))
    return _trim(_tell(state, emitted, known_ms, rules, before), rules)


def _doubted(state: CartLog) -> tuple[Told, ...]:
    """What was told and is to be looked at again: all but what the base has for good."""
    return tuple(t if t.unsure or _in_base(t, state.base) else replace(t, unsure=True) for t in state.told)


def _in_base(t: Told, base: Carts) -> bool:
    """At the base's very time timers have fired, while of the orders some are still in the log."""
    if t.order is None or t.at_ms != base.at_ms:
        return t.at_ms <= base.at_ms
    return any(o.id == t.order for o in base.orders)


def merge(one: CartLog, other: CartLog, rules: Rules) -> Change:
    """Both visitors' carts as one person's: what was told and is no longer true is retracted, what is true was told
    under its id.

    The same whichever comes first. Bases meet at the later one's time: what stands before it in the other's log goes
    into that one's base, and so do its timers; what that gives is compared with what was told like all else.
    """
    at_ms = max(one.base.at_ms, other.base.at_ms)
    fired_ms = max(one.fired_ms, other.fired_ms)
    counted: Counter[str] = Counter()
    before: list[Emission] = []
    earlier: list[Emission] = []
    parts: list[tuple[Carts, tuple[Entry, ...]]] = []
    for state in (one, other):
        n = sum(e.ms < at_ms for e in state.log)
        base, emitted = _fold(state.base, state.log[:n], at_ms, rules)
        earlier += emitted
        before += _fold(state.base, state.log, state.fired_ms, rules)[1]
        counted.update(state.counted)
        parts.append((base, state.log[n:]))
    (base1, log1), (base2, log2) = parts
    base = merge_carts(base1, base2)
    undone, instead, reversals = recovered_twice(base1, base2)
    log = tuple(sorted({e.id: e for e in (*log2, *log1)}.values(), key=key_of))
    carts, emitted = _fold(base, log, fired_ms, rules)
    emitted = sorted(earlier, key=_place) + reversals + emitted
    told = {(t.by, t.n, t.order): t for t in (*_doubted(one), *_doubted(other))}
    minted = {by: max(one.minted.get(by, 0), other.minted.get(by, 0)) for by in sorted({*one.minted, *other.minted})}
    merged = CartLog(
        carts=carts,
        due_ms=due_ms(carts, rules),
        log=log,
        base=base,
        lines=sum(len(e.lines or ()) for e in log),
        fired_ms=fired_ms,
        told=tuple(sorted(told.values(), key=lambda t: (t.opened_ms, t.by, t.n, t.order or ""))),
        minted=minted,
        counted=dict(sorted(counted.items())),
    )
    change = _tell(merged, emitted, fired_ms, rules, sorted(before, key=_place))
    change = replace(
        change, state=replace(change.state, told=_since(change.state.told, base, rules)),
        emitted=(*change.emitted, *instead), undone=(*change.undone, *undone),
    )  # fmt: skip
    return _trim(change, rules) if log else change


def _place(x: Emission) -> tuple[int, int, str, str, str]:
    return x.at_ms, x.cart.opened_ms, x.cart.opened_by, x.cart.key, x.what


def _with(state: CartLog, carts: Carts, log: tuple[Entry, ...], e: Entry, rules: Rules) -> CartLog:
    """The state with the entry in its log."""
    return replace(state, carts=carts, due_ms=due_ms(carts, rules), log=log, lines=state.lines + len(e.lines or ()))


def _fold(carts: Carts, log: tuple[Entry, ...], until_ms: int, rules: Rules) -> tuple[Carts, list[Emission]]:
    out: list[Emission] = []
    for e in log:
        carts, emitted = step(carts, e, rules)
        out += emitted
    carts, emitted = advance(carts, until_ms, rules)
    return carts, out + emitted


def _counts(x: Emission) -> bool:
    return x.what != "order.completed" and (x.what != "cart.abandoned" or x.cart.seq == 1)


def _tell(
    state: CartLog, emitted: list[Emission], known_ms: int, rules: Rules, before: Sequence[Emission] = ()
) -> Change:
    """Compare what happened with what was told and counted. `before`: what had happened until now, where `emitted` is
    all of it again."""
    if not emitted and not before and not any(t.unsure for t in state.told):
        return Change(state)
    news, undone = difference(before, emitted) if before else (emitted, [])
    counts, counted = _counted(state.counted, news, undone)
    if not before and not state.told and all(x.what in _NEVER_TOLD for x in emitted):  # most that emit anything
        return Change(replace(state, counted=counted), counts=counts, emitted=tuple(news))

    reversed_ = {x.order.id for x in emitted if x.what == "cart.recovery_reversed" and x.order is not None}
    told, minted = list(state.told), state.minted
    if reversed_:
        told = [replace(t, unsure=True) if t.order in reversed_ else t for t in told]
    abandoned: list[tuple[Emission, Told]] = []
    recovered: list[tuple[Emission, Told]] = []
    ids: dict[tuple[int, str, str], tuple[str, int]] = {}
    same = _same_of(told, emitted) if told else {}
    for place, x in enumerate(emitted):
        if x.what == "cart.abandoned":
            order = None
        elif x.what == "cart.recovered" and x.order is not None and x.order.id not in reversed_:
            order = x.order.id
        else:
            continue
        i = same.get(place) if order is None else _recovery(told, x, order)
        if i is not None:
            old = told[i]
            told[i] = Told(old.by, old.n, x.cart.opened_ms, x.at_ms, old.quiet, key=x.cart.key, order=order)
            ids[x.at_ms, x.cart.opened_by, x.what] = (old.by, old.n)
            continue
        by = x.cart.opened_by
        mint = by if order is None else f"{RECOVERED}{by}"
        n = max(x.cart.seq if order is None else 1, minted.get(mint, 0) + 1)
        minted = {**minted, mint: n}
        new = Told(by, n, x.cart.opened_ms, x.at_ms, x.quiet, key=x.cart.key, order=order)
        told.append(new)
        ids[x.at_ms, by, x.what] = (by, n)
        (abandoned if order is None else recovered).append((x, new))
    gone = [t for t in told if t.unsure and not _may_come(t, state.carts, known_ms, rules)]
    if gone:
        told = [t for t in told if t not in gone]
    while len(minted) > MAX_MINTED:
        minted = {k: v for k, v in minted.items() if k != next(iter(minted))}
    if ids:
        news = [replace(x, told=id) if (id := ids.get((x.at_ms, x.cart.opened_by, x.what))) else x for x in news]
    orders: tuple[Order, ...] = ()
    if any(x.what == "order.completed" for x in news):
        known = {x.order.id for x in undone if x.what == "order.completed" and x.order}
        orders = tuple(x.order for x in news if x.what == "order.completed" and x.order and x.order.id not in known)
    return Change(
        replace(state, told=tuple(told), minted=minted, counted=counted),
        tuple(abandoned),
        tuple(recovered),
        tuple(t for t in gone if not t.quiet),
        counts,
        orders,
        tuple(news),
        tuple(undone),
    )


_NEVER_TOLD: Final[frozenset[What]] = frozenset(
    ("cart.opened", "cart.emptied", "cart.reopened", "cart.converted", "cart.lost", "cart.converted_late",
     "order.without_cart", "cart.checkout_reached", "cart.answered")
)  # fmt: skip
"""What has no trigger and takes none back, and is no order."""
RECOVERED: Final = "recovered "
"""In `minted`: before the messageId that opened the episode."""


def _counted(
    debt: dict[str, int], news: Sequence[Emission], undone: Sequence[Emission]
) -> tuple[tuple[tuple[What, int], ...], dict[str, int]]:
    """(what is to be counted, what was counted too often)."""
    if not debt and not undone:
        plain: dict[What, int] = {}  # a Counter takes five times as long
        for x in news:
            if _counts(x):
                plain[x.what] = plain.get(x.what, 0) + 1
        return tuple(plain.items()), debt
    counts: Counter[str] = Counter(x.what for x in news if _counts(x))
    counts.subtract(x.what for x in undone if _counts(x))
    counts.subtract(debt)
    more = tuple((what, n) for what, n in counts.items() if n > 0)
    return more, {what: -n for what, n in sorted(counts.items()) if n < 0}  # type: ignore[return-value]


def difference(before: Sequence[Emission], now: Sequence[Emission]) -> tuple[list[Emission], list[Emission]]:
    """(what is new, what is no more). Most of both is the same at the beginning and at the end."""
    first = 0
    while first < min(len(before), len(now)) and before[first] == now[first]:
        first += 1
    gone, news = list(before[first:]), list(now[first:])
    while gone and news and gone[-1] == news[-1]:
        del gone[-1], news[-1]
    for x in tuple(news):
        if x in gone:
            gone.remove(x)
            news.remove(x)
    return news, gone


def _same_of(told: Sequence[Told], emitted: Sequence[Emission]) -> dict[int, int]:
    """Place of an abandonment in `emitted` -> in `told`, of those that were told before: of one episode of a cart.

    What is to be heard looks first, for what was heard: at its very time, else of its episode, so that nobody is told
    twice of what a late entry has moved or joined. Only then come the quiet ones, which leave what was heard as it is.
    """
    unsure = {i: t for i, t in enumerate(told) if t.unsure and t.order is None}
    places = [n for n, x in enumerate(emitted) if x.what == "cart.abandoned"] if unsure else []
    ends: dict[tuple[str, str], int] = {}
    for n in places:
        episode = emitted[n].cart.key, emitted[n].cart.opened_by
        ends[episode] = max(emitted[n].at_ms, ends.get(episode, 0))
    found: dict[int, int] = {}
    for quiet, was_quiet in ((False, False), (True, True), (True, False)):
        for exactly in (True, False):
            for n in places:
                x = emitted[n]
                if n in found or x.quiet != quiet:
                    continue
                from_ms, to_ms = x.cart.opened_ms, ends[x.cart.key, x.cart.opened_by]
                for i, t in unsure.items():
                    of_it = t.at_ms == x.at_ms if exactly else t.opened_ms <= to_ms and from_ms <= t.at_ms
                    if of_it and t.key == x.cart.key and t.quiet == was_quiet:
                        found[n] = i
                        del unsure[i]
                        break
    return found


def _recovery(told: Sequence[Told], x: Emission, order: str) -> int | None:
    """Index of the recovery that was told before: of an overlapping episode of the cart, by the same order."""
    for i, t in enumerate(told):
        same_cart = t.unsure and t.key == x.cart.key and t.order == order
        if same_cart and t.opened_ms <= x.at_ms and x.cart.opened_ms <= t.at_ms:
            return i
    return None


def _may_come(t: Told, carts: Carts, known_ms: int, rules: Rules) -> bool:
    """Will the clock, once it is where the last entry was received, find this abandonment true after all?"""
    if t.order is not None:
        return False
    for cart in carts.carts:
        if cart.key == t.key and cart.state in WAITING and cart.opened_ms <= t.at_ms:
            due = due_of(cart, rules)
            return due is not None and due <= known_ms
    return False


def _since(told: tuple[Told, ...], base: Carts, rules: Rules) -> tuple[Told, ...]:
    """What may still have to be taken back."""
    kept, old = [], []
    for t in told:
        if t.unsure or not _in_base(t, base):
            kept.append(t)
        elif t.order is not None and base.at_ms - rules.lost_ms <= t.at_ms:
            old.append(t)
    return (*sorted(old, key=lambda t: t.at_ms)[-MAX_RECOVERIES:], *kept)


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
    told = _since(state.told, base, rules)
    minted = state.minted
    if minted:  # Whoever may open an episode again gives no id twice, also after its abandonment was retracted.
        live = {*(c.opened_by for c in base.carts), *(t.by for t in told), *(e.id for e in log[n:])}
        minted = {by: k for by, k in minted.items() if by in live or by.removeprefix(RECOVERED) in live}
    return replace(change, state=replace(state, log=log[n:], base=base, lines=lines, told=told, minted=minted))
