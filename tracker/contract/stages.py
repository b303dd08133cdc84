"""The names that triggers and conditions tell: stages of the journey, states of a cart, channels."""

from __future__ import annotations

from typing import Final

STAGES: Final[tuple[tuple[str, str], ...]] = (
    ("aware", "Nhận thức"),
    ("reached", "Tiếp cận"),
    ("onboard", "Onboard"),
    ("engaged", "Thu hút"),
    ("retained", "Giữ chân"),
    ("advocate", "Ủng hộ"),
)
"""Of the journey (domain: A477), in their order: (name in English, in Vietnamese)."""
STAGE_NAMES: Final = tuple(name for name, _ in STAGES)

CHANNEL_NAMES: Final = ("email", "sms", "zns", "zalo", "viber", "webpush")
"""Ways to reach a person, as triggers and conditions call them."""

CART_STATES: Final = ("none", "open", "reopened", "abandoned", "converted", "empty", "lost")
