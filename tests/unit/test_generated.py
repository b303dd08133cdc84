"""The generated files are the contract's, and the golden examples keep to them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from prometheus_client import REGISTRY

from stream import poison
from tracker import rejections
from tracker.contract import ecommerce, events, examples, generate, models, settings, topics, triggers
from tracker.contract.generate import __main__ as command
from tracker.contract.generate import reference
from tracker.contract.generate.json_schema import schemas
from tracker.contract.generate.texts import COMMAND, MARK, SCHEMA_DIR
from tracker.contract.generate.typescript import event_names, ts_type

SCHEMAS = schemas()
MADE = generate.files()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is generated is not in question here: once is enough."""
    monkeypatch.setattr(generate, "files", lambda: dict(MADE))


def errors(schema: str, value: bytes) -> list[str]:
    """What the generated schema has against an encoded message."""
    validator = jsonschema.Draft202012Validator(SCHEMAS[schema])
    return [error.message for error in validator.iter_errors(json.loads(value))]


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_is_a_valid_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])


@pytest.mark.parametrize("name", examples.MESSAGES)
def test_every_example_fits_its_schema_in_all_three_forms(name: str) -> None:
    message = msgspec.json.encode(examples.MESSAGES[name])
    assert errors("message", message) == []
    assert errors("event", examples.event(name)) == []
    assert errors("profile-event", examples.profile_event(name)) == []


@pytest.mark.parametrize("name", examples.MESSAGES)
def test_every_example_decodes_with_the_contract(name: str) -> None:
    sent = msgspec.json.decode(msgspec.json.encode(examples.MESSAGES[name]), type=events.Message)
    event = msgspec.json.decode(examples.event(name), type=events.Event)
    head = events.decode_event_head(examples.event(name))
    folded = events.decode_profile_event(examples.profile_event(name))
    assert sent.message_id == event.message_id == head.message_id == folded.message_id
    assert sent.user_id == event.user_id == head.user_id == folded.user_id
    assert events.event_label(folded) == name
    assert event.channel in events.CHANNELS
    assert folded.profile_id == examples.PROFILE_ID
    if isinstance(folded.properties, msgspec.Raw):
        assert json.loads(bytes(folded.properties)) == examples.MESSAGES[name]["properties"]


def test_every_known_name_and_type_has_an_example() -> None:
    known = {*event_names().values(), *events.POPUP_ACTIONS, *events.MESSAGE_ACTIONS}
    assert known == {name for name, m in examples.MESSAGES.items() if m["type"] == "track"}
    assert {m["type"] for m in examples.MESSAGES.values()} == set(events.EVENT_TYPES)
    ids = [m["messageId"] for m in examples.MESSAGES.values()]
    assert len(set(ids)) == len(ids)


def test_the_examples_carry_the_fields_that_rules_need() -> None:
    for name, message in examples.MESSAGES.items():
        properties = message.get("properties", {})
        if name.startswith(("Cart", "Checkout", "Payment", "Order")) or name in (
            "Product Added",
            "Product Removed",
        ):
            assert {"cart_id", "order_id"} & set(properties), name
        if name in events.POPUP_ACTIONS:
            assert properties["popup_id"], name


@pytest.mark.parametrize(("kind", "id", "at_ms", "data"), examples.TRIGGERS, ids=lambda v: type(v).__name__)
def test_every_trigger_example_is_a_cloudevent_of_its_kind(
    kind: triggers.TriggerKind, id: str, at_ms: int, data: msgspec.Struct
) -> None:
    value = examples.trigger(kind, id, at_ms, data)
    envelope = triggers.decode_trigger(value)
    schema = f"trigger-{envelope.type.split('.')[1]}"
    assert errors("cloudevent", value) == []
    assert errors(schema, value) == []
    assert SCHEMAS[schema]["title"] == envelope.type
    assert envelope.time == triggers.rfc3339(at_ms)
    assert msgspec.json.decode(envelope.data, type=type(data)) == data


def test_every_trigger_kind_and_retraction_has_an_example() -> None:
    told = {(kind.name, type(data)) for kind, _, _, data in examples.TRIGGERS}
    kinds = {(k.name, k.data) for k in triggers.TRIGGER_KINDS}
    retractions = {(k.name, k.retraction) for k in triggers.TRIGGER_KINDS if k.retraction is not None}
    assert told == kinds | retractions


