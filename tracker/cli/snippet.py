"""`tracker snippet`: what a page pastes into its head, ready for this installation."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256, sha384
from html import escape
from typing import Final
from urllib.parse import quote, urlsplit

import click

from tracker.cli.common import Failure
from tracker.contract.loading import load
from tracker.contract.settings import DEMO_SITE, Settings
from tracker.snippet import STATIC, build_path

NAME: Final = "tracker"
"""The page's global, as the stub is built."""


@click.command()
@click.option("--site", default=DEMO_SITE, show_default=True, metavar="NAME", help="Whose write key it carries.")
@click.option("--url", metavar="URL", help="Where browsers reach the endpoint. Default: public_url, else http_host.")
@click.option("--lite", "build", flag_value=".lite", help="The smallest build: page, track, identify.")
@click.option("--full", "build", flag_value=".full", help="The build with engagement, clicks, forms and popups.")
@click.option("--consent", is_flag=True, help="Nothing is stored or sent before tracker.consent(true).")
@click.option(
    "--global", "name", default=NAME, show_default=True, metavar="NAME", help="`analytics`: for Segment's calls."
)
@click.option("--no-spa", is_flag=True, help="Page views are told by calls of tracker.page() alone.")
@click.option("--csp", is_flag=True, help="Also print what the page's Content-Security-Policy must allow.")
@click.option("--nonce", metavar="TEXT", help="Nonce of the policy, for example '{{ nonce }}' of your templates.")
@click.option("--sri", is_flag=True, help="With the script's hash: print it again after each upgrade.")
def snippet(
    site: str,
    url: str | None,
    build: str | None,
    consent: bool,
    name: str,
    no_spa: bool,
    csp: bool,
    nonce: str | None,
    sri: bool,
) -> None:
    """Print the script tags for the head of your pages."""
    settings = load(demo=True) if site == DEMO_SITE else load()
    if site not in settings.sites:
        raise Failure(f"there is no site {site!r}; configured: {', '.join(settings.sites) or 'none'}")
    base = (url or settings.public_url or f"http://{settings.http_host}:{settings.http_port}").rstrip("/")
    if urlsplit(base).scheme not in ("http", "https") or not urlsplit(base).netloc:
        raise click.UsageError(f"--url {base}: not an address as https://t.shop.example")
    if not re.fullmatch(r"[A-Za-z_$][\w$]*", name, re.ASCII):
        raise click.UsageError(f"--global {name}: not a name as analytics")
    more = {"consent": "required"} if consent else {}
    if name != NAME:
        more["global"] = name
    if not (no_spa or build == ".lite"):
        more["spa"] = ""
    if settings.sites[site].cookie_domain and build != ".lite":
        more["cookie"] = "server"
    click.echo(tags(settings, settings.sites[site].write_key, base, build or "", more, nonce, sri))
    if csp:
        click.echo(policy(base, nonce, name))


def tags(
    settings: Settings, write_key: str, base: str, build: str, options: dict[str, str], nonce: str | None, sri: bool
) -> str:
    """`options`: data attributes without `data-`."""
    batch_path = settings.batch_path or "/v1/batch"
    if settings.batch_path:
        options = {"path": batch_path, **options}
    attributes = {
        "id": tag_id(options.get("global", NAME)),
        "src": base + build_path(settings.snippet_path, build),
        "data-write-key": write_key,
        "data-to": f"{base}{batch_path}?writeKey={quote(write_key)}",
        **{f"data-{name}": value for name, value in options.items()},
    }
    if sri:
        digest = sha384((STATIC / f"t{build}.js").read_bytes()).digest()
        attributes |= {"integrity": f"sha384-{b64encode(digest).decode()}", "crossorigin": "anonymous"}
    own = {"nonce": nonce} if nonce else {}
    name = options.get("global", NAME)
    lines = [f"<script {_attributes(attributes | own)} async></script>", _inline(stub(name), own)]
    if "spa" not in options:
        lines.append(_inline(f"{name}.page()", own))
    return "\n".join(lines)


def policy(base: str, nonce: str | None, name: str = NAME) -> str:
    """The sources that the tags need; `tracker.page()` of your own is one more hash."""
    parts = urlsplit(base)
    origin = f"{parts.scheme}://{parts.netloc}"
    inline = (stub(name), f"{name}.page()")
    hashes = " ".join(f"'sha256-{b64encode(sha256(s.encode()).digest()).decode()}'" for s in inline)
    scripts = f"'nonce-{nonce}'" if nonce else hashes
    return f"\nContent-Security-Policy: script-src {origin} {scripts}; connect-src {origin}"


def stub(name: str = NAME) -> str:
    """`name`: the page's global."""
    text = (STATIC / "stub.js").read_text("utf-8").strip()
    return text.replace(f"self.{NAME}", f"self.{name}").replace(f".{tag_id(NAME)}.", f".{tag_id(name)}.")


def tag_id(name: str) -> str:
    """By which the stub finds its tag. Under another global there may be another site's on the page."""
    return "trk" if name == NAME else f"trk_{name}"


def _inline(code: str, attributes: dict[str, str]) -> str:
    return f"<script{' ' + _attributes(attributes) if attributes else ''}>{code}</script>"


def _attributes(values: dict[str, str]) -> str:
    return " ".join(f'{name}="{escape(value)}"' if value else name for name, value in values.items())
