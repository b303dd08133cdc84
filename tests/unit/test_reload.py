"""tracker.toml that changes while the program runs."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from stream import fold
from stream.signals import SIGNALS
from stream.signals.score import ScoreSignal
from tests.unit.shop_toml import SHOP
from tracker.contract.loading import SettingsError, load
from tracker.contract.reload import LIVE, Watch, keep_reloading, taken_over
from tracker.contract.settings import Settings
from tracker.intake import Policy
from tracker.keys import Keys


class Config:
    """A tracker.toml, and a program that watches it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tracker.toml"
        self._n = 0
        self.write(SHOP)
        self.settings = load({}, self.path)
        self.watch = Watch(lambda: load({}, self.path), self.path)

    def write(self, text: str) -> None:
        self.path.write_text(text)
        self._n += 1
        os.utime(self.path, ns=(self._n * 10**9, self._n * 10**9))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(tmp_path)


def test_a_file_that_stays_as_it_is_is_not_read_again(config: Config) -> None:
    assert config.watch.poll() is None
    config.write(SHOP)  # touched only
    assert config.watch.poll() is None


def test_a_change_is_told_once_with_the_settings_anew(config: Config) -> None:
    config.write(f"cart_idle_s = 60\n{SHOP}")
    new = config.watch.poll()
    assert new is not None
    assert new.cart_idle_s == 60
    assert config.watch.poll() is None


def test_a_file_that_can_not_be_used_is_told_once_and_mended_it_is_taken(config: Config) -> None:
    for broken in ("cart_idle_s = ", f"cart_idle_s = -1\n{SHOP}", f"{SHOP}[sites.shop.score]\nweights = {{ x = 1 }}\n"):
        config.write(broken)
        with pytest.raises(SettingsError):
            config.watch.poll()
        assert config.watch.poll() is None
    config.path.unlink()
    with pytest.raises(SettingsError, match="the file is gone"):
        config.watch.poll()
    assert config.watch.poll() is None
    config.write(f"stale_s = 5\n{SHOP}")
    assert (new := config.watch.poll()) is not None
    assert new.stale_s == 5


def test_only_what_has_an_effect_while_it_runs_is_taken_over(config: Config) -> None:
    config.write(f"cart_idle_s = 60\nhttp_port = 1\nworker_id = 'w'\n{SHOP}origins = ['https://a.vn']\n")
    new = config.watch.poll()
    assert new is not None
    settings, live, rest = taken_over(config.settings, new)
    assert set(live) == {"cart_idle_s", "sites"}
    assert set(rest) >= {"http_port", "worker_id"}
    assert (settings.http_port, settings.cart_idle_s) == (config.settings.http_port, 60)
    assert settings.sites["shop"].origins == ("https://a.vn",)
    assert taken_over(settings, settings) == (settings, [], [])
    assert set(Settings.__struct_fields__) >= LIVE


async def test_a_running_program_takes_what_can_be_used_and_says_what_can_not(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[Settings] = []
    failed: list[int] = []
    settings = config.settings

    def take(new: Settings) -> None:
        nonlocal settings
        settings = new
        taken.append(new)

    async def until(done: Any) -> None:
        async with asyncio.timeout(5):
            while not done():  # noqa: ASYNC110  # both sides are polls
                await asyncio.sleep(0.005)

    caplog.set_level(logging.INFO)
    task = asyncio.create_task(keep_reloading(config.watch, lambda: settings, take, lambda: failed.append(1), 0.005))
    try:
        config.write(f"cart_idle_s = 60\nredis = 'redis://elsewhere:1/0'\n{SHOP}")
        await until(lambda: taken)
        config.write("what is this")
        await until(lambda: failed)
        config.write(f"{SHOP}time_zone = 'Asia/Saigonn'")
        await until(lambda: len(failed) == 2)
        config.write(f"cart_idle_s = 61\nredis = 'redis://elsewhere:1/0'\n{SHOP}")
        await until(lambda: len(taken) == 2)
    finally:
        task.cancel()
    assert settings.cart_idle_s == 61
    assert settings.redis == config.settings.redis
    assert len(failed) == 2
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "tracker.toml was changed: cart_idle_s"
    assert lines[1] == "These settings need a restart, until then they stay: redis"
    assert lines[2].startswith("tracker.toml was changed and can't be used, the settings before stay: ")
    assert "Asia/Saigonn" in lines[3]
    assert lines[4:] == ["tracker.toml was changed: cart_idle_s"]


def test_keys_and_policies_of_sites_change_and_keys_taken_away_are_unknown(config: Config) -> None:
    keys = Keys(config.settings)
    config.write('[sites.shop]\nwrite_key = "write-key-2"\nsecret_key = "secret-key-1"\nip = "drop"\n')
    new = config.watch.poll()
    assert new is not None
    keys.reconfigure(new)
    assert keys.find("write-key-1") is None
    owner = keys.find("write-key-2")
    assert owner is not None
    assert isinstance(owner.policy, Policy)
    assert owner.policy.ip == "drop"
    assert keys.find("secret-key-1") is not None


def test_a_folder_counts_by_the_new_settings_from_the_next_event_on(config: Config) -> None:
    folder = fold.Folder(SIGNALS, config.settings)
    signal = next(s for s in SIGNALS if isinstance(s, ScoreSignal))
    before = dict(folder.rank_rules)
    assert signal.rules(folder.settings, "shop")[0].weights["page"] == 1
    config.write(f"{SHOP}time_zone = 'UTC'\n[sites.shop.score]\nweights = {{ page = 3 }}\n")
    new = config.watch.poll()
    assert new is not None
    folder.reconfigure(new)
    assert signal.rules(folder.settings, "shop")[0].weights["page"] == 3
    assert folder.rank_rules.keys() == before.keys() == {"shop"}
    assert folder.rank_rules != before
    assert folder.zone("shop").offset_s(1_795_000_000) == 0
