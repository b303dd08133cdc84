"""What the visitor acts with, from the user agent, and whether it is a program (a bot).

The user agent is the context's; where it has none, that of the request's header, which is the visitor's own browser as
long as the key is not a server's. Parsing takes 0.3 ms and is kept by user agent: a bounded number of new ones is
parsed in one request (Call.user_agents_left), the device of the others stays unknown.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

import msgspec
from msgspec import Struct
from ua_parser import Parser
from ua_parser.loaders import load_builtins
from ua_parser.regex import Resolver

from tracker.contract.events import Device
from tracker.intake.context import MAX_CHARS
from tracker.intake.draft import NO_BYTES, Call, Visitor
from tracker.rejections import BOT, Refusal, refuse

MAX_KEPT: Final = 8192

_HEADLESS: Final = re.compile(
    r"Headless|PhantomJS|SlimerJS|Lighthouse|Puppeteer|Playwright|Selenium|jsdom|PTST/|GTmetrix|Cypress/|Prerender"
).search
_SPIDER: Final = re.compile(
    r"[Ss]pider\b|Mediapartners-Google|GoogleOther|Google-Read-Aloud|meta-external|(?:ChatGPT|Claude|Perplexity)-User"
).search
"""Spiders that the parser's rules do not have."""
_TV: Final = re.compile(r"\bTV\b|SmartTV|SMART-TV|AppleTV|BRAVIA|AFT[A-Z]|Roku|CrKey|HbbTV|Web0S|Tizen.*TV").search
_TABLET: Final = re.compile(r"iPad|Tablet|\bTab\b|PlayBook|Kindle|Silk/").search
_DESKTOP: Final = frozenset(("Windows", "Mac OS X", "Linux", "Ubuntu", "Fedora", "Debian", "Chrome OS", "FreeBSD"))

_encode = msgspec.json.Encoder().encode


class Agent(Struct, frozen=True):
    """What one user agent tells."""

    device: bytes = NO_BYTES
    bot: bytes = NO_BYTES


_WEBDRIVER: Final = b'"bot":"webdriver",'

_agents: dict[str, Agent] = {}
"""By user agent; the one that came first goes first."""


def put_device(visitor: Visitor, call: Call) -> None:
    user_agent = visitor.context.user_agent
    if not user_agent and call.source == "client":
        user_agent = call.user_agent[:MAX_CHARS]
    agent = _agents.get(user_agent)
    if agent is None:
        if not call.user_agents_left:
            return
        call.user_agents_left -= 1
        agent = agent_of(user_agent)
        if len(_agents) >= MAX_KEPT:
            del _agents[next(iter(_agents))]
        _agents[user_agent] = agent
    visitor.device, visitor.bot = agent.device, agent.bot


def flag_bot(visitor: Visitor, call: Call) -> Refusal | None:
    if visitor.context.webdriver and not visitor.bot:
        visitor.bot = _WEBDRIVER
    if visitor.bot and call.policy.bots == "drop":
        return refuse(BOT)
    return None


def agent_of(user_agent: str) -> Agent:
    """What the parser finds, in our words; a field that it does not find is absent."""
    found = load().parse(user_agent)
    browser, os, device = found.user_agent, found.os, found.device
    spider = (device is not None and device.family == "Spider") or _SPIDER(user_agent) is not None
    brand = None if device is None or spider else device.brand
    generic = brand is None or brand.startswith("Generic")
    known = Device(
        type="bot" if spider else _form(user_agent, os.family if os else "", brand or ""),
        browser=browser.family if browser else None,
        browser_version=browser.major if browser else None,
        os=os.family if os else None,
        os_version=".".join(part for part in (os.major, os.minor) if part) or None if os else None,
        brand=None if generic else brand,
        model=device.model if device and not spider else None,
    )
    bot = "spider" if spider else "headless" if _HEADLESS(user_agent) else ""
    if known == Device(type="other"):
        return Agent(NO_BYTES, b'"bot":"%s",' % bot.encode() if bot else NO_BYTES)
    return Agent(b'"device":%s,' % _encode(known), b'"bot":"%s",' % bot.encode() if bot else NO_BYTES)


def _form(user_agent: str, os: str, brand: str) -> str:
    if _TV(user_agent):
        return "tv"
    # Browsers on Android say Mobile on telephones alone; apps (Dalvik) on none.
    large = os == "Android" and user_agent.startswith("Mozilla") and "Mobile" not in user_agent
    if large or _TABLET(user_agent) or brand == "Generic_Android_Tablet":
        return "tablet"
    if "Mobi" in user_agent or os in ("Android", "iOS"):
        return "mobile"
    return "desktop" if os in _DESKTOP else "other"


@cache
def load() -> Parser:
    """The parser with the rules that its package carries: 0.3 s, 35 MB."""
    return Parser(Resolver(load_builtins()))
