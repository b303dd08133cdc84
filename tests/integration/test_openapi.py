"""/openapi.json against the endpoint: schemathesis makes requests of it, good and bad ones, and the answers are as it
says.

SCHEMATHESIS_EXAMPLES=300 makes it a long run.
"""

from __future__ import annotations

import base64
import os
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode, checks
from schemathesis.core.result import Ok

from tests.harness import Stack
from tracker.routes import ROUTES

pytestmark = pytest.mark.integration

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "6"))
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_answers_are_as_the_document_says(stack: Stack, mode: GenerationMode) -> None:
    site = stack.sites[0]
    basic = base64.b64encode(f"{site.write_key}:".encode()).decode()
    api = schemathesis.openapi.from_url(f"{stack.http}/openapi.json")
    statuses: dict[str, set[int]] = {}
    for found in api.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()

        @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
        @given(operation.as_strategy(generation_mode=mode))
        def answers(case: schemathesis.Case[Any]) -> None:
            if case.method == "GET":
                key = f"Bearer {site.secret_key}"
                if mode is GenerationMode.POSITIVE:
                    case.path_parameters["site"] = site.name
            else:
                key = f"Basic {basic}"
            response = case.call_and_validate(headers={"Authorization": key}, checks=CHECKS)
            statuses.setdefault(case.path, set()).add(response.status_code)

        answers()
    assert set(ROUTES) <= set(statuses)
    # The requests got past the keys.
    assert not {401, 403} & set().union(*(found for path, found in statuses.items() if path in ROUTES))
