"""What somebody looked at in a visit and left without a cart: visits by their signs, in any order of these. Pure.

A visit is a stretch of signs (products, carts, orders) with less than `idle_ms` between any two that follow each other.
Which signs belong together depends on the set of them alone: a sign joins every visit that it is near enough to, and so
two may become one. So no log is kept, only each visit's first and last sign and the products looked at, and any order
of arrival ends in the same visits. Pages, by far the most frequent signs, only lengthen visits that may still be told:
who just reads has no state, and a page that comes before the products of its visit is not remembered.

A visit is over `idle_ms` after its last sign; a sign at exactly that time begins a new one, for timers go first. It is
told then if enough views of one category are in it, unless
- a cart or an order is in it, wherever
- a cart lay there when it began: the last thing known of carts, at most `cart_ms` before, was not an order or an empty
  cart. Who has one is reminded of that.
What was told and is shown by late events to be untrue is taken back: a cart or order in it after all, or two visits
that were one. Visits that ended more than `KEPT_MS` before the latest are forgotten; signs as late as that are ignored.

A product without a category is a category of its own: twice the same product is twice the same category.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from tracker.contract.durations import HOUR_MS

KEPT_MS: Final = 48 * HOUR_MS
MAX_VISITS: Final = 8
MAX_VIEWS: Final = 10
"""Of a visit, the latest, as many as `views` may ask for; none once it was told or has a cart. They are most of what a
profile's state weighs."""
MAX_MARKS: Final = 16

Mark = tuple[int, bool]
"""(ms, whether a cart lies there since)."""


class Rules(Struct, frozen=True):
    idle_ms: int
    views: int
    """Least of one category; 0: nothing is watched."""
    repeat_ms: int
    cart_ms: int


class View(Struct, frozen=True, array_like=True, order=True):
    """One look at a product; '' and -1: not said."""

    ms: int
    product: str
    category: str = ""
    name: str = ""
    price: float = -1.0
    cur: str = ""
    url: str = ""
    img: str = ""

    @property
    def group(self) -> str:
        return f"c {self.category}" if self.category else f"p {self.product}"


class Told(Struct, frozen=True, array_like=True, order=True):
    at_ms: int
    by: str
    """Of what its trigger's id is made."""
    quiet: bool
    """It was suppressed as a repeat."""


class Visit(Struct, frozen=True, omit_defaults=True):
    start_ms: int
    end_ms: int
    views: tuple[View, ...] = ()
    """The latest, sorted."""
    ready: bool = False
    """Enough of one category are among them."""
    carted: bool = False
    """A cart or an order is in it."""
    told: Told | None = None
    gone: bool = False
    """It was told, and taken back."""


class Browsing(Struct, frozen=True, omit_defaults=True):
    """The state of the signal `browse`."""

    visits: tuple[Visit, ...] = ()
    """Sorted, apart from each other."""
    marks: tuple[Mark, ...] = ()
    """What the latest events said of carts, sorted."""
    told_ms: int | None = None
    """The last one told of visits that are forgotten."""
    due_ms: int | None = None


NOTHING: Final = Browsing()
Does = Literal["look", "view", "touch", "cart", "order", "empty"]
"""look: a sign of the visitor. view: of a product. touch: of a cart. cart: one lies there. order, empty: none does any
more; a look at an empty cart is no cart."""


def looked(state: Browsing, ms: int, rules: Rules) -> Browsing:
    """A page or the like: it makes no visit, and lengthens one that may still be told."""
    visits = state.visits
    if not visits or not _lengthens(last := visits[-1], ms, rules):
        if len(visits) < 2 or not any(_lengthens(visit, ms, rules) for visit in visits):
            return state
    elif ms > last.end_ms:
        due = state.due_ms
        if due == last.end_ms + rules.idle_ms:  # the earliest is this visit's, so there is no other
            due = ms + rules.idle_ms
        on = Visit(last.start_ms, ms, last.views, last.ready)
        return Browsing((*visits[:-1], on) if len(visits) > 1 else (on,), state.marks, state.told_ms, due)
    return _settled((*visits, Visit(ms, ms)), state.marks, state.told_ms, rules)[0]