def test_a_trigger_of_another_kind_does_not_fit_the_schema() -> None:
    abandoned = examples.trigger(*examples.TRIGGERS[0])
    assert errors("trigger-churn_risk", abandoned)
    without_items = json.loads(abandoned)
    del without_items["data"]["items"]
    assert errors("trigger-cart_abandoned", msgspec.json.encode(without_items)) == ["'items' is a required property"]
    assert errors("trigger-cart_abandoned", abandoned.replace(b'"specversion":"1.0",', b"")) != []


def test_the_clock_the_model_and_the_dead_letter_fit_their_schemas() -> None:
    assert errors("clock", examples.CLOCK) == []
    assert events.decode_clock(examples.CLOCK) == examples.AT_MS
    model = models.encode_model(examples.MODEL)
    assert errors("model", model) == []
    assert model.startswith(models.MODEL_PREFIX)
    assert models.decode_model(model) == examples.MODEL
    letter = msgspec.json.encode(examples.DEAD_LETTER)
    assert errors("dead-letter", letter) == []
    assert msgspec.json.decode(letter, type=topics.DeadLetter) == examples.DEAD_LETTER
    assert examples.DEAD_LETTER.reason in poison.REASONS
    with pytest.raises(msgspec.DecodeError, match=examples.DEAD_LETTER.detail):
        events.decode_profile_event(examples.DEAD_LETTER.original)


def test_a_wrong_message_does_not_fit() -> None:
    assert errors("message", b'{"type":"tracks"}')
    assert errors("event", b'{"type":"track"}')
    assert errors("profile-event", examples.profile_event("page").replace(b'"src":[7,', b'"src":['))


def test_the_churn_example_has_the_model_s_figures() -> None:
    """MBG/NBD with the cold prior (r, alpha, a, b) = (1, 8, 1, 2.5) in weeks; x = 2, t_x = 60 d, H = 91 d."""
    (told,) = [data for _, _, _, data in examples.TRIGGERS if isinstance(data, triggers.ChurnRisk)]
    r, alpha, a, b = 1, 8, 1, 2.5
    t_x, t, h = told.t_x_days / 7, told.t_days / 7, told.horizon_days / 7
    p_alive = 1 / (1 + ((alpha + t) / (alpha + t_x)) ** (r + told.x) * a / (b + told.x))
    assert told.p_alive == pytest.approx(p_alive, abs=1e-4)
    risk = 1 - p_alive * (1 - math.exp((r + told.x) * (math.log(alpha + t) - math.log(alpha + t + h))))
    assert told.risk == pytest.approx(risk, abs=1e-5)
    assert told.risk == settings.Settings().churn_enter
    likelihood = p_alive * (1 - math.exp((r + told.x) * (math.log(alpha + t) - math.log(alpha + t + 90 / 7))))
    assert told.likelihood == pytest.approx(likelihood, abs=1e-4)


def test_the_triggers_page_has_each_heading_once_and_the_golden_example_under_each_kind() -> None:
    page = (generate.ROOT / generate.TRIGGERS_BY_HAND).read_text("utf-8")
    sections = [section.partition("\n") for section in page.split("\n## ")[1:]]
    headings = [heading for heading, _, _ in sections]
    assert [heading for heading in set(headings) if headings.count(heading) > 1] == []
    told = {heading: text.split("```json\n")[1:] for heading, _, text in sections}
    for kind, id, at_ms, data in examples.TRIGGERS:
        if type(data) is kind.data:
            shown = [json.loads(block.split("```")[0]) for block in told[kind.name]]
            assert shown == [json.loads(examples.trigger(kind, id, at_ms, data))], kind.name


# -- drift ---------------------------------------------------------------------------------------------------


def test_the_files_in_the_checkout_are_the_generated_ones() -> None:
    assert generate.drifted(generate.ROOT) == []


def test_the_same_contract_gives_the_same_bytes() -> None:
    assert generate.files() == MADE


def test_every_generated_file_says_who_wrote_it() -> None:
    assert [path for path, text in MADE.items() if MARK not in text] == []


@pytest.mark.usefixtures("made")
def test_written_files_do_not_drift_and_writing_again_changes_nothing(tmp_path: Path) -> None:
    assert generate.write(tmp_path) == sorted(MADE)
    assert generate.drifted(tmp_path) == []
    assert generate.write(tmp_path) == []


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("tamper", ["changed", "deleted", "not utf-8"])
def test_a_tampered_file_is_drift_and_is_mended(tmp_path: Path, tamper: str) -> None:
    generate.write(tmp_path)
    path = tmp_path / "docs/reference/settings.md"
    match tamper:
        case "changed":
            path.write_text(path.read_text("utf-8").replace("8080", "8081"), "utf-8")
        case "deleted":
            path.unlink()
        case _:
            path.write_bytes(b"\xff\xfe")
    assert generate.drifted(tmp_path) == ["docs/reference/settings.md"]
    generate.write(tmp_path)
    assert generate.drifted(tmp_path) == []


