"""The command line: quick, and every mistake of a user is one line and the right exit code."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import ROOT, assert_one_line, cli
from tests.unit.shop_toml import SHOP
from tracker.cli import COMMANDS, profile_show, up
from tracker.cli.common import printable
from tracker.cli.tail import trigger_line
from tracker.contract.examples import TRIGGERS, trigger
from tracker.contract.loading import SettingsError, load
from tracker.contract.settings import Settings


def test_help_lists_every_command() -> None:
    done = cli("--help")
    assert done.returncode == 0
    for name, (_, text) in COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert text in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    done = cli(name, "--help")
    assert done.returncode == 0
    assert f"Usage: tracker {name}" in done.stdout


def test_help_imports_no_command() -> None:
    code = "import sys, tracker.cli; tracker.cli.run(['--help']); print({'faust', 'aiokafka', 'rich'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (("nonsense",), ("No such command 'nonsense'", "tracker --help")),
        (("up", "--nonsense"), ("--nonsense", "tracker up --help")),
        (("up", "--workers", "0"), ("--workers", "tracker up --help")),
        (("tail", "--topic", "x"), ("'x' is not one of", "tracker tail --help")),
        (("demo", "--url", "ftp://x"), ("ftp://x", "tracker demo --help")),
        (("serve", "--http-port", "70000"), ("--http-port",)),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(args: tuple[str, ...], parts: tuple[str, ...]) -> None:
    assert_one_line(cli(*args), 2, *parts)


def test_a_wrong_setting_is_one_line_that_names_it(tmp_path: Path) -> None:
    assert_one_line(cli("topics", "check", partitions="many"), 2, "TRACKER_PARTITIONS")
    (tmp_path / "tracker.toml").write_text("partitons = 8\n")
    assert_one_line(cli("topics", "check", cwd=tmp_path), 2, "tracker.toml: unknown setting 'partitons'")
    assert_one_line(cli("worker", config=tmp_path / "none.toml"), 2, "TRACKER_CONFIG: there is no file")
    assert_one_line(cli("worker", "--kafka", "here:port"), 2, "kafka: 'here:port' is no HOST:PORT")
    assert_one_line(cli("worker", "--redis", "http://x"), 2, "redis: Redis URL must specify one of")
    assert_one_line(cli("worker", "--redis", "redis://127.0.0.1:99999/0"), 2, "redis: ")


OTHER = '[sites.other]\nwrite_key = "write-key-2"\nsecret_key = "secret-key-2"\n'
HOOK = '[[webhooks]]\nname = "n8n"\nurl = "https://n8n.example/x"\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cart_idle_s = '1h'", "tracker.toml: cart_idle_s: Expected `float`, got `str`"),
        ("http_port = 99999", "tracker.toml: http_port: Expected `int` <= 65535"),
        ("spool_max_bytes = 10000000000000000", "tracker.toml: spool_max_bytes: 10000000000000000 is no number up to"),
        ("[site.shop]", "tracker.toml: unknown setting 'site'; is 'sites' meant?"),
        ("colour = 1", "unknown setting 'colour'; docs/reference/settings.md lists them"),
        (OTHER + SHOP + "orgins = []", "tracker.toml: sites.shop: unknown setting 'orgins'; is 'origins' meant?"),
        (OTHER + "[sites.shop]\nwrite_key = 'write-key-1'", "tracker.toml: sites.shop: 'secret_key' is missing"),
        (SHOP + "ip = 'hash'", "sites.shop.ip: 'hash' is none of drop, keep, truncate"),
        (SHOP + "links = { basket = 'x' }", "sites.shop.links: unknown setting 'basket'; there are site, cart, "),
        (SHOP + "reorder = { products = { a = 3, b = -3 } }", "sites.shop.reorder.products.b: Expected `float` > 0.0"),
        (SHOP + "rules = [{ name = 'a', event = 'X', once = 'week' }]", "sites.shop.rules[0].once: 'week' is none of"),
        (
            SHOP + "segments = [{ name = 'a', when = { all = [{ not = { fiel = 'score' } }] } }]",
            "sites.shop.segments[0].when.all[0].not: unknown setting 'fiel'; is 'field' meant?",
        ),
        (
            SHOP + "[sites.shop.segments]\nname = 'a'",
            "sites.shop.segments: Expected `array`, got `object`; a list of tables is written [[sites.shop.segments]]",
        ),
        (HOOK, "tracker.toml: webhooks[0]: 'secret' is missing"),
        (HOOK + "secret = 's'\nkind = []", "tracker.toml: webhooks[0]: unknown setting 'kind'; is 'kinds' meant?"),
        (SHOP + "time_zone = 'Asia/Saigonn'", "site 'shop': time_zone: 'Asia/Saigonn' is no time zone like Asia/"),
        (SHOP + "origins = ['shop.example']", "site 'shop': origins: 'shop.example' is no origin like https://shop"),
        (SHOP + "origins = ['*']", "[] allows pages of any"),
        (SHOP + "origins = ['https://shop.example/vn']", "'https://shop.example/vn' is no origin"),
    ],
)
def test_what_is_wrong_in_the_settings_file_has_its_place_and_a_hint(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "tracker.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as error:
        load({}, path)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert "$" not in str(error.value)


def test_origins_of_apps_and_files_will_do(tmp_path: Path) -> None:
    path = tmp_path / "tracker.toml"
    path.write_text(SHOP + "origins = ['null', 'capacitor://localhost', 'http://[::1]:3000/', 'https://A.vn:80']")
    assert len(load({}, path).sites["shop"].origins) == 4


@pytest.mark.parametrize("command", [("fold", "--signal", "cart", "-", "--now", "1"), ("segments", "list")])
def test_a_site_that_is_not_in_the_file_is_told(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "tracker.toml").write_text(SHOP)
    assert_one_line(cli(*command, "--site", "shopp", cwd=tmp_path), 2, "no site 'shopp'; there are: shop")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("when = { feld = 'orders' }", "s.toml: when: unknown setting 'feld'; is 'field' meant?"),
        ("name = 'x'", "s.toml: 'when' is missing"),
        ("[[sites.shop.segments]]\nname = 'x'", "s.toml: unknown setting 'sites'; there are name, when, stay, leave"),
        ("when = { field = 'ordrs' }", "when: unknown field 'ordrs'"),
    ],
)
def test_what_is_wrong_in_a_segments_file_has_its_place(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "s.toml").write_text(text)
    assert_one_line(cli("segments", "preview", "s.toml", cwd=tmp_path), 1, told)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1_234_567.0, "1234567"),
        (1_234_567.89, "1234567.89"),
        (12.5, "12.5"),
        (0.123456789, "0.123457"),
        (1e300, "1e+300"),
    ],
)
def test_amounts_of_a_profile_keep_their_digits(value: float, shown: str) -> None:
    assert profile_show._value(value) == shown


def test_a_kafka_that_is_not_there_is_one_line() -> None:
    for command in (("topics", "check"), ("topics", "create"), ("tail",)):
        assert_one_line(cli(*command, kafka="127.0.0.1:1"), 1, "no Kafka answers at 127.0.0.1:1", "tracker up")
    assert_one_line(cli("tail", kafka="nonsense::"), 2, "nonsense")


def test_a_deliverer_without_kafka_says_so_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "tracker.toml").write_text(f"{HOOK}secret = 'whsec_{'QUFB' * 8}'\n")
    done = cli("webhooks", "deliver", cwd=tmp_path, kafka="127.0.0.1:1", webhook_port=0)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        "tracker: error: no Kafka answers at 127.0.0.1:1: start it (`tracker up`"
    )
    assert_one_line(
        cli("webhooks", "test", "n8n", "--kind", "x", cwd=tmp_path), 1, "no kind 'x'; there are: cart_aband"
    )


def test_a_redis_that_is_no_address_is_one_line() -> None:
    for command in (("profile", "show", "demo", "x"), ("profile", "unmerge", "demo", "email=a@b.vn"), ("worker",)):
        done = cli(*command, redis="localhost:6379", demo=1)
        assert_one_line(done, 2, "error: redis: Redis URL must specify one of the following schemes")


def test_an_endpoint_that_is_not_there_is_one_line() -> None:
    assert_one_line(
        cli("demo", "--url", "http://127.0.0.1:1", "--duration", "0.2"), 1, "no answer", "tracker up --demo"
    )


def test_the_example_of_the_settings_file_is_valid(tmp_path: Path) -> None:
    text = (ROOT / "tracker.example.toml").read_text("utf-8")
    example = tmp_path / "tracker.toml"
    example.write_text(text, "utf-8")
    settings = load({}, example)
    assert settings.sites["shop"].origins == ("https://shop.example", "https://www.shop.example")
    # The commented lines are valid settings, too.
    plain, _, tables = text.partition("[sites.shop]")
    lines = [line.removeprefix("# ") for line in plain.splitlines() if line.startswith("# ") and " = " in line]
    lines += [line.removeprefix("# ") for line in ("[sites.shop]" + tables).splitlines()]
    keys = iter(("another_key_1", "another_key_2"))
    lines = [line.replace('"..."', f'"{next(keys)}"') if '"..."' in line else line for line in lines]
    example.write_text("\n".join(lines).replace("whsec_REPLACE_ME", "whsec_" + "QUFB" * 8), "utf-8")
    loaded = load({}, example)
    assert loaded.kafka == Settings().kafka
    assert loaded.cart_idle_s == 3600
    assert loaded.sites["shop"].triggers.kind_caps == {"cart_abandoned": 1}
    assert [hook.name for hook in loaded.webhooks] == ["n8n"]


def test_text_of_clients_can_not_steer_the_terminal() -> None:
    assert printable("a\x1b[31mb\nc\u202e") == "a\ufffd[31mb\ufffdc\ufffd"
    assert printable("Áo thun") == "Áo thun"
    assert printable("x" * 300) == "x" * 200 + "…"


def test_too_little_memory_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tracker.cli import run

    monkeypatch.setattr(up, "available_memory_mb", lambda: 300)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    ports = [f"--{name}-port=0" for name in ("http", "kafka", "redis", "worker")]
    assert run(["up", "--data-dir", str(tmp_path), *ports]) == 1
    error = capsys.readouterr().err
    assert "300 MB of memory are free, the embedded Kafka wants 1024" in error
    assert "--kafka HOST:PORT" in error
    assert len(error.splitlines()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_the_memory_that_is_free_is_known() -> None:
    free = up.available_memory_mb()
    assert free is not None
    assert 0 < free < 1 << 24


def test_tail_shows_what_a_trigger_of_each_kind_is_about() -> None:
    lines = {
        (kind.name, type(data).__name__): trigger_line(trigger(kind, id, at_ms, data)).plain
        for kind, id, at_ms, data in TRIGGERS
    }
    assert "by cart-reminder, order order-5501 290,000 VND" in lines["cart_recovered", "CartRecovered"]
    assert "takes back" in lines["cart_recovered", "CartRecoveryRetracted"]
    assert "cart 290,000 VND: 2 x Cà phê Robusta" in lines["cart_abandoned", "CartAbandoned"]
    assert "stage mql, previous lead, points 54, " in lines["lead_stage", "LeadStage"]
    assert "demo 2 reached -> 3 onboard  customer-1042" in lines["journey_stage", "JourneyStage"]
    for kind, id, _, data in TRIGGERS:
        assert id in lines[kind.name, type(data).__name__]