def _lengthens(visit: Visit, ms: int, rules: Rules) -> bool:
    if visit.carted or visit.told is not None or not visit.views or visit.start_ms <= ms <= visit.end_ms:
        return False
    return -rules.idle_ms < ms - visit.end_ms < rules.idle_ms or 0 < visit.start_ms - ms < rules.idle_ms


def seen(state: Browsing, ms: int, does: Does, view: View | None, rules: Rules) -> tuple[Browsing, tuple[Told, ...]]:
    """Any sign. -> the state after it, what is to be taken back."""
    visits = state.visits
    if visits:
        last = visits[-1]
        if does == "view" and view is not None and last.told is None and 0 < ms - last.end_ms < rules.idle_ms:
            if visits[0].end_ms >= ms - KEPT_MS:
                return _viewed_next(state, last, view, rules), ()
        elif ms < last.end_ms - KEPT_MS:
            return state, ()
    marks = state.marks
    if does in ("cart", "order", "empty"):
        marks = _kept_marks((*marks, (ms, does == "cart")))
    new = Visit(
        ms, ms, (view,) if view is not None else (), view is not None and rules.views == 1,
        does in ("touch", "cart", "order"),
    )  # fmt: skip
    return _settled((*visits, new), marks, state.told_ms, rules)


def _viewed_next(state: Browsing, last: Visit, view: View, rules: Rules) -> Browsing:
    """One product more in the visit under way, as most views are: what `_settled` gives, at a tenth of its price."""
    ms, due = view.ms, state.due_ms
    if last.carted:
        on = Visit(last.start_ms, ms, carted=True)
    else:
        views = (*last.views[1 - MAX_VIEWS :], view)
        ready = (last.ready and len(last.views) < MAX_VIEWS) or _enough(views, rules)
        on = Visit(last.start_ms, ms, views, ready)
        if due is None or due == last.end_ms + rules.idle_ms:  # no visit before it waits
            due = _due(on, state.marks, rules)
    return Browsing((*state.visits[:-1], on), state.marks, state.told_ms, due)


def _enough(views: tuple[View, ...], rules: Rules) -> bool:
    """Whether so many are of one category."""
    if len(views) < rules.views or not rules.views:
        return False
    n: dict[str | tuple[str], int] = {}
    for view in reversed(views):  # the latest ones are most often of one
        group = view.category or (view.product,)
        n[group] = n.get(group, 0) + 1
        if n[group] >= rules.views:
            return True
    return False


def merged(one: Browsing, other: Browsing, rules: Rules) -> tuple[Browsing, tuple[Told, ...]]:
    """Both visitors' as one person's; the same whichever comes first."""
    told = max((s.told_ms for s in (one, other) if s.told_ms is not None), default=None)
    marks = _kept_marks((*one.marks, *other.marks))
    return _settled((*one.visits, *other.visits), marks, told, rules)


def fire(state: Browsing, now_ms: int, by: str, rules: Rules) -> tuple[Browsing, list[Visit]]:
    """Tell the visits that were over by now, in their order. `by`: whose they are, for the ids. -> the state, the
    visits told, quiet ones too."""
    out: list[Visit] = []
    while state.due_ms is not None and state.due_ms <= now_ms:
        at_ms = state.due_ms
        ready = [v for v in state.visits if _due(v, state.marks, rules) == at_ms]
        if not ready:  # by other settings it is not
            return _with_due(state, rules), out
        visit = ready[0]
        known = [v.told.at_ms for v in state.visits if v.told is not None and not v.told.quiet and not v.gone]
        if state.told_ms is not None:
            known.append(state.told_ms)
        quiet = any(abs(at_ms - ms) < rules.repeat_ms for ms in known)
        told = Told(at_ms, f"{by}/{visit.start_ms}", quiet)
        after = Visit(visit.start_ms, visit.end_ms, visit.views, visit.ready, visit.carted, told)
        visits = tuple(replace(after, views=(), ready=False) if v is visit else v for v in state.visits)
        state = _with_due(Browsing(visits, state.marks, state.told_ms), rules)
        out.append(after)
    return state, out


