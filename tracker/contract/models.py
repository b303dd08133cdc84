"""Parameters of a site's churn models: a record on every partition of tracker.profile-events.v1.

`tracker fit` makes them, and each night a worker. A partition's owner takes them up where they stand in the log, keeps
them in {pN}:models, and folds what follows with them; of two it keeps the one with the higher version.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from tracker.contract.events import Time

MODEL_PREFIX: Final = b'{"modelId":'
"""How a Model begins; no other record of profile-events does."""

Confidence = Literal["cold", "low", "ok"]
SIGNALS: Final = ("purchase", "visit", "message_engage")
"""What is modelled: the signals of stream/signals/ that have parameters of their own by site."""

Positive = Annotated[float, Meta(gt=0, le=1e12)]


class Value(Struct, rename="camel", kw_only=True, frozen=True, omit_defaults=True):
    """Gamma-Gamma, and what is stored with it."""

    p: Positive
    q: Annotated[float, Meta(gt=1, le=1e12, description="Above 1, so that there is a mean.")]
    v: Positive
    currency: Annotated[str, Meta(description="Of the values: that of most of the site's customers; empty: not said.")]
    high: Annotated[
        float | None, Meta(description="A predicted value at least this is among the site's highest tenth.")
    ] = None


class Model(Struct, rename="camel", kw_only=True, frozen=True, omit_defaults=True):
    """MBG/NBD's parameters of a site and signal, time in weeks."""

    model_id: Annotated[str, Meta(description="SITE/SIGNAL/VERSION.")]
    site: str
    signal: str
    version: Annotated[int, Meta(ge=1, description="Rises with every fit that is published.")]
    fitted_at_ms: Time
    r: Positive
    alpha: Positive
    a: Positive
    b: Positive
    customers: Annotated[int, Meta(ge=0, description="Whose histories were fitted.")]
    confidence: Annotated[
        Confidence,
        Meta(description="cold: the prior, fewer than 25 customers; low: fewer than 500, or 180 days; ok: more."),
    ]
    value: Value | None = None
    gaps: Annotated[
        dict[str, float],
        Meta(description="Of purchases: product -> the median of the days until it is bought again; 500 at most."),
    ] = {}

    def newer_than(self, other: Model | None) -> bool:
        """At a tie the later fit's, so that all partitions end with the same one."""
        return other is None or (self.version, self.fitted_at_ms) > (other.version, other.fitted_at_ms)

    @property
    def name(self) -> str:
        """As scores name it."""
        return f"mbg_nbd:{self.version}"


Models = dict[tuple[str, str], Model]
"""(site, signal) -> its parameters."""

_encode: Final = msgspec.json.Encoder().encode
decode_model: Final = msgspec.json.Decoder(Model).decode
"""Raises msgspec.DecodeError."""


def encode_model(model: Model) -> bytes:
    return _encode(model)


def field_of(model: Model) -> str:
    """Its field in {pN}:models."""
    return f"{model.site}|{model.signal}"
