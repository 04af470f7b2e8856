"""Health, metrics, request ids, logs."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from graftwork.api.logs import JsonFormatter, LineHandler, log_to
from graftwork.serving.stats import EngineStats
from tests.api.conftest import Stage

Check = Callable[[httpx.Response, int, str], dict[str, Any]]
BODY = {"model": "acme/news", "inputs": "a secret text"}


def test_alive_and_ready(stage: Stage, problem: Check) -> None:
    assert stage.http.get("/healthz").json() == {"status": "ok"}
    assert stage.http.get("/readyz").json() == {"status": "ready"}
    stage.engine.readiness = (False, "the engine's thread has died")
    assert stage.http.get("/healthz").status_code == 200
    assert problem(stage.http.get("/readyz"), 503, "unavailable")["detail"] == "the engine's thread has died"


def samples(stage: Stage) -> dict[str, float]:
    text = stage.http.get("/metrics").text
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_requests_are_counted_by_route_method_and_status(stage: Stage) -> None:
    before = samples(stage)
    stage.post("/v1/classify", BODY)
    stage.post("/v1/classify", {})
    stage.post("/predict/acme/news", {"inputs": "a"})
    stage.http.get("/nowhere/acme")
    stage.http.request("PROPFIND", "/healthz")
    found = {name: value - before.get(name, 0) for name, value in samples(stage).items()}
    name = "graftwork_http_requests_total"
    assert found[f'{name}{{method="POST",route="/v1/classify",status="200"}}'] == 1
    assert found[f'{name}{{method="POST",route="/v1/classify",status="422"}}'] == 1
    assert found[f'{name}{{method="POST",route="/predict/{{tenant}}/{{name}}",status="200"}}'] == 1
    assert found[f'{name}{{method="GET",route="unknown",status="404"}}'] == 1
    assert found[f'{name}{{method="OTHER",route="/healthz",status="405"}}'] == 1
    assert found['graftwork_http_request_seconds_count{route="/v1/classify"}'] == 2
    assert not [name for name in found if "acme" in name or "news" in name]


def test_every_number_of_the_engine_is_exported(stage: Stage) -> None:
    meter = stage.engine.meter
    meter.add(requests=7, tokens=90)
    meter.refused("queue-full")
    meter.loaded(0.002, None)
    meter.loaded(9.0, "blob-damaged")
    meter.spent("trunk", 0.02)
    found = samples(stage)
    for field in dataclasses.fields(EngineStats):
        name = f"graftwork_engine_{field.name}"
        assert [sample for sample in found if re.fullmatch(rf"{name}(_total|_count|_bucket|)(\{{.*\}})?", sample)], name
    assert found["graftwork_engine_requests_total"] == 7
    assert found["graftwork_engine_tokens_total"] == 90
    assert found['graftwork_engine_refusals_total{code="queue-full"}'] == 1
    assert found['graftwork_engine_load_failures_total{code="blob-damaged"}'] == 1
    assert found["graftwork_engine_queue_depth"] == 2
    assert found["graftwork_engine_load_seconds_count"] == 2
    assert found["graftwork_engine_load_seconds_sum"] == 9.002
    assert found['graftwork_engine_load_seconds_bucket{le="0.0025"}'] == 1
    assert found['graftwork_engine_load_seconds_bucket{le="+Inf"}'] == 2
    assert found['graftwork_engine_step_seconds_bucket{le="0.025",phase="trunk"}'] == 1


def test_sane_request_ids_are_kept_and_others_replaced(stage: Stage) -> None:
    for sane in ("abc-123", "A.b_c:9", "x" * 128):
        assert stage.http.get("/healthz", headers={"X-Request-ID": sane}).headers["x-request-id"] == sane
    for bad in ("", "two words", "x" * 129, "a=b", '"quoted"'):
        given = stage.http.get("/healthz", headers={"X-Request-ID": bad}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", given)
    first, second = (stage.http.get("/healthz").headers["x-request-id"] for _ in range(2))
    assert first != second


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("graftwork")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(before)


def test_access_lines_tell_the_request_and_not_its_text(stage: Stage, log: io.StringIO) -> None:
    stage.post("/v1/classify?key=sk-123", BODY, headers={"X-Request-ID": "mine", "Authorization": "Bearer sk-456"})
    stage.http.get("/healthz")  # its line comes after the first request's, which is then surely written
    line = json.loads(log.getvalue().splitlines()[0])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line.pop("time"))
    assert 0 < line.pop("ms") < 30_000
    assert line == {
        "level": "info",
        "logger": "graftwork.access",
        "message": "request",
        "request_id": "mine",
        "route": "/v1/classify",
        "method": "POST",
        "status": 200,
    }
    assert not re.search("secret|sk-", log.getvalue())


def test_logs_go_where_the_entry_point_says(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    for name in ("graftwork", "uvicorn.error"):
        logger = logging.getLogger(name)
        for attribute in ("handlers", "level", "propagate"):
            monkeypatch.setattr(logger, attribute, getattr(logger, attribute))
    log_to(stream)
    logging.getLogger("graftwork.access").info("request", extra={"status": 200, "text": "a secret text"})
    logging.getLogger("graftwork.access").debug("too much")
    logging.getLogger("uvicorn.error").info("too much")
    logging.getLogger("uvicorn.error").warning("it is late: %s", "12:00")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["logger"], line["message"], line.get("status")) for line in lines] == [
        ("graftwork.access", "request", 200),
        ("uvicorn.error", "it is late: 12:00", None),
    ]
    assert "secret" not in stream.getvalue()


def test_a_failure_is_one_line_with_its_traceback(stage: Stage, log: io.StringIO) -> None:
    stage.services.catalog.failure = ZeroDivisionError("boom")
    request_id = stage.post("/v1/classify", BODY).json()["request_id"]
    stage.http.get("/healthz")
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    failure = next(line for line in lines if line["level"] == "error")
    assert failure["request_id"] == request_id
    assert failure["traceback"].endswith("ZeroDivisionError: boom")
    assert "secret" not in log.getvalue()


class Watched(io.StringIO):
    """Tells when something was written, and may break."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()
        self.broken = False

    def write(self, text: str) -> int:
        self.written.set()
        if self.broken:
            raise BrokenPipeError
        return super().write(text)


def ordinary(number: int) -> logging.LogRecord:
    return logging.LogRecord("graftwork", logging.INFO, "", 0, f"line {number}", None, None)


def test_ordinary_lines_are_written_soon_and_worse_ones_at_once_after_them() -> None:
    stream = Watched()
    handler = LineHandler(stream)
    handler.handle(ordinary(1))
    assert stream.written.wait(10)
    for number in (2, 3):
        handler.handle(ordinary(number))
    handler.handle(logging.LogRecord("graftwork", logging.ERROR, "", 0, "line 4", None, None))
    assert stream.getvalue().splitlines() == ["line 1", "line 2", "line 3", "line 4"]


def test_a_log_that_nobody_reads_any_more_is_dropped() -> None:
    stream = Watched()
    stream.broken = True
    handler = LineHandler(stream)
    handler.handle(ordinary(1))
    handler._writer.join(10)
    assert not handler._writer.is_alive()
    for number in range(100):
        handler.handle(ordinary(number))
    assert handler._lines == []
