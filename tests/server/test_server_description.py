"""The OpenAPI page is complete, and the server keeps to it whatever it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from server_helpers import Running

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
)


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


@pytest.fixture(scope="module")
def schema(server: Running) -> Iterator[object]:
    return schemathesis.openapi.from_url(f"{server.url}/v1/openapi.json")


lazy = schemathesis.pytest.from_fixture("schema")


@lazy.exclude(path="/v1/jobs/{job}/events").parametrize()
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_server_keeps_to_its_description(case: schemathesis.Case, root: Path) -> None:
    if "name" in case.path_parameters and len(str(case.path_parameters["name"])) % 2:
        case.path_parameters["name"] = "small"
    case.call_and_validate(checks=CHECKS)
