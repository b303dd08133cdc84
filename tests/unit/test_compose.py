"""docker-compose.yml and Dockerfile keep what they promise; a real Kafka takes their configuration."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import compose_spec
import msgspec
import pytest
import yaml

from tests.conftest import missing
from tracker.contract.settings import Settings
from tracker.embedded import parts
from tracker.embedded.process import PartError

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
OURS = ("topic-init", "tracker", "worker", "webhooks")

every_service = pytest.mark.parametrize("service", SERVICES.values(), ids=list(SERVICES))


def seconds(duration: str) -> float:
    return float(compose_spec.parse_duration(duration))


def test_the_file_keeps_to_the_compose_specification() -> None:
    compose_spec.PyCompose.from_yaml(yaml.safe_dump(COMPOSE)).to_spec()


def test_a_misspelt_key_would_be_found() -> None:
    wrong = {**COMPOSE, "services": {"redis": {**SERVICES["redis"], "mem_limt": "1g"}}}
    with pytest.raises(ValueError, match="mem_limt"):
        compose_spec.PyCompose.from_yaml(yaml.safe_dump(wrong))


def test_the_stack_is_whole() -> None:
    assert set(SERVICES) == {"kafka", "topic-init", "redis", "tracker", "worker", "webhooks", "prometheus", "grafana"}


@every_service
def test_every_service_is_hardened(service: dict[str, Any]) -> None:
    uid = int(service["user"].split(":")[0])
    assert uid > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert service["pids_limit"] > 0


@every_service
def test_every_image_is_pinned_to_a_full_version(service: dict[str, Any]) -> None:
    assert re.search(r":v?\d+\.\d+\.\d+(-\w+)?$", service["image"])


@every_service
def test_ports_are_open_on_loopback_only(service: dict[str, Any]) -> None:
    assert [p for p in service.get("ports", []) if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", p)] == []


@every_service
def test_every_dependency_is_waited_for(service: dict[str, Any]) -> None:
    for name, how in service.get("depends_on", {}).items():
        other = SERVICES[name]
        if how["condition"] == "service_completed_successfully":
            assert other["restart"] == "no"
        else:
            assert how["condition"] == "service_healthy"
            assert other.get("healthcheck", {}).get("test") or other.get("build"), "no healthcheck to wait for"


@every_service
def test_every_volume_and_mount_exists(service: dict[str, Any]) -> None:
    for mount in service.get("volumes", []):
        source = mount.split(":")[0]
        assert (ROOT / source).is_dir() if source.startswith("./") else source in COMPOSE["volumes"]
        assert not source.startswith("./") or mount.endswith(":ro")


@every_service
def test_no_secret_stands_in_the_file(service: dict[str, Any]) -> None:
    named = [k for k in service.get("environment", {}) if re.search("PASSWORD|SECRET|TOKEN", k)]
    assert named == []


def test_our_services_get_settings_that_exist() -> None:
    known = {f"TRACKER_{f.name.upper()}" for f in msgspec.structs.fields(Settings)} | {"TRACKER_CONFIG"}
    for name in OURS:
        variables = {v for v in SERVICES[name]["environment"] if v.startswith("TRACKER_")}
        assert variables - known == set()
    assert set(re.findall(r"TRACKER_\w+", DOCKERFILE)) - known == set()


def test_the_demo_keys_are_off_unless_asked_for() -> None:
    assert {SERVICES[name]["environment"]["TRACKER_DEMO"] for name in OURS} == {"${TRACKER_DEMO:-0}"}


def test_kafka_and_topics_come_before_the_endpoint_and_the_worker() -> None:
    for name in ("tracker", "worker"):
        conditions = {n: c["condition"] for n, c in SERVICES[name]["depends_on"].items()}
        assert conditions == {
            "kafka": "service_healthy",
            "redis": "service_healthy",
            "topic-init": "service_completed_successfully",
        }


def test_webhooks_are_delivered_where_they_are_asked_for() -> None:
    """Without a [[webhooks]] it would end at once, so it starts by its profile only."""
    service = SERVICES["webhooks"]
    assert service["profiles"] == ["webhooks"]
    assert service["environment"]["TRACKER_WEBHOOK_HOST"] == "0.0.0.0"
    port = Settings().webhook_port
    assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert service["environment"]["HEALTH_URL"] == f"http://127.0.0.1:{port}/livez"
    assert service["depends_on"]["topic-init"] == {"condition": "service_completed_successfully"}
    assert [name for name, each in SERVICES.items() if "profiles" in each] == ["webhooks"]


def test_a_stop_is_not_cut_short_while_requests_drain() -> None:
    for name in ("tracker", "worker", "webhooks"):
        assert seconds(SERVICES[name]["stop_grace_period"]) > Settings().drain_s + 5


def test_the_spool_survives_its_container() -> None:
    found = re.search(r"TRACKER_SPOOL_DIR=(\S+)", DOCKERFILE)  # in the image: it has a volume without compose, too
    assert found is not None
    folder = found[1]
    assert f"spool-data:{folder}" in SERVICES["tracker"]["volumes"]
    assert f"install -d -o tracker -g tracker {folder}\n" in DOCKERFILE


def test_redis_never_evicts_and_keeps_its_log() -> None:
    command = SERVICES["redis"]["command"]
    option = dict(zip(command[1::2], command[2::2], strict=True))
    assert option["--maxmemory-policy"] == "noeviction"
    assert option["--appendonly"] == "yes"
    limit, memory = SERVICES["redis"]["mem_limit"], option["--maxmemory"]
    assert limit == "2g"
    assert memory == "1gb"


def test_kafka_makes_no_topic_by_itself_and_keeps_everything_once() -> None:
    env = SERVICES["kafka"]["environment"]
    assert env["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    assert {v for k, v in env.items() if k.endswith(("REPLICATION_FACTOR", "MIN_ISR"))} == {1}
    for topic in ("OFFSETS_TOPIC", "TRANSACTION_STATE_LOG", "SHARE_COORDINATOR_STATE_TOPIC"):
        assert f"KAFKA_{topic}_REPLICATION_FACTOR" in env


def test_kafka_is_the_version_that_is_embedded() -> None:
    locked = tomllib.loads(parts.SPEC.read_text("utf-8"))
    version = SERVICES["kafka"]["image"].split(":")[1]
    assert re.search(rf"org\.apache\.kafka:kafka_2\.13:{re.escape(version)}\b", str(locked))


@pytest.mark.integration
def test_a_real_kafka_takes_the_configuration(tmp_path: Path) -> None:
    """As the image starts: KafkaDockerWrapper renders KAFKA_* to server.properties, formats the storage."""
    try:
        java, jars = parts.java(), parts.kafka_jars(lambda _: None)
    except PartError as e:
        missing(str(e))
    env = {k: str(v) for k, v in SERVICES["kafka"]["environment"].items()}
    env["KAFKA_LOG_DIRS"] = str(tmp_path / "data")
    setup = ["kafka.docker.KafkaDockerWrapper", "setup"]
    for folder in ("defaults", "mounted", "final"):
        (tmp_path / folder).mkdir()
        setup += [f"--{folder.removesuffix('s')}-configs-dir", str(tmp_path / folder)]
    command = [java, "-XX:TieredStopAtLevel=1", "-cp", f"{jars}/*", *setup]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rendered = (tmp_path / "final" / "server.properties").read_text("utf-8").split()
    assert "auto.create.topics.enable=false" in rendered
    meta = (tmp_path / "data" / "meta.properties").read_text("utf-8")
    assert f"cluster.id={env['CLUSTER_ID']}" in meta


def test_grafana_has_no_account_with_a_known_password() -> None:
    env = SERVICES["grafana"]["environment"]
    assert env["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert env["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert env["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    home = env["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (ROOT / home.replace("/etc/grafana", "ops/grafana")).exists()


# -- image ---------------------------------------------------------------------------------------------------


def test_the_image_runs_as_nobody_and_checks_its_health() -> None:
    final = DOCKERFILE.split("\nFROM ")[-1]
    assert f"USER {SERVICES['tracker']['user']}\n" in final
    assert "HEALTHCHECK " in final
    assert "urllib.request" in final


def test_the_image_installs_only_what_is_locked_by_hash() -> None:
    installs = re.findall(r"pip install ([^\\\n]*)", DOCKERFILE)
    assert len(installs) == 3
    assert [i for i in installs if "--require-hashes" not in i and "--no-deps" not in i] == []
    assert "dev.txt" not in DOCKERFILE
    assert "[embedded]" not in DOCKERFILE


def test_what_the_image_copies_exists_and_is_let_through() -> None:
    ignore = (ROOT / ".dockerignore").read_text("utf-8").split("\n")
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, flags=re.M):
        for source in line.split():
            assert f"!{source}" in ignore
            assert (ROOT / source).exists()


def test_the_base_image_is_pinned() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, flags=re.M)
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.12\.\d+-slim-\w+", bases[0])