def group_of(visit: Visit) -> tuple[View, ...]:
    """The views of the category that was looked at most, of equals the latest; the latest view first."""
    n = Counter(v.group for v in visit.views)
    latest = {v.group: v.ms for v in visit.views}
    best = max(n, key=lambda g: (n[g], latest[g], g))
    return tuple(v for v in reversed(visit.views) if v.group == best)


def carted_since(state: Browsing, ms: int) -> bool:
    """Whether there was a cart or an order since then."""
    return any(at >= ms for at, _ in state.marks) or any(v.carted and v.end_ms >= ms for v in state.visits)


def _settled(
    visits: tuple[Visit, ...], marks: tuple[Mark, ...], told_ms: int | None, rules: Rules
) -> tuple[Browsing, tuple[Told, ...]]:
    """The visits as they are by all that is known: joined where they are near, what was told in vain taken back."""
    back: list[Told] = []
    joined: list[Visit] = []
    for visit in sorted(visits, key=_place):
        if joined and visit.start_ms - joined[-1].end_ms < rules.idle_ms:
            joined[-1] = _joined(joined[-1], visit, rules, back)
        else:
            joined.append(visit)
    oldest = joined[-1].end_ms - KEPT_MS if joined else 0
    kept: list[Visit] = []
    for i, visit in enumerate(joined):
        heard = visit.told is not None and not visit.told.quiet and not visit.gone
        if visit.end_ms < oldest or i < len(joined) - MAX_VISITS:
            if heard:
                told_ms = max(visit.told.at_ms, told_ms or 0)  # type: ignore[union-attr]
        elif heard and (visit.carted or _lay_there(visit, marks, rules)):
            back.append(visit.told)  # type: ignore[arg-type]
            kept.append(replace(visit, gone=True))
        else:
            kept.append(visit)
    return _with_due(Browsing(tuple(kept), marks, told_ms), rules), tuple(sorted(back))


def _place(visit: Visit) -> tuple[int, int]:
    return visit.start_ms, visit.end_ms


def _joined(a: Visit, b: Visit, rules: Rules, back: list[Told]) -> Visit:
    """Two as one; of two that were told one stays."""
    views, ready = a.views or b.views, a.ready or b.ready
    if a.views and b.views:
        kept = sorted((*a.views, *b.views))
        ready = ready and len(kept) <= MAX_VIEWS  # what was enough may be among those that go
        views = tuple(kept[-MAX_VIEWS:])
        ready = ready or _enough(views, rules)
    told = b.told if a.told is None else a.told
    if a.told is not None and b.told is not None and a.told != b.told:
        first, then = sorted((a.told, b.told), key=lambda t: (t.quiet, t))
        told = first
        if not then.quiet and not (a if then is a.told else b).gone:
            back.append(then)
    carted = a.carted or b.carted
    if carted or told is not None:
        views, ready = (), False  # nobody will be told of them
    return Visit(min(a.start_ms, b.start_ms), max(a.end_ms, b.end_ms), views, ready, carted, told, a.gone or b.gone)


def _kept_marks(marks: tuple[Mark, ...]) -> tuple[Mark, ...]:
    return tuple(sorted(set(marks))[-MAX_MARKS:])


def _lay_there(visit: Visit, marks: tuple[Mark, ...], rules: Rules) -> bool:
    """Whether a cart lay there when it began."""
    n = bisect_left(marks, (visit.start_ms, False))
    if n == 0:
        return False
    ms, lies = marks[n - 1]
    return lies and visit.start_ms - ms <= rules.cart_ms


def _due(visit: Visit, marks: tuple[Mark, ...], rules: Rules) -> int | None:
    if not visit.ready or visit.carted or visit.told is not None or visit.gone or not rules.views:
        return None
    return None if _lay_there(visit, marks, rules) else visit.end_ms + rules.idle_ms


def _with_due(state: Browsing, rules: Rules) -> Browsing:
    due = min((d for v in state.visits if (d := _due(v, state.marks, rules)) is not None), default=None)
    return Browsing(state.visits, state.marks, state.told_ms, due)