def test_an_example_by_hand_is_drift_and_is_mended(tmp_path: Path) -> None:
    page = tmp_path / generate.TRIGGERS_BY_HAND
    page.parent.mkdir()
    page.write_text("# Triggers\n\n## survey\n\nAsk.\n\n```json\n{}\n```\n\n## Other\n\n```json\n{}\n```\n", "utf-8")
    assert generate.TRIGGERS_BY_HAND in generate.write(tmp_path)
    text = page.read_text("utf-8")
    assert text.startswith('# Triggers\n\n## survey\n\nAsk.\n\n```json\n{\n  "specversion"')
    assert text.endswith("}\n```\n\n## Other\n\n```json\n{}\n```\n")
    assert generate.drifted(tmp_path) == []


@pytest.mark.usefixtures("made")
def test_a_file_that_nothing_generates_any_more_is_drift_and_goes(tmp_path: Path) -> None:
    generate.write(tmp_path)
    gone = tmp_path / SCHEMA_DIR / "trigger-forgotten.schema.json"
    gone.write_text(json.dumps({"$comment": MARK}), "utf-8")
    by_hand = tmp_path / generate.REFERENCE_DIR / "cli.md"
    by_hand.write_text("# Commands\n", "utf-8")
    assert generate.drifted(tmp_path) == [gone.relative_to(tmp_path).as_posix()]
    generate.write(tmp_path)
    assert not gone.exists()
    assert by_hand.exists()


def test_a_changed_contract_is_drift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate.write(tmp_path)
    monkeypatch.setattr(events, "CHANNELS", (*events.CHANNELS, "fax"))
    assert generate.drifted(tmp_path) == ["docs/reference/events.md", "sdk_js/src/contract.gen.ts"]


@pytest.mark.usefixtures("made")
def test_check_names_the_files_and_the_command_that_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "ROOT", tmp_path)
    assert command.main(["--check"]) == 2
    (tmp_path / "pyproject.toml").touch()
    assert command.main([]) == 0
    assert command.main(["--check"]) == 0
    (tmp_path / generate.TYPESCRIPT).write_text("")
    capsys.readouterr()
    assert command.main(["--check"]) == 1
    assert capsys.readouterr().err == f"not as the contract says: {generate.TYPESCRIPT}. Run: {COMMAND}\n"
    assert command.main(["--chekc"]) == 2


# -- pages ---------------------------------------------------------------------------------------------------


def test_every_setting_stands_in_the_reference_with_its_variable() -> None:
    page = reference.settings_page()
    names = [f.name for f in msgspec.structs.fields(settings.Settings) if f.name not in settings.TABLES]
    rows = [line for line in page.splitlines() if line.startswith("| `TRACKER_")]
    assert [row.split("`")[1] for row in rows] == [f"TRACKER_{name.upper()}" for name in names]


def test_every_topic_stands_in_the_reference() -> None:
    page = reference.topics_page()
    assert [t.name for t in topics.TOPICS if f"| `{t.name}` |" not in page] == []


def test_every_refusal_stands_in_the_reference_with_its_status() -> None:
    page = reference.rejections_page()
    assert [r.name for r in rejections.REJECTIONS if f"| `{r.name}` | {r.status} |" not in page] == []
    assert [reason for reason in poison.REASONS if f"| `{reason}` |" not in page] == []


def test_every_metric_stands_in_the_reference_once() -> None:
    rows = [line.split("`")[1] for line in reference.metrics_page().splitlines() if line.startswith("| `")]
    exported = {family.name for family in REGISTRY.collect() if family.name.startswith(("tracker_", "stream_"))}
    assert len(set(rows)) == len(rows)
    assert {row.removesuffix("_total") for row in rows} == exported


def test_every_markdown_table_has_equal_rows() -> None:
    for path, text in MADE.items():
        cells: int | None = None
        for line in text.splitlines():
            is_row = line.startswith("|")
            width = line.replace("\\|", "").count("|")
            assert not is_row or cells in (None, width), (path, line)
            cells = width if is_row else None


def test_a_shape_without_a_typescript_type_is_refused() -> None:
    unknown: dict[str, Any] = {"type": "tuple"}
    with pytest.raises(TypeError, match="no TypeScript type"):
        ts_type(unknown)


def test_each_event_of_the_ecommerce_spec_has_its_properties() -> None:
    assert tuple(ecommerce.PROPERTIES) == events.ECOMMERCE
