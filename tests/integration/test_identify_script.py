"""stream/identify.lua on a real Redis: against the same rules in Python, and from several workers at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

import pytest

from stream.packing import unpackb
from stream.recovery import MAX_ROUTED, Recovery
from stream.redis_store import Head, Store
from stream.resolve import Ids, Item
from tests.harness import embedded_redis
from tests.identity_model import Model, components
from tracker.contract import keys
from tracker.contract.codec import new_profile_id
from tracker.contract.events import EventHead
from tracker.contract.ids import PRIORITY, Identifier, limits
from tracker.contract.loading import load
from tracker.contract.settings import Settings

pytestmark = pytest.mark.integration
DAY_MS = 86_400_000
T0 = 1_795_000_000_000
UNLIMITED = load({f"TRACKER_ID_LIMIT_{name.upper()}": "0" for name in PRIORITY}, id_limit_all=1000)


@pytest.fixture(scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    url, child = await asyncio.to_thread(embedded_redis, tmp_path_factory.mktemp("redis"))
    try:
        yield url
    finally:
        child.stop()


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    store = Store(url)
    try:
        await store.start()
        await store.run("FLUSHALL", "SYNC")
        yield store
    finally:
        await store.stop()


def item(ids: Sequence[Identifier], at_ms: int, seen_ms: int = 0, purchase: Sequence[Identifier] = ()) -> Item:
    head = EventHead(site="s", type="page", message_id=f"m{at_ms}", received_at_ms=at_ms, timestamp_ms=seen_ms or at_ms)
    return head, tuple(sorted(ids, key=lambda id: PRIORITY[id[0]])), tuple(purchase)


async def ask(store: Store, settings: Settings, site: str, *asked: tuple[Sequence[Identifier], int]) -> list[str]:
    ids = await ids_of(store, settings, site)
    answers, *_ = await ids.ask(site, [item(ids, at_ms) for ids, at_ms in asked])
    return [str(UUID(bytes=id)) for id in answers]


async def ids_of(store: Store, settings: Settings, site: str) -> Ids:
    """Ready to be asked of a site: there is nothing that would have to be restored."""
    head = Head(store, "{e0}:head")
    await head.claim(0)
    await store.run("DEL", "{e0}:head")
    await Recovery(store, settings).make_whole(site, head.run)
    return Ids(store, settings)


async def owners(store: Store, site: str, ids: Sequence[Identifier]) -> dict[Identifier, str | None]:
    found = await asyncio.gather(*(store.run("GET", keys.identifier_key(site, *id)) for id in ids))
    return {id: value.decode() if value is not None else None for id, value in zip(ids, found, strict=True)}


async def merges(store: Store, site: str) -> list[tuple[str, str]]:
    waiting = await store.run("LRANGE", keys.merges_key(site), 0, -1)
    return [(loser, winner) for winner, loser, *_ in map(unpackb, waiting)]


@pytest.mark.parametrize("seed", range(6))
async def test_the_script_keeps_to_the_rules_whatever_comes(store: Store, seed: int) -> None:
    """Few people, many collisions, small limits: every rule is met."""
    rng = random.Random(seed)
    settings = load({}, id_limit_all=9, id_limit_email=2, id_limit_anonymous_id=3)
    model = Model({name: (limit, window) for name, limit, window in limits(settings)}, 9, f"s{seed}")
    pool: list[Identifier] = [("user_id", f"u{n}") for n in range(4)]
    pool += [("email", f"{n}@x.vn") for n in range(4)] + [("anonymous_id", f"a{n}") for n in range(12)]
    at_ms, expected, asked = T0, [], []
    for _ in range(300):
        at_ms += rng.choice([1, DAY_MS, 11 * DAY_MS])
        ids = item(rng.sample(pool, rng.randint(1, 3)), at_ms)[1]
        ids = tuple({type: (type, value) for type, value in ids}.values()) if rng.random() < 0.8 else ids
        asked.append((ids, at_ms))
    for ids, at_ms in asked:
        expected.append(model.event(ids, at_ms))
    assert len(model.merges) > 3
    got: list[str] = []
    while len(got) < len(expected):  # cut anywhere, as chunks are
        got += await ask(
            store, settings, model.site, *asked[len(got) : min(len(got) + rng.randint(1, 40), len(expected))]
        )
    assert got == expected
    assert await merges(store, model.site) == model.merges
    assert await owners(store, model.site, pool) == {id: model.owner.get(id) for id in pool}
    for profile, since in model.since.items():
        have = await store.run("HGETALL", f"{{s:{model.site}}}:ids:{profile}")
        assert {k.decode(): int(v) for k, v in have.items()} == {
            **{f"{type}:{keys.id_part(value)}": ms for (type, value), ms in since.items()},
            "first_seen_ms": model.first_seen[profile],
        }


@pytest.mark.parametrize("seed", range(4))
async def test_links_from_several_workers_at_once_give_the_components_of_a_union_find(url: str, seed: int) -> None:
    rng = random.Random(seed)
    types = list(PRIORITY)
    pool: list[Identifier] = [(rng.choice(types), f"v{n}") for n in range(400)]
    links = [item(rng.sample(pool, 2), T0 + n, T0 + rng.randrange(10**6)) for n in range(rng.randint(100, 320))]
    stores = [Store(url) for _ in range(4)]
    site = f"union{seed}"
    try:
        await asyncio.gather(*(store.start() for store in stores))
        await ids_of(stores[0], UNLIMITED, site)

        async def work(store: Store, mine: list[Item]) -> None:
            while mine:
                n = rng.randint(1, 12)
                await Ids(store, UNLIMITED).ask(site, mine[:n])
                mine = mine[n:]
                await asyncio.sleep(0)

        await asyncio.gather(*(work(store, links[n::4]) for n, store in enumerate(stores)))
        seen = sorted({id for _, ids, _ in links for id in ids})
        found: dict[str | None, set[Identifier]] = {}
        for id, owner in (await owners(stores[0], site, seen)).items():
            found.setdefault(owner, set()).add(id)
        assert {frozenset(ids) for ids in found.values()} == components([ids for _, ids, _ in links])
        assert None not in found

        # Every profile that lost leads to one that lives.
        winner_of = dict(await merges(stores[0], site))
        for loser in winner_of:
            end = loser
            while end in winner_of:
                assert await stores[0].run("GET", keys.merged_key(site, end)) == winner_of[end].encode()
                end = winner_of[end]
            assert end in found
    finally:
        await asyncio.gather(*(store.stop() for store in stores))


async def test_two_hundred_users_of_one_kiosk_stay_two_hundred_profiles(store: Store) -> None:
    settings = load({})
    kiosk: Identifier = ("anonymous_id", "kiosk")
    asked = [([("user_id", f"u{n}"), kiosk], T0 + n) for n in range(200)]
    got = await ask(store, settings, "s", *asked, *asked, ([kiosk], T0 + 999))
    assert len(set(got[:200])) == 200
    assert got[:200] == got[200:400]
    assert got[400] == got[0]  # what nobody is logged in for is the first one's
    assert await merges(store, "s") == []


async def test_a_sixth_browser_in_thirty_days_is_not_the_users_and_later_it_is(store: Store) -> None:
    settings = load({})
    user: Identifier = ("user_id", "u")
    browsers: list[Identifier] = [("anonymous_id", f"a{n}") for n in range(6)]
    await ask(store, settings, "s", *(([user, browser], T0) for browser in browsers))
    found = await owners(store, "s", browsers)
    assert len(set(found.values())) == 2
    assert found[browsers[5]] is None
    await ask(store, settings, "s", ([user, browsers[5]], T0 + 30 * DAY_MS))
    assert len(set((await owners(store, "s", browsers)).values())) == 1


async def test_over_the_cap_the_browser_linked_first_is_let_go_and_comes_back_as_somebody_new(store: Store) -> None:
    settings = load({}, id_limit_all=3, id_limit_anonymous_id=0)
    browsers: list[Identifier] = [("anonymous_id", f"a{n}") for n in range(4)]
    user: Identifier = ("user_id", "u")
    (first,) = await ask(store, settings, "s", ([browsers[0]], T0))
    assert first == new_profile_id("s", *browsers[0])
    got = await ask(store, settings, "s", *(([user, browser], T0 + n) for n, browser in enumerate(browsers)))
    assert set(got) == {first}
    found = await owners(store, "s", [user, *browsers])
    assert [id for id, owner in found.items() if owner == first] == [user, *browsers[2:]]
    got = await ask(store, settings, "s", ([browsers[0]], T0 + 9), ([browsers[0]], T0 + 10))
    assert got[0] == got[1] != first  # its old profile has become the user's
    assert UUID(got[0]).version == 5
    # An address is not let go for another one. A merge over the cap lets go, too, but not the browser that logs in.
    await ask(store, settings, "s", ([user, ("email", "a@b.vn")], T0 + 11))
    assert len(await store.run("HKEYS", f"{{s:s}}:ids:{first}")) == 4
    await ask(store, settings, "s", ([user, browsers[0]], T0 + 12))
    found = await owners(store, "s", [user, ("email", "a@b.vn"), *browsers])
    assert [id for id, owner in found.items() if owner is not None] == [user, ("email", "a@b.vn"), browsers[0]]
    assert len(set(found.values()) - {None}) == 1
    assert (got[0], first) in await merges(store, "s") or (first, got[0]) in await merges(store, "s")


async def test_a_profile_with_more_of_a_type_than_its_limit_gets_its_user_all_the_same(store: Store) -> None:
    """The limit was another one when they were linked. Of those that a server sends at once the first are linked."""
    zalo: list[Identifier] = [("zalo_id", f"oa/{n}") for n in range(5)]
    user: Identifier = ("user_id", "u")
    (first,) = await ask(store, load({}), "s", (zalo[:3], T0))
    found = await owners(store, "s", zalo)
    assert [found[id] for id in zalo] == [first, first, None, None, None]
    assert await ask(store, load({}, id_limit_zalo_id=1), "s", ([user, zalo[0]], T0 + 1)) == [first]
    found = await owners(store, "s", [user, *zalo])
    assert [id for id, owner in found.items() if owner == first] == [user, *zalo[:2]]
    await ask(store, load({}, id_limit_zalo_id=1), "s", ([user, zalo[4]], T0 + 2))
    assert (await owners(store, "s", [zalo[4]]))[zalo[4]] is None


async def test_a_login_after_a_year_of_cleared_cookies_is_one_person(store: Store) -> None:
    """Fifty ids are known of the user; what was put into the cart in the browser of today is theirs."""
    user: Identifier = ("user_id", "u")
    browsers: list[Identifier] = [("anonymous_id", f"a{n}") for n in range(60)]
    at = [T0 + n * 8 * DAY_MS for n in range(60)]
    (known,) = set(
        await ask(store, load({}), "s", *(([user, b], ms) for b, ms in zip(browsers[:59], at, strict=False)))
    )
    (today,) = await ask(store, load({}), "s", ([browsers[59]], at[59]))
    assert today != known
    (after,) = await ask(store, load({}), "s", ([user, browsers[59]], at[59] + 1))
    assert (today, known) in await merges(store, "s")
    assert after == known
    assert len(await store.run("HKEYS", f"{{s:s}}:ids:{known}")) == 51  # and first_seen_ms
    found = await owners(store, "s", browsers)
    assert [b for b in browsers if found[b] == known] == browsers[11:]


async def test_of_two_profiles_the_one_seen_first_stays_and_at_a_tie_the_smaller_id(store: Store) -> None:
    for tie in (False, True):
        site = f"tie{tie}"
        ids = await ids_of(store, load({}), site)
        one, other = ("anonymous_id", "a"), ("anonymous_id", "b")
        # The later one to come was seen first: an import.
        answers, *_ = await ids.ask(site, [item([one], T0, T0 - 5), item([other], T0 + 1, T0 - (5 if tie else 9))])
        got, made, _ = await ids.ask(site, [item([one, other], T0 + 2)])
        winner = min(answers, key=lambda id: str(UUID(bytes=id))) if tie else answers[1]
        assert got == [winner]
        assert made == [(0, next(id for id in answers if id != winner), winner)]


async def test_a_replay_mints_the_same_ids(store: Store) -> None:
    asked: list[tuple[Sequence[Identifier], int]] = [
        ([("user_id", "u"), ("anonymous_id", "a")], T0), ([("anonymous_id", "b")], T0 + 1),
        ([("email", "x@y.vn"), ("anonymous_id", "b")], T0 + 2), ([("user_id", "u"), ("email", "x@y.vn")], T0 + 3),
    ]  # fmt: skip
    before = await ask(store, load({}), "s", *asked)
    await store.run("FLUSHALL", "SYNC")
    assert await ask(store, load({}), "s", *asked) == before
    assert len(await merges(store, "s")) == 1


async def test_what_is_kept_of_a_site_goes_when_nobody_comes(store: Store) -> None:
    await ask(store, load({}), "s", ([("user_id", "u")], T0), ([("anonymous_id", "a")], T0),
              ([("user_id", "u"), ("anonymous_id", "a")], T0))  # fmt: skip
    ttl_ms = load({}).profile_ttl_d * DAY_MS
    names = [name for name in await store.run("KEYS", "*") if not name.endswith((b":merges", b":run"))]
    assert len(names) == 4
    for name in names:
        assert ttl_ms - 60_000 < await store.run("PTTL", name) <= ttl_ms, name


async def bought(store: Store, settings: Settings, *asked: tuple[Sequence[Identifier], str]) -> list[str]:
    """Profile ids of events with these identifiers that are a part of such orders, all of site `s`."""
    ids = await ids_of(store, settings, "s")
    answers, *_ = await ids.ask(
        "s", [item(each, T0 + n, purchase=[("order_id", order)]) for n, (each, order) in enumerate(asked)]
    )
    return [str(UUID(bytes=id)) for id in answers]


A, B, C, U, V = (("anonymous_id", "a"), ("anonymous_id", "b"), ("anonymous_id", "c"), ("user_id", "u"),
                 ("user_id", "v"))  # fmt: skip


async def test_who_carried_an_order_first_gets_what_is_reported_of_it_and_no_id_is_linked_by_it(store: Store) -> None:
    got = await bought(store, load({}), ([A], "o1"), ([U], "o1"), ([B], "o1"), ([B], "o2"), ([A], "o2"))
    assert got == [new_profile_id("s", *A)] * 3 + [new_profile_id("s", *B)] * 2
    assert await ask(store, load({}), "s", ([U], T0), ([B], T0)) == [new_profile_id("s", *U), new_profile_id("s", *B)]
    ttl_ms = await store.run("PTTL", "{s:s}:k:order_id:o1")
    assert 89 * DAY_MS < ttl_ms <= 90 * DAY_MS


async def test_an_order_follows_its_profile_to_the_winner_of_a_merge(store: Store) -> None:
    await ask(store, load({}), "s", ([B], T0))  # seen before
    await bought(store, load({}), ([A], "o1"))
    await ask(store, load({}), "s", ([U, A], T0 + 1), ([U, B], T0 + 2))
    assert await bought(store, load({}), ([C], "o1")) == [new_profile_id("s", *B)]


async def test_an_order_of_one_user_does_not_get_the_events_of_another(store: Store) -> None:
    settings = load({})
    u, v, a = (new_profile_id("s", *id) for id in (U, V, A))
    assert await bought(store, settings, ([U], "o1"), ([V], "o1"), ([V, B], "o1"), ([B], "o1")) == [u, v, v, v]
    # Nor does a browser that nobody has logged in on get the orders of two.
    assert await bought(store, settings, ([A], "o2"), ([U], "o2"), ([V], "o2"), ([A], "o3"), ([V], "o3")) == [
        a, a, v, a, v,
    ]  # fmt: skip
    # Also not after it was merged.
    await ask(store, settings, "s", ([C], T0 - 9), ([("email", "x@y.vn"), C], T0), ([("email", "x@y.vn"), A], T0))
    assert await bought(store, settings, ([V], "o2"), ([U], "o2")) == [v, new_profile_id("s", *C)]


async def test_a_cart_id_that_everybody_sends_leads_a_few_astray_and_no_more(store: Store) -> None:
    everybody = [("anonymous_id", f"n{n}") for n in range(50)]
    got = await bought(store, load({}), *(([id], "cart") for id in everybody), *(([id], "cart") for id in everybody))
    assert got[:50] == got[50:]
    assert len(set(got)) == 50 - MAX_ROUTED
