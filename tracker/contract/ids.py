"""Identifiers of people: their types, which values mean somebody, and how they are spelled.

What an event says of them is stream/core/identity.py's; what a profile may have, and what happens when two of them
meet, stream/identify.lua's.
"""

from __future__ import annotations

import re
from typing import Final
from unicodedata import normalize

from msgspec import Struct

from tracker.contract.durations import DAY_MS
from tracker.contract.events import MAX_ID_CHARS
from tracker.contract.settings import PHONE_COUNTRIES, Settings


class IdType(Struct, frozen=True):
    """A type of identifiers. Only the newest `limit` a window may be added to a profile; window_ms 0 = for ever."""

    name: str
    setting: str
    window_ms: int


ID_TYPES: Final[tuple[IdType, ...]] = (
    IdType("user_id", "id_limit_user_id", 0),
    IdType("email", "id_limit_email", 365 * DAY_MS),
    IdType("phone", "id_limit_phone", 365 * DAY_MS),
    IdType("zalo_id", "id_limit_zalo_id", 0),
    IdType("viber_id", "id_limit_viber_id", 0),
    IdType("push_token", "id_limit_push_token", 0),
    IdType("anonymous_id", "id_limit_anonymous_id", 30 * DAY_MS),
)
"""Strongest first: where the limits do not let all identifiers of an event be one person, the weaker ones give way."""

PRIORITY: Final[dict[str, int]] = {t.name: n for n, t in enumerate(ID_TYPES)}

Identifier = tuple[str, str]
"""(name of its type, value as `normal` spells it)."""


def limits(settings: Settings) -> list[tuple[str, int, int]]:
    """(name, limit or 0 for none, window in ms or 0 for ever) of each type, as identify.lua wants them."""
    return [(t.name, int(getattr(settings, t.setting)), t.window_ms) for t in ID_TYPES]


_nobody = re.compile(r"[0-]*|-1").fullmatch
BLOCKED: Final[frozenset[str]] = frozenset(
    {
        "null", "none", "nil", "anonymous", "guest", "distinctid", "distinct_id", "id", "not_authenticated", "email",
        "undefined", "true", "false", "nan", "[object object]", "test@test.com",
    }
)  # fmt: skip
"""Values that broken integrations send for everybody (compared in lower case, quotes and blanks stripped)."""


QUOTES: Final = "\"'`\u201c\u201d\u2018\u2019"


def usable(value: str | None) -> str | None:
    """The identifier, or None when it means nobody: blank, blocked, zeros and dashes only, or longer than 200."""
    if value is None or len(value) > MAX_ID_CHARS:
        return None
    bare = value.strip().strip(QUOTES).strip().lower()
    return None if bare in BLOCKED or _nobody(bare) else value


def names_somebody(value: object) -> bool:
    """Whether what a client gives as an address is one that is somebody's, spelled well or not. A phone number may come
    as a number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 10**5 <= value < 10**20
    return isinstance(value, str) and usable(value) is not None


def whole(value: object) -> object:
    """The number that a client means which writes 7 as 7.0; all else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def normal(type: str, value: object, country: str) -> str | None:
    """A value of a type as it is looked up by, or None when it means nobody. `country`: of phones that name none."""
    value = whole(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or usable(value) is None:
        return None
    if type == "email":
        return email(value)
    if type == "phone":
        return phone(value, country)
    return value


_invisible = re.compile(r"[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]+").sub
"""Marks that come along when an address is copied out of a page or a list of contacts."""
_email = re.compile(r"[^@\s\x00-\x1f:;,<>()\[\]\\]+@[^@\s.,;<>()\[\]\\\"']+(\.[^@\s.,;<>()\[\]\\\"']+)+").fullmatch


def email(value: str) -> str | None:
    """Trimmed and in lower case. Dots and +tags stay: whether they matter is the provider's business."""
    value = _invisible("", value).strip().lower()
    return value if _email(value) else None


_in_brackets = re.compile(r"\(\s*0\s*\)").sub
_filling = re.compile(r"[\s.\-()/,_'\"\u2010-\u2015\u2019\u2212]+").sub
_digits = re.compile(r"\+?[0-9]{6,20}").fullmatch
_with_trunk = re.compile(f"({'|'.join(code for code, trunk in PHONE_COUNTRIES.values() if trunk == '0')})0").match
"""A country's code and the 0 that is dialled inside it only, which many write behind it all the same."""
OLD_VN_PREFIXES: Final[dict[str, str]] = {
    **{f"16{n}": f"3{n}" for n in range(2, 10)},
    "120": "70", "121": "79", "122": "77", "126": "76", "128": "78",
    "123": "83", "124": "84", "125": "85", "127": "81", "129": "82",
    "186": "56", "188": "58", "199": "59",
}  # fmt: skip
"""Vietnam's mobile numbers had up to ten digits behind the 0 until September 2018 -> the prefix they have since."""
_vn = re.compile(r"[35789][0-9]{8}|2[0-9]{9}|1[89]00[0-9]{4,6}").fullmatch


def phone(value: str, country: str) -> str | None:
    """E.164 ('+84901234567'), or None when it is no phone number. Without + or 00 it is a number of `country`."""
    if not value.isascii():
        value = _invisible("", normalize("NFKC", value))  # digits of full width, as some keyboards write them
    text = _filling("", _in_brackets("", value)).removeprefix("tel:")
    if not _digits(text):
        return None
    code, trunk = PHONE_COUNTRIES[country]
    if text.startswith("+"):
        digits = text[1:]
    elif text.startswith("00"):
        digits = text[2:]
    elif trunk and text.startswith(trunk):
        digits = code + text[len(trunk) :]
    elif text.startswith(code) and len(text) >= len(code) + 9:
        digits = text
    else:
        digits = code + text
    if (both := _with_trunk(digits)) is not None:
        digits = both[1] + digits[both.end() :]
    if digits.startswith("84"):
        national = digits[2:]
        if len(national) == 10 and (new := OLD_VN_PREFIXES.get(national[:3])) is not None:
            national = new + national[3:]
        return f"+84{national}" if _vn(national) and len(set(national)) > 1 else None
    if not 8 <= len(digits) <= 15 or digits[0] == "0" or len(set(digits[2:])) == 1:
        return None
    return "+" + digits
