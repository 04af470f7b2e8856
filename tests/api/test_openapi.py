"""The OpenAPI document says what the server does."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from graftwork.api import schemas
from graftwork.api.app import create_app
from tests.api.fakes import FakeEngine, FakeServices

METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    app: FastAPI = create_app(FakeServices(), FakeEngine())  # type: ignore[arg-type]
    return app.openapi()


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]


def test_every_route_is_there(document: dict[str, Any]) -> None:
    assert {(method, path) for path, method, _ in operations(document)} == {
        ("post", "/v1/classify"),
        ("post", "/predict/{tenant}/{name}"),
        ("post", "/v1/embeddings"),
        ("get", "/v1/models"),
        ("get", "/v1/models/{model}"),
        ("get", "/healthz"),
        ("get", "/readyz"),
        ("get", "/metrics"),
    }


def test_every_route_documents_its_answer_and_its_problems(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        responses = operation["responses"]
        assert operation["summary"], path
        assert operation["description"], path
        assert "500" in responses, path
        if method == "post":
            assert set(responses) == {
                *("200", "404", "408", "409", "413", "415", "422", "429", "500", "503", "504", "507")
            }
            assert operation["requestBody"]["required"] is True
        for status, response in responses.items():
            kind, content = next(iter(response["content"].items()))
            if status == "200":
                assert kind == ("text/plain" if path == "/metrics" else "application/json")
            else:
                assert (kind, len(response["content"])) == ("application/problem+json", 1), (path, status)
                assert content["schema"] == {"$ref": "#/components/schemas/ProblemDetails"}


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(references(value) for value in node.values()))
    return set().union(*(references(value) for value in node)) if isinstance(node, list) else set()


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references(document) <= known
    assert not {"HTTPValidationError", "ValidationError"} & set(document["components"]["schemas"])


def shapes() -> list[type[BaseModel]]:
    found = [item for item in vars(schemas).values() if isinstance(item, type) and issubclass(item, BaseModel)]
    return [shape for shape in found if shape.model_config.get("json_schema_extra")]


@pytest.mark.parametrize("shape", shapes(), ids=lambda shape: shape.__name__)
def test_examples_validate(document: dict[str, Any], shape: type[BaseModel]) -> None:
    examples = document["components"]["schemas"][shape.__name__]["examples"]
    assert examples
    for example in examples:
        shape.model_validate(example)


def test_inputs_are_documented_as_a_text_or_texts_or_media(document: dict[str, Any]) -> None:
    field = document["components"]["schemas"]["ClassifyRequest"]["properties"]["inputs"]
    media = [{"$ref": f"#/components/schemas/{name}"} for name in ("ImageInput", "AudioInput")]
    items = {"anyOf": [{"type": "string"}, *media]}
    assert field["anyOf"] == [{"type": "string"}, {"type": "array", "items": items}]
    assert {"ImageInput", "AudioInput"} <= document["components"]["schemas"].keys()
    body = document["paths"]["/v1/classify"]["post"]["requestBody"]["content"]
    assert body["multipart/form-data"]["schema"] == {"$ref": "#/components/schemas/ClassifyForm"}
