from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from graftwork.api.app import create_app
from graftwork.api.limits import ServerLimits
from tests.api.fakes import FakeEngine, FakeServices
from tests.api.live import live

# Names are asked for each time: a test that changes what one means does not wait.
LIMITS = ServerLimits(body_bytes=20_000, inputs=50, models=4, text_characters=1_000, lookup_seconds=0)


@dataclass
class Stage:
    """A live server over fakes, and an HTTP client of it."""

    url: str
    http: httpx.Client
    engine: FakeEngine
    services: FakeServices

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return self.http.post(path, json=body, **options)


@pytest.fixture(scope="package")
def shared_stage() -> Iterator[Stage]:
    """One server for all tests over fakes: starting and stopping one takes longer than most of them."""
    engine, services = FakeEngine(), FakeServices()
    app = create_app(services, engine, LIMITS)  # type: ignore[arg-type]
    with live(app) as url, httpx.Client(base_url=url, timeout=30) as http:
        yield Stage(url, http, engine, services)


@pytest.fixture
def stage(shared_stage: Stage) -> Stage:
    """The server over fakes that know nothing of earlier tests."""
    shared_stage.engine.reset()
    shared_stage.services.reset()
    return shared_stage


@pytest.fixture
def problem() -> Callable[[httpx.Response, int, str], dict[str, Any]]:
    """Check that an answer is a whole problem of this status and code, and give it."""

    def check(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
        assert response.headers["content-type"] == "application/problem+json"
        content: dict[str, Any] = response.json()
        assert (response.status_code, content["status"], content["code"]) == (status, status, code)
        assert content["type"] == f"urn:graftwork:problem:{code}"
        assert content["request_id"] == response.headers["x-request-id"]
        assert content["instance"] == f"urn:graftwork:request:{content['request_id']}"
        assert set(content) == {
            *("type", "title", "status", "detail", "instance"),
            *("code", "remedy", "errors", "message", "request_id"),
        }
        assert content["detail"]
        return content

    return check
