"""Settings from where they stand, in order: the environment (`TRACKER_` + the name in capitals), `tracker.toml` (in the
working directory, or where `TRACKER_CONFIG` points), the default."""

from __future__ import annotations

import os
import re
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from tracker.contract import places, sites
from tracker.contract.settings import (
    DEMO_KEYS,
    DEMO_SECRET_KEY,
    DEMO_SITE,
    DEMO_WRITE_KEY,
    PHONE_COUNTRIES,
    TABLES,
    Settings,
    networks,
)
from tracker.contract.sites import Site

_BASE_URL = re.compile(r"https?://[^/\s?#]+(/[^\s?#]*)?").fullmatch
_SERVER = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+)(:([0-9]{1,5}))?").fullmatch


class SettingsError(ValueError):
    """A setting that can't be used. The message is one line that names it and says what would do."""


MOST_NUMBER: Final = 2**53
"""Of any number: beyond, JSON, Redis's Lua and floats are not exact."""


def config_path(env: Mapping[str, str] | None = None) -> Path:
    """Where tracker.toml is, if there is one."""
    return Path((os.environ if env is None else env).get("TRACKER_CONFIG", "tracker.toml"))


def load(env: Mapping[str, str] | None = None, toml: Path | None = None, **overrides: Any) -> Settings:
    """Settings from `env` (default: os.environ), tracker.toml and `overrides` (the command line's; None: not given).

    Raises SettingsError with one line on what is wrong and where.
    """
    env = os.environ if env is None else env
    path = toml or config_path(env)
    values: dict[str, Any] = {}
    if path.exists():
        try:
            values = tomllib.loads(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
            raise SettingsError(f"{path}: can't be read: {e}") from None
    elif "TRACKER_CONFIG" in env:
        raise SettingsError(f"TRACKER_CONFIG: there is no file {path}")
    known = {f.name: f for f in msgspec.structs.fields(Settings)}
    for name in values:
        if name not in known:
            hint = places.meant(name, known, "docs/reference/settings.md lists them")
            raise SettingsError(f"{path}: unknown setting '{name}'; {hint}")
    origin = dict.fromkeys(values, str(path))
    for name in known:
        variable = f"TRACKER_{name.upper()}"
        if name not in TABLES and (text := env.get(variable)) is not None:
            values[name], origin[name] = text, variable
    for name, value in overrides.items():
        if value is not None:
            values[name], origin[name] = value, f"--{name.replace('_', '-')}"
    for name, value in values.items():
        in_file = origin[name] == str(path)
        try:
            values[name] = places.convert(value, known[name].type)
        except places.PlaceError as e:
            told = f"{path}: {e.told(name)}" if in_file else f"{origin[name]}: {e.why}"
            raise SettingsError(told) from None
        if isinstance(values[name], int | float) and not -MOST_NUMBER <= values[name] <= MOST_NUMBER:
            place = f"{path}: {name}" if in_file else origin[name]
            raise SettingsError(f"{place}: {value} is no number up to 2^53")
    settings = Settings(**values)
    if not settings.worker_id:
        settings = msgspec.structs.replace(settings, worker_id=f"{socket.gethostname()}-{settings.worker_port}")
    if settings.demo and DEMO_SITE not in settings.sites:
        demo = Site(write_key=DEMO_WRITE_KEY, secret_key=DEMO_SECRET_KEY)
        settings = msgspec.structs.replace(settings, sites={**settings.sites, DEMO_SITE: demo})
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    for server in settings.kafka.split(","):
        if (found := _SERVER(server.strip())) is None or not 1 <= int(found[3] or 9092) <= 65535:
            raise SettingsError(f"kafka: '{server.strip()}' is no HOST:PORT")
    owner: dict[str, str] = {}
    for name, site in settings.sites.items():
        try:
            sites.check(name, site)
        except ValueError as e:
            raise SettingsError(f"site '{name}': {e}") from None
        for key in (site.write_key, site.secret_key):
            if key in DEMO_KEYS and not (name == DEMO_SITE and settings.demo):
                raise SettingsError(f"site '{name}': '{key}' is a public demo key; choose your own")
            if len(key) < 8:
                raise SettingsError(f"site '{name}': keys have at least 8 characters")
            if owner.setdefault(key, name) != name or site.write_key == site.secret_key:
                raise SettingsError(f"site '{name}': each key is used once; '{owner[key]}' has the same")
    if settings.request_timeout_s < settings.head_timeout_s:
        raise SettingsError("request_timeout_s must not be below head_timeout_s")
    if settings.max_inflight_bytes < 2 * settings.max_request_bytes:
        raise SettingsError("max_inflight_bytes must be at least twice max_request_bytes")
    try:
        networks(settings.trusted_proxies)
    except ValueError as e:
        raise SettingsError(f"trusted_proxies: {e}") from None
    if settings.public_url and not _BASE_URL(settings.public_url):
        raise SettingsError(f"public_url: '{settings.public_url}' is no address like https://t.shop.example")
    if settings.processes > 1 and settings.metrics_port:
        last = settings.metrics_port + settings.processes - 1
        if last > 65535 or settings.metrics_port <= settings.http_port <= last:
            raise SettingsError(f"metrics_port: {settings.metrics_port} to {last} must be ports beside http_port")
    if settings.phone_country not in PHONE_COUNTRIES:
        raise SettingsError(f"phone_country: '{settings.phone_country}' is none of {', '.join(PHONE_COUNTRIES)}")
    try:
        sites.check_webhooks(settings.webhooks, settings.sites)
    except ValueError as e:
        raise SettingsError(str(e)) from None
    if settings.churn_leave >= settings.churn_enter:
        raise SettingsError("churn_leave must be below churn_enter")
