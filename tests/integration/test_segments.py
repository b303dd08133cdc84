"""Segments as readers see them: sizes out of the gauges, a preview out of the profiles, over the real Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner

from stream.fold import Folder
from stream.profile import Profile
from stream.records import decode
from stream.signals import SIGNALS
from tests.unit.test_fold import T0, record
from tracker.cli.segments import segments
from tracker.contract.codec import partition_of
from tracker.contract.keys import profile_key, segment_gauge
from tracker.contract.loading import load

pytestmark = pytest.mark.integration

TOML = """
partitions = 4
redis = "{url}"
[sites.seg-test]
write_key = "wk_of_the_tests"
secret_key = "sk_of_the_tests"
[[sites.seg-test.segments]]
name = "buyer"
when = {{ field = "orders", op = ">", value = 0 }}
"""


@pytest.fixture
def profiles(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """25 profiles, every fifth of whom has ordered, as a worker writes them; how many buyers there are."""
    (tmp_path / "tracker.toml").write_text(TOML.format(url=redis_url))
    monkeypatch.setenv("TRACKER_CONFIG", str(tmp_path / "tracker.toml"))
    monkeypatch.chdir(tmp_path)
    settings = load()
    folder = Folder(SIGNALS, settings)
    client = redis.Redis.from_url(redis_url)
    written: list[str] = []
    for n in range(25):
        name = "Order Completed" if n % 5 == 0 else None
        event = json.loads(record(n, pid=f"p{n}", ts=T0, name=name, order_id=f"o{n}")) | {"site": "seg-test"}
        profile = Profile("seg-test", f"p{n}")
        fx = folder.fold(decode([json.dumps(event).encode()]), {("seg-test", profile.id): profile}, [], {}, 0)
        partition = partition_of(profile.id.encode(), 4)
        key = profile_key(partition, "seg-test", profile.id)
        client.hset(key, mapping=dict(folder.codec.fields(profile)))
        written.append(key)
        for field, difference in fx.gauges.items():
            client.hincrby(f"{{p{partition}}}:g", field, difference)
    yield 5
    client.delete(*written)
    for partition in range(4):
        client.hdel(f"{{p{partition}}}:g", f"{segment_gauge('buyer')}|seg-test")
    client.close()


def test_sizes_are_read_and_a_preview_counts_who_is_there(profiles: int, tmp_path: Path) -> None:
    listed = CliRunner().invoke(segments, ["list"], catch_exceptions=False)
    (one,) = json.loads(listed.stdout)
    assert (one["name"], one["members"], one["when"]["field"]) == ("buyer", profiles, "orders")

    by_name = json.loads(CliRunner().invoke(segments, ["preview", "buyer"], catch_exceptions=False).stdout)
    assert (by_name["profiles"], by_name["members"], by_name["complete"]) == (25, profiles, True)
    assert {int(id[1:]) % 5 for id in by_name["samples"]} == {0}

    few = json.loads(CliRunner().invoke(segments, ["preview", "buyer", "--most", "7"], catch_exceptions=False).stdout)
    assert (few["profiles"], few["complete"]) == (7, False)

    file = tmp_path / "new.toml"
    file.write_text('name = "new"\nwhen = { not = { field = "orders", op = ">", value = 0 } }\n')
    found = json.loads(CliRunner().invoke(segments, ["preview", str(file)], catch_exceptions=False).stdout)
    assert (found["segment"], found["members"]) == ("new", 25 - profiles)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("when = {", "new.toml"),
        ('when = { field = "age", op = ">", value = 0 }', "segment 'preview': when: unknown field 'age'"),
        ("", "'when' is missing"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(profiles: int, tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "new.toml"
    file.write_text(text)
    done = CliRunner().invoke(segments, ["preview", str(file)])
    assert done.exit_code == 1
    assert words in done.output
    assert CliRunner().invoke(segments, ["preview", "nobody"]).exit_code == 1
