"""`tracker profile show` and `why`: what is known of a person, why, and what comes next, as the profile API says."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

import click
import msgspec

from tracker.cli.common import Failure, printable
from tracker.contract.events import MAX_ID_CHARS
from tracker.contract.ids import ID_TYPES
from tracker.contract.loading import load
from tracker.contract.settings import DEMO_SITE, Settings
from tracker.contract.triggers import rfc3339

ID_KINDS: Final = (*(t.name for t in ID_TYPES), "profile_id")
ALIASES: Final[dict[str, tuple[str, ...]]] = {"churn": ("purchase", "visit", "message_engage")}
"""What people call several signals -> their names."""
MAX_CELL: Final = 60
MAX_LISTED: Final = 10

_id_type = click.option(
    "--id-type", type=click.Choice(ID_KINDS), help="What ID is.  [default: the first of these that has it]"
)
_redis = click.option("--redis", metavar="URL", help="Redis.")
_json = click.option("--json", "raw", is_flag=True, help="As JSON.")


@click.command()
@click.argument("site")
@click.argument("id")
@_id_type
@_redis
@_json
def show(site: str, id: str, id_type: str | None, redis: str | None, raw: bool) -> int:
    """Who the person with ID is in SITE, each signal in one line, and what comes next.

    --json: what GET /api/v1/sites/SITE/profiles/ID_TYPE/ID?explain=1 answers.
    Example: tracker profile show shop lan@example.com
    """
    found = _find(site, id, id_type, redis)
    if raw:
        return _print_json(found)
    from rich.table import Table

    console = _console()
    console.print("\n".join(_head(found)), markup=False)
    table = Table("signal", "now", "next", box=None, pad_edge=False, header_style="bold")
    for name, said in found["explained"].items():
        steps = "\n".join(_step(step) for step in said.get("next", [])[:1]) or "-"
        table.add_row(name, _brief(said), steps)
    console.print(table)
    return 0


@click.command()
@click.argument("site")
@click.argument("id")
@click.option("--signal", "name", required=True, metavar="NAME", help="cart, churn (three signals), score, gate, ...")
@_id_type
@_redis
@_json
def why(site: str, id: str, name: str, id_type: str | None, redis: str | None, raw: bool) -> int:
    """Why a signal of the person with ID is as it is: its state, what comes next when nothing happens, what was told,
    held back or suppressed, and what would change it.

    Example: tracker profile why shop u-17 --signal cart
    """
    from stream.explain import EXPLAINED

    names = ALIASES.get(name, (name,))
    if not set(names) <= EXPLAINED.keys():
        raise click.BadParameter(
            f"there is no signal '{printable(name, 40)}'; there are: {', '.join((*EXPLAINED, *ALIASES))}",
            param_hint="--signal",
        )
    found = _find(site, id, id_type, redis)
    explained = {each: found["explained"][each] for each in names if each in found["explained"]}
    if not explained:
        have = ", ".join(found["explained"]) or "nothing"
        raise Failure(f"nothing that {name} reads has happened to this profile; it has: {have}")
    if raw:
        return _print_json({"profile_id": found["profile_id"], "site": site, "signals": explained})
    console = _console()
    console.print("\n".join(_head(found)), markup=False)
    for each, said in explained.items():
        console.print(f"\n{each}", style="bold", markup=False)
        console.print("\n".join(_lines(said)), markup=False)
    return 0


def _find(site: str, id: str, id_type: str | None, redis: str | None) -> dict[str, Any]:
    settings = load(redis=redis)
    if site not in settings.sites and site != DEMO_SITE:
        known = ", ".join(settings.sites) or "none"
        raise click.UsageError(f"there is no site '{printable(site, 40)}' in the settings; there are: {known}")
    if not id or len(id) > MAX_ID_CHARS:
        raise click.UsageError(f"an id has 1 to {MAX_ID_CHARS} characters")
    found = asyncio.run(_read(settings, site, id, id_type))
    if found is None:
        which = id_type or "id of any kind"
        raise Failure(f"no profile of site '{site}' has {printable(id, 60)} as {which}; new ids take a few seconds")
    return found


async def _read(settings: Settings, site: str, id: str, id_type: str | None) -> dict[str, Any] | None:
    from redis.exceptions import RedisError

    from tracker.contract.redis_url import reader, shown
    from tracker.profiles import read_profile

    client = reader(settings.redis)
    try:
        for kind in ID_KINDS if id_type is None else (id_type,):
            now_ms = time.time_ns() // 1_000_000
            found = await read_profile(client, settings, site, kind, id, now_ms, explained=True)
            if found is not None:
                return found
        return None
    except (RedisError, OSError) as e:
        where = shown(settings.redis)
        raise Failure(f"Redis does not answer at {where} ({type(e).__name__}): run `tracker doctor`") from None
    finally:
        await client.aclose()


# -- in words


def _head(found: dict[str, Any]) -> Iterator[str]:
    about, score = found["about"], found["engagement"]
    yield f"profile {found['profile_id']} of site {found['site']}"
    ids = [f"user {about['user_id']}"] if about.get("user_id") else []
    ids += [f"anonymous {id}" for id in about.get("anonymous_ids", [])]
    yield printable(", ".join(ids) or "nobody known", 500)
    if "first_seen_ms" in about:
        seen = f"{rfc3339(about['first_seen_ms'])} to {rfc3339(about.get('last_seen_ms', about['first_seen_ms']))}"
        yield f"{about.get('events', 0)} events, {seen}"
    if about.get("traits"):
        yield "traits: " + printable(", ".join(f"{k} {_value(v)}" for k, v in about["traits"].items()), 500)
    if score is not None:
        place = f", rank {score['rank']} of {score['active']}" if score["rank"] is not None else ""
        yield f"score {score['score']:.4g}{place}, grade {score['grade']}, stage {score['stage']}"


def _brief(said: dict[str, Any]) -> str:
    """The first plain values of the state, in one cell."""
    if said["state"] is None:
        return printable(said["unreadable"], 2 * MAX_CELL)
    plain = (
        f"{name} {_value(value)}" if not isinstance(value, list | dict) else f"{len(value)} {name}"
        for name, value in said["state"].items()
        if value not in (None, "", [], {}) and not isinstance(value, bool)
    )
    return printable(", ".join(plain), 2 * MAX_CELL) + (" (off)" if said.get("off") else "")


def _step(step: dict[str, Any]) -> str:
    outcome = f" ({step['outcome']})" if "outcome" in step else ""
    return f"{step['time']} {step['what']}{outcome}"


def _lines(said: dict[str, Any]) -> Iterator[str]:
    if said["state"] is None:
        yield f"  {printable(said['unreadable'], 1000)}"
        return
    if said.get("off"):
        yield "  signals_off names it: it stands still"
    yield "  now"
    yield from _tree(said["state"], 4)
    yield "  next, when nothing comes before"
    yield from [f"    {_step(step)}" for step in said["next"]] or ["    nothing: it has no timer"]
    for name in ("told", "held", "suppressed"):
        if name not in said:
            continue
        yield f"  {name}" + ("" if said[name] else ": nothing")
        for t in said[name][:MAX_LISTED]:
            more = f" until {t['until']}" if "until" in t else f" because of {t['reason']}" if "reason" in t else ""
            yield f"    {t['time']} {t['kind']}{more}  {printable(t['id'], 80)}"
    yield "  it changes with"
    inputs = said["inputs"]
    events = inputs["events"]
    if events == "all":
        yield "    every event"
    elif events or inputs["calls"]:
        yield "    " + ", ".join([*inputs["calls"], *events])
    else:
        yield "    no event: with the triggers of all others"
    if inputs["signals"]:
        yield f"    signals: {', '.join(inputs['signals'])}"
    if inputs["settings"]:
        yield "    settings: " + ", ".join(f"{name} {_value(value)}" for name, value in inputs["settings"].items())


def _tree(value: Any, indent: int) -> Iterator[str]:
    """Nested values as lines; lists of a few plain values in one."""
    pad = " " * indent
    items = value.items() if isinstance(value, dict) else ((f"{n}", each) for n, each in enumerate(value, 1))
    for name, each in items:
        label = printable(str(name), MAX_CELL)
        if isinstance(each, dict | list) and each:
            yield f"{pad}{label}"
            yield from _tree(each, indent + 2)
        else:
            yield f"{pad}{label}: {_value(each)}"


def _value(value: Any) -> str:
    if value is None or value == [] or value == {}:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):  # amounts of money keep all their digits
        return f"{value:.2f}".removesuffix(".00") if 1e5 <= abs(value) < 1e15 else f"{value:.6g}"
    return printable(str(value), 200)


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def _print_json(value: Any) -> int:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
    return 0
