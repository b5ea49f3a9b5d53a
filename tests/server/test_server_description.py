"""The OpenAPI page is complete, and the server keeps to it whatever it is asked."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import urlencode

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from server_helpers import Running

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)
# Uvicorn reads 64 KiB of a request before its body, h11's limit.
LONGEST_QUERY = 60_000


def test_every_route_is_described(http: httpx.Client) -> None:
    described = http.get("/v1/openapi.json").json()
    problems = {"$ref": "#/components/schemas/Problem"}
    for path, methods in described["paths"].items():
        for method, one in methods.items():
            assert one["summary"], (method, path)
            assert one["description"], (method, path)
            assert one["tags"], (method, path)
            answers = one["responses"]
            assert any(status.startswith("2") for status in answers), (method, path)
            for status in ("401", "413", "421", "429", "500", "503"):
                content = answers[status]["content"]["application/problem+json"]
                assert content["schema"] == problems
    assert {"Problem", "SearchRequest", "Hits", "NewItems"} <= described["components"][
        "schemas"
    ].keys()
    assert "HTTPValidationError" not in described["components"]["schemas"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", schemathesis.GenerationMode)
def test_the_server_keeps_to_its_description(
    server: Running, mode: schemathesis.GenerationMode
) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/v1/openapi.json")
    asked = 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @given(operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=10,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def keeps(case: schemathesis.Case) -> None:
            nonlocal asked
            asked += 1
            # Or nearly every answer would be that there is no such collection.
            if "name" in (case.path_parameters or {}):
                case.path_parameters["name"] = "small"
            # Of a longer one the server ends the connection, and who still sends sees only that.
            assume(len(urlencode(case.query or {}, doseq=True)) < LONGEST_QUERY)
            case.call_and_validate(checks=CHECKS)

        # A question without a parameter cannot be asked wrongly.
        with suppress(Unsatisfiable):
            keeps()
    assert asked > 100
