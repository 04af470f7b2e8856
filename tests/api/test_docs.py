"""docs/http.md names everything that is there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from graftwork.api import problems
from graftwork.api.app import create_app
from graftwork.api.limits import ServerLimits
from graftwork.errors import GraftworkError
from tests.api.fakes import FakeEngine, FakeServices

PAGE = (Path(__file__).parents[2] / "docs" / "http.md").read_text(encoding="utf-8")


def test_routes_limits_and_codes_are_documented() -> None:
    document = create_app(FakeServices(), FakeEngine()).openapi()  # type: ignore[arg-type]
    routes = [f"`{method.upper()} {path}`" for path, item in document["paths"].items() for method in item]
    limits = [f"| `{field.name}` |" for field in dataclasses.fields(ServerLimits)]
    own = [kind for kind in vars(problems).values() if isinstance(kind, type) and issubclass(kind, GraftworkError)]
    codes = [f"`{kind.code}` ({kind.status})" for kind in own if kind.__module__ == problems.__name__]
    members = [f"`{name}`" for name in document["components"]["schemas"]["ProblemDetails"]["properties"]]
    assert len(codes) == 5
    assert [words for words in (*routes, *limits, *codes, *members) if words not in PAGE] == []
