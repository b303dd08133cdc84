"""The pages of docs/reference, in Markdown."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from types import ModuleType

import msgspec
from msgspec import Struct
from prometheus_client.metrics import MetricWrapperBase

from tracker.contract import events, examples, keys, merges, models, settings, sites, topics, triggers
from tracker.contract.durations import DAY_MS, DAY_S
from tracker.contract.generate.json_schema import inner_struct, schema_of, trigger_types
from tracker.contract.generate.texts import SCHEMA_DIR, one_line, table, to_json
from tracker.contract.generate.typescript import ts_type


def pages() -> dict[str, str]:
    """Name -> text."""
    return {
        "events": events_page(),
        "triggers": triggers_page(),
        "topics": topics_page(),
        "redis-keys": redis_keys_page(),
        "settings": settings_page(),
        "metrics": metrics_page(),
        "rejections": rejections_page(),
    }


def golden_examples() -> Iterator[tuple[triggers.TriggerKind, type[Struct], str]]:
    """(kind, type of the data, its golden example as a block of Markdown)."""
    for kind, id, at_ms, data in examples.TRIGGERS:
        told = to_json(json.loads(examples.trigger(kind, id, at_ms, data))).rstrip()
        yield kind, type(data), f"```json\n{told}\n```"


def events_page() -> str:
    named = []
    for name, message in examples.MESSAGES.items():
        if message["type"] == "track":
            if name in events.POPUP_ACTIONS:
                counted = f"popup, {events.POPUP_ACTIONS[name]}"
            elif name in events.MESSAGE_ACTIONS:
                channel, action = events.MESSAGE_ACTIONS[name]
                counted = f"{channel or 'its channel'}, {action}"
            else:
                counted = ""
            named.append([f"`{name}`", counted, f"`{json.dumps(message['properties'], ensure_ascii=False)}`"])
    return f"""# Events

Names and shapes are the Segment Spec's. A client sends a **Message**; it stands in `{topics.EVENTS}` as an
**Event** and, once it is known whose it is, in `{topics.PROFILE_EVENTS}` as a **ProfileEvent**. Unknown
fields are kept. Ids and names have at most {events.MAX_ID_CHARS} characters. JSON Schema of each form:
`{SCHEMA_DIR}/`.

## Message

{_fields(events.Message)}

The least that a track call has, with the site's write key in `X-Write-Key` or as the Basic user name:

```json
{json.dumps({"event": events.PRODUCT_VIEWED, "anonymousId": "a1"}, indent=2)}
```

## Names that have a meaning

Any name is accepted and counted. These are also read by the signals; the examples show what they look at.

{table(["`event`", "Counted as (channel, action)", "`properties`, for example"], named)}

Channels: {", ".join(f"`{c}`" for c in events.CHANNELS)}. Anything else is counted as `other`.

{_section(events.Event)}

{_section(events.ProfileEvent)}

{_section(events.Clock)}
"""


def triggers_page() -> str:
    kinds = [
        [f"`{kind.name}`", kind.what, "yes" if kind.marketing else "", "yes" if kind.retraction else ""]
        for kind in triggers.TRIGGER_KINDS
    ]
    parts = [
        f"""# Triggers

What automation systems subscribe to: one Kafka topic a kind, records are CloudEvents 1.0 in structured JSON
(`content-type: {triggers.CONTENT_TYPE.decode()}`), the key is the profile id. Delivery is at least once; `id`
is the same however often a trigger is delivered, so subscribers drop an `id` that they have seen.

`docs/triggers.md` says when each kind comes and what holds it back.

{table(["Kind", "Told when", "A message comes of it", "Can be retracted"], kinds)}

## The envelope

{_fields(triggers.CloudEvent)}
"""
    ]
    told = {data: example for _, data, example in golden_examples()}
    for kind, data, ce_type in trigger_types():
        parts.append(
            f"""
## {ce_type}

Topic `{kind.topic}`: {kind.what}. {one_line(data.__doc__ or "")}

{_fields(data)}

{told[data]}
"""
        )
    return "".join(parts)


def topics_page() -> str:
    rows = [
        [
            f"`{t.name}`", t.owner, t.key, t.value,
            "setting `partitions`" if t.partitioned else "1", f"{t.retention_ms // DAY_MS} days",
        ]
        for t in topics.TOPICS
    ]  # fmt: skip
    return f"""# Kafka topics

`tracker topics create` makes them, `tracker topics check` compares a broker with this table.

{table(["Topic", "Written by", "Key", "Value", "Partitions", "Retention"], rows)}

{_section(merges.Merge)}

{_section(merges.Unmerge)}

{_section(merges.Handover)}

{_section(models.Model)}

{_section(topics.DeadLetter)}

{_section(topics.Replay)}
"""


def redis_keys_page() -> str:
    tiers = [[f"`{t}`", f"{length} s", f"{kept // DAY_S} days"] for t, (length, kept) in keys.TIERS.items()]
    return f"""# Redis keys

```
{inspect.cleandoc(keys.__doc__ or "")}
```

## Tiers of counters

{table(["Tier", "Bucket", "Kept"], tiers)}
"""


def settings_page() -> str:
    source = inspect.getsource(settings.Settings)
    fields = {f.name: f for f in msgspec.structs.fields(settings.Settings)}
    parts = [
        """# Settings

