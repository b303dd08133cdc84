"""`tracker snippet`: the tags under another global, and the hash of what is printed."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256

import pytest
from click.testing import CliRunner

from tracker.cli.snippet import snippet
from tracker.contract.settings import Settings
from tracker.contract.sites import Site


@pytest.fixture(autouse=True)
def demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKER_DEMO", "1")


@pytest.mark.parametrize("name", ["tracker", "analytics", "$t1"])
def test_the_printed_hashes_are_those_of_the_printed_scripts(name: str) -> None:
    done = CliRunner().invoke(snippet, ["--csp", "--no-spa", "--global", name])
    assert done.exit_code == 0, done.output
    inline = re.findall(r"<script>(.*?)</script>", done.output)
    assert len(inline) == 2
    assert f"self.{name}=self.{name}||" in inline[0]
    assert inline[1] == f"{name}.page()"
    # Under another name there may be another site's tags on the page: each stub finds its own.
    tag = "trk" if name == "tracker" else f"trk_{name}"
    assert f'<script id="{tag}" ' in done.output
    assert f".{tag}.dataset" in inline[0]
    assert ("tracker" in inline[0]) == (name == "tracker")
    assert (f'data-global="{name}"' in done.output) == (name != "tracker")
    for script in inline:
        assert f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" in done.output


@pytest.mark.parametrize("name", ["", "a b", "1a", "a;alert(1)", "a</script>", "đ"])
def test_what_is_no_name_is_refused_in_a_word(name: str) -> None:
    done = CliRunner().invoke(snippet, ["--global", name])
    assert done.exit_code == 2
    assert "not a name as analytics" in done.output


@pytest.mark.parametrize(("domain", "build", "told"), [("shop.vn", [], 1), ("shop.vn", ["--lite"], 0), ("", [], 0)])
def test_a_site_whose_cookie_the_endpoint_sets_has_tags_that_ask_for_it(
    monkeypatch: pytest.MonkeyPatch, domain: str, build: list[str], told: int
) -> None:
    site = Site(write_key="k-123456", secret_key="sk-123456", cookie_domain=domain)
    monkeypatch.setattr("tracker.cli.snippet.load", lambda **_: Settings(sites={"shop": site}))
    done = CliRunner().invoke(snippet, ["--site", "shop", *build])
    assert done.exit_code == 0, done.output
    assert done.output.count('data-cookie="server"') == told
