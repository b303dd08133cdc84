"""requirements/*.txt are what pyproject.toml asks for: pinned, hashed, and naming no place to get them from."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.harness import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def pins(name: str) -> dict[str, str]:
    """Package -> version."""
    text = (ROOT / "requirements" / name).read_text("utf-8")
    return {canonicalize_name(m[1]): m[2] for m in re.finditer(r"^([\w.-]+)==([^ \\]+)", text, re.MULTILINE)}


def extras(*names: str) -> list[str]:
    """All when none is named."""
    declared = PROJECT["optional-dependencies"]
    return [*PROJECT["dependencies"], *(r for name in names or declared for r in declared[name])]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("runtime.txt", extras("fit")), ("run.txt", extras("fit", "embedded")), ("dev.txt", extras())],
)
def test_every_dependency_is_pinned_within_what_the_project_allows(name: str, wanted: list[str]) -> None:
    pinned = pins(name)
    for requirement in map(Requirement, wanted):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in requirements/{name}: run `make lock`"
        assert requirement.specifier.contains(version), f"{requirement} against {version}: run `make lock`"


@pytest.mark.parametrize("name", ["build.txt", "runtime.txt", "run.txt"])
def test_who_runs_it_gets_the_versions_that_were_tested(name: str) -> None:
    tested = pins("dev.txt")
    assert {package: tested.get(package) for package in pins(name)} == pins(name)


@pytest.mark.parametrize(
    "file",
    [
        *(f"requirements/{name}.txt" for name in ("build", "runtime", "run", "dev")),
        *(f"tests/clients/python/{name}.txt" for name in ("requirements", "requirements-old")),
        "bench/peers/requirements.txt",
    ],
)
def test_every_pin_has_hashes_and_no_place_is_named(file: str) -> None:
    text = (ROOT / file).read_text("utf-8")
    for block in re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in block, block.splitlines()[0]
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links| @ ", text)