In order: the environment variable, `tracker.toml` in the working directory (or where `TRACKER_CONFIG` points;
the name there is the variable's in small letters without `TRACKER_`), the default.
"""
    ]
    for section in re.split(r"^    # -- ", source, flags=re.M)[1:]:
        title, _, body = section.partition("\n")
        rows = [
            _setting(fields[name])
            for name in re.findall(r"^    (\w+): Annotated", body, flags=re.M)
            if name not in settings.TABLES
        ]
        variables = table(["Variable", "Type", "Unit", "Default", "Bounds", "What it is"], rows)
        parts.append(f"\n## {title[0].upper()}{title[1:]}\n\n{variables}\n")
    parts.append(
        f"""
## Sites

Only in `tracker.toml`, a table each. `TRACKER_DEMO=1` adds the site `{settings.DEMO_SITE}` with public keys.

```toml
[sites.shop]
write_key = "..."            # in the snippet; may only send events
secret_key = "..."           # on servers; reads, and imports with past timestamps
origins = ["https://shop.example"]
time_zone = "Asia/Ho_Chi_Minh"
```

{_fields(sites.Site)}

## Webhooks

Only in `tracker.toml`, a table each. Make a secret with
`python -c "import base64, os; print('whsec_' + base64.b64encode(os.urandom(32)).decode())"`.

```toml
[[webhooks]]
name = "n8n"
url = "https://n8n.example/webhook/tracker"
secret = "whsec_..."
kinds = ["cart_abandoned"]   # or all
```

{_fields(sites.Webhook)}
"""
    )
    return "".join(parts)


# The last two pages tell what the two sides declare; contract itself imports neither.


def rejections_page() -> str:
    from stream.poison import REASONS
    from tracker.deliver.service import GIVEN_UP
    from tracker.rejections import REJECTIONS

    rows = [[f"`{r.name}`", str(r.status), r.message, r.hint] for r in REJECTIONS]
    return f"""# Rejections

## Endpoint

The name is the `code` of an answer, the `reason` of a dead letter and the label of a metric. What is wrong with one
event of a batch never fails the batch: that event goes to `{topics.DEAD_LETTERS}`, the others are taken. 408, 429 and
5xx carry `Retry-After` and mean "send again"; any other 4xx means "never again".

{table(["Code", "Status", "What happened", "What helps"], rows)}

## Worker

Reasons of dead letters of the stages `resolve` and `signals`.

{table(["Reason", "What it means"], [[f"`{reason}`", text] for reason, text in REASONS.items()])}

## Webhooks

Reasons of dead letters of the stage `webhooks`.

{table(["Reason", "What it means"], [[f"`{reason}`", text] for reason, text in GIVEN_UP.items()])}
"""


def metrics_page() -> str:
    from stream import metrics as stream_metrics
    from tracker import metrics as tracker_metrics
    from tracker.deliver import metrics as webhook_metrics

    return f"""# Metrics

Label sets are closed: what clients send never becomes a label. Sites are the first 50 configured, else `other`.

## Endpoint

{_metrics(tracker_metrics)}

## Worker

{_metrics(stream_metrics)}

## Webhooks

{_metrics(webhook_metrics)}

`# HELP` and `# TYPE` of the running process say the same; both also export `process_*` and `python_*`.
"""


def _metrics(module: ModuleType) -> str:
    found: dict[str, list[str]] = {}
    for value in vars(module).values():
        for metric in value.values() if isinstance(value, dict) else (value,):
            if isinstance(metric, MetricWrapperBase) and not metric._labelvalues:  # not one series of a metric
                (family,) = metric.describe()
                name = f"{family.name}_total" if family.type == "counter" else family.name
                labels = ", ".join(f"`{label}`" for label in metric._labelnames)
                found.setdefault(name, [f"`{name}`", family.type, labels, family.documentation])
    return table(["Metric", "Type", "Labels", "What it is"], list(found.values()))


def _setting(field: msgspec.structs.FieldInfo) -> list[str]:
    (about,) = [m for m in field.type.__metadata__ if isinstance(m, msgspec.Meta)]
    bounds = [
        f"{sign} {bound}"
        for sign, bound in (("≥", about.ge), (">", about.gt), ("≤", about.le), ("<", about.lt))
        if bound is not None
    ]
    assert about.extra is not None
    default = json.dumps(field.default) if isinstance(field.default, bool) else str(field.default)
    variable, type_name = f"`TRACKER_{field.name.upper()}`", field.type.__origin__.__name__
    return [
        variable,
        type_name,
        about.extra["unit"],
        f"`{default}`",
        ", ".join(bounds),
        about.description or "",
    ]


def _section(type_: type[Struct]) -> str:
    """A struct's own section: what it is, its fields."""
    return f"## {type_.__name__}\n\n{one_line(type_.__doc__ or '')}\n\n{_fields(type_)}"


def _fields(type_: type[Struct], *, with_inner: bool = True) -> str:
    """Table of a struct's fields as they stand in JSON, and of every struct in it, once."""
    schema = schema_of(type_)
    inner = schema.get("$defs", {})
    rows = []
    for name, about in schema["properties"].items():
        needed = "yes" if name in schema.get("required", ()) else ""
        text = about.get("description", "")
        if (default := about.get("default")) not in (None, []):
            text = f"{text} Default: {json.dumps(default)}.".strip()
        rows.append([f"`{name}`", ts_type(about).replace("Record<string, unknown>", "object"), needed, text])
    tables = [table(["Field", "Type", "Always", "What it is"], rows)]
    if with_inner:
        tables += [f"\n`{name}`:\n\n{_fields(inner_struct(type_, name), with_inner=False)}" for name in inner]
    return "\n".join(tables)
