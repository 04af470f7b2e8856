"""`graftwork.Client` against a live server over fakes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from graftwork import Client
from graftwork.api.app import create_app
from graftwork.api.limits import ServerLimits
from graftwork.client import Classification, LabelScore
from graftwork.errors import (
    GraftworkError,
    NotFound,
    Problem,
    QueueFull,
    RequestError,
    RequestInvalid,
    RequestTooLarge,
    ServiceUnavailable,
    SettingsInvalid,
)
from tests.api.fakes import BASE, FakeEngine, FakeServices, adapter_version
from tests.api.live import live
from tests.api.test_problems import all_errors


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, FakeEngine, FakeServices]]:
    engine, services = FakeEngine(), FakeServices()
    limits = ServerLimits(body_bytes=1_000_000, inputs=100)
    with live(create_app(services, engine, limits)) as url:  # type: ignore[arg-type]
        yield url, engine, services


@pytest.fixture
def engine(server: tuple[str, FakeEngine, FakeServices]) -> FakeEngine:
    server[1].reset()
    server[2].reset()
    return server[1]


@pytest.fixture
def client(server: tuple[str, FakeEngine, FakeServices], engine: FakeEngine) -> Iterator[Client]:
    with Client(server[0], timeout=10) as client:
        yield client


def test_classify_gives_one_answer_a_text(client: Client) -> None:
    answers = client.classify("acme/news", ["one", "two"], top_k=2)
    assert len(answers) == 2
    assert (answers[0].label, answers[0].score) == ("sport", 0.5)
    assert answers[1] == Classification((LabelScore("sport", 0.5), LabelScore("business", 0.25)))
    assert (answers.model, answers.digest, answers.base, answers.tokens) == (
        *("acme/news@1", "1" * 64, "tiny/bert/v2", 10),
    )
    assert answers.latency_ms > 0
    assert [answer.label for answer in client.classify("acme/news", "one")] == ["sport"]


def test_embed_gives_a_matrix(client: Client) -> None:
    found = client.embed("tiny", ["one", "two"])
    assert found.vectors.dtype == np.float32
    np.testing.assert_array_equal(found.vectors, np.array([[0.5, -1.0, 2.0, 1e-7], [1.5, -1.0, 2.0, 1e-7]], np.float32))
    assert (found.model, found.digest, found.tokens) == ("tiny/bert/v2", BASE, 10)
    assert client.embed("acme/news", "one").model == "acme/news@1"


def test_models_lists_every_page(client: Client, server: tuple[str, FakeEngine, FakeServices]) -> None:
    names = [f"acme/m{i:04}" for i in range(1_500)]
    server[2].catalog.versions = {name: adapter_version(name) for name in names}
    *adapters, base = client.models()
    assert (base.id, base.kind, base.aliases, base.version, base.labels) == (
        "tiny/bert/v2",
        "base",
        ("tiny",),
        None,
        (),
    )
    assert [model.id for model in adapters] == names
    assert (adapters[0].kind, adapters[0].version, adapters[0].labels) == ("adapter", 1, ("business", "sport", "tech"))


def _class_at_the_client(kind: type[GraftworkError]) -> type[GraftworkError]:
    """A client knows the classes of `graftwork.errors`; of others, which rooms keep to themselves, the status tells."""
    if kind.__module__ == "graftwork.errors":
        return kind
    by_status = {404: NotFound, 503: ServiceUnavailable}
    return by_status.get(kind.status, RequestError)


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_errors_come_back_as_the_class_they_were(
    client: Client, engine: FakeEngine, kind: type[GraftworkError]
) -> None:
    sent = kind("what", remedy="do", problems=[Problem("row 3", "is empty")], retry_after=3)
    engine.refusal = sent
    with pytest.raises(GraftworkError) as got:
        client.classify("acme/news", "one")
    assert type(got.value) is _class_at_the_client(kind)
    assert got.value.retry_after == 3
    assert "request id: " in got.value.__notes__[0]
    if kind is not GraftworkError:
        assert (got.value.message, got.value.remedy, got.value.problems) == ("what", "do", sent.problems)


def test_mistakes_are_listed_with_their_place(client: Client) -> None:
    with pytest.raises(RequestInvalid) as got:
        client.classify("acme/news", ["fine", "lone \ud800", "nul \x00"])
    assert [problem.where for problem in got.value.problems] == ["#/inputs/1", "#/inputs/2"]
    with pytest.raises(NotFound, match="no adapter named 'acme/none'"):
        client.classify("acme/none", "one")
    with pytest.raises(RequestTooLarge, match="101 texts"):
        client.classify("acme/news", ["a"] * 101)


def test_a_body_over_the_limit_is_told_and_not_a_broken_connection(client: Client) -> None:
    with pytest.raises(RequestTooLarge, match="1000000 bytes"):
        client.classify("acme/news", ["a" * 90_000] * 90)
    assert client.classify("acme/news", "one")[0].label == "sport"


def test_nobody_there(engine: FakeEngine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client:
        assert client.healthy() is False
        with pytest.raises(ServiceUnavailable, match="graft serve"):
            client.classify("acme/news", "one")


def test_no_answer_in_time(server: tuple[str, FakeEngine, FakeServices], engine: FakeEngine) -> None:
    engine.held = True
    with Client(server[0], timeout=0.2) as client, pytest.raises(ServiceUnavailable, match=r"within 0\.2 s"):
        client.classify("acme/news", "one")


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 502 Bad\r\ncontent-length: 6\r\n\r\n<html>", b"HTTP/1.1 200 OK\r\n\r\nhi"]
)
def test_a_server_that_is_not_ours(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def reply() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(answer)

        replying = threading.Thread(target=reply)
        replying.start()
        client = Client("http://{}:{}".format(*listener.getsockname()))
        with client, pytest.raises(ServiceUnavailable, match="Check that a Graftwork server listens there"):
            client.models()
        replying.join()


def test_healthy(client: Client) -> None:
    assert client.healthy() is True


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "", "ftp://here", "http://"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(SettingsInvalid):
        Client(url)


def test_queue_full_is_for_the_caller_to_retry(client: Client, engine: FakeEngine) -> None:
    engine.refusal = QueueFull("full", retry_after=0.5)
    with pytest.raises(QueueFull) as got:
        client.classify("acme/news", "one")
    assert isinstance(got.value, RequestError)
    assert got.value.retry_after == 1.0
