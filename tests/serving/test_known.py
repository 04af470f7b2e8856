"""Texts whose vectors are known are answered at admission; the same texts for several adapters are prepared once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from graftwork.backbones.backbone import Backbone
from graftwork.errors import (
    ArtifactInvalid,
    DeadlineExceeded,
    NotFound,
    QueueFull,
    RequestInvalid,
    RequestTooLarge,
    ServiceUnavailable,
)
from graftwork.serving.engine import Ask, Engine, EngineLimits
from tests.serving.builders import TEXTS, Made, Spec, make

WAIT = 30


@pytest.fixture
def heads(bert: Backbone, made: Callable[..., Made]) -> list[Made]:
    return [made(bert, Spec(seed=seed, targets=None, classes=2 + seed)) for seed in range(3)]


@pytest.fixture
def upper(bert: Backbone, made: Callable[..., Made]) -> list[Made]:
    """Adapters of the last layer: two thirds of the network are the same for both."""
    return [made(bert, Spec(seed=seed, layers=(2,))) for seed in (21, 22)]


@pytest.fixture
def engine_of(bert: Backbone) -> Iterator[Callable[..., Engine]]:
    """Engines without their thread, over adapters in host memory: a test steps them."""
    engines: list[Engine] = []

    def build(*adapters: Made, **limits: Any) -> Engine:
        by_digest = {adapter.digest: adapter.artifact for adapter in adapters}

        def read(digest: str) -> Any:
            if digest not in by_digest:
                raise NotFound(f"no adapter {digest}")
            return by_digest[digest]

        engine = Engine(lambda _: bert, read, EngineLimits(**limits))
        engines.append(engine)
        base = engine._bases.open(bert.fingerprint)
        for adapter in adapters:
            engine._adapters.load(adapter.key, bert, base.places).result(timeout=WAIT)
        return engine

    yield build
    for engine in engines:
        engine.close(drain=False)


def ask(engine: Engine, adapter: Made, texts: Any = TEXTS, *, tenant: str = "acme", **options: Any) -> Future[Any]:
    return engine.classify(tenant, adapter.backbone.fingerprint, adapter.digest, texts, **options)


def asks(*adapters: Made) -> list[Ask]:
    return [Ask(f"tenant{i}", made.backbone.fingerprint, made.digest) for i, made in enumerate(adapters)]


def finish(engine: Engine) -> None:
    while engine.step():
        pass


def close_to(answer: Any, adapter: Made, texts: Any = TEXTS) -> None:
    wanted = [adapter.probabilities(text) for text in texts]
    np.testing.assert_allclose(answer.probabilities, wanted, rtol=1e-5, atol=1e-5)
    assert answer.digest == adapter.digest


def test_a_text_that_is_known_is_answered_without_a_turn_for_any_head(
    engine_of: Callable[..., Engine], heads: list[Made]
) -> None:
    engine = engine_of(*heads)
    first = ask(engine, heads[0])
    assert not first.done()
    finish(engine)
    tokens = first.result(timeout=0).tokens
    for head in heads:
        again = ask(engine, head, [*TEXTS, TEXTS[0]])
        assert again.done()
        close_to(again.result(), head, [*TEXTS, TEXTS[0]])
        once = ask(engine, head, TEXTS[:1]).result(timeout=0).tokens
        assert again.result().tokens == tokens + once
    stats = engine.stats()
    assert (stats.requests, stats.answers, stats.known_answers, stats.queue_depth) == (7, 7, 6, 0)
    assert (stats.batches, stats.rows, stats.step_seconds["tokenise"].count) == (1, len(TEXTS), 1)
    assert stats.embedding_hits == 3 * (len(TEXTS) + 2)
    assert sum(stats.tenant_texts.values()) == len(TEXTS) + 3 * (len(TEXTS) + 2)
    assert sum(stats.tenant_tokens.values()) == tokens + 3 * (tokens + 2 * once)


def test_without_a_future_what_is_known_is_the_same_and_what_is_not_is_none(
    engine_of: Callable[..., Engine], heads: list[Made], upper: list[Made], bert: Backbone
) -> None:
    engine = engine_of(heads[0], upper[0])

    def known(adapter: Made, texts: Sequence[str]) -> Any:
        (answer,) = engine.classify_known(asks(adapter), [texts])
        return answer

    assert known(heads[0], TEXTS) is None
    ask(engine, heads[0])
    finish(engine)
    for texts in (TEXTS[:1], TEXTS, [TEXTS[0]] * 3):
        close_to(known(heads[0], texts), heads[0], texts)
        np.testing.assert_array_equal(known(heads[0], texts).logits, ask(engine, heads[0], texts).result().logits)
    assert known(heads[0], [*TEXTS, "a new one"]) is None
    assert known(upper[0], TEXTS) is None  # its own vectors are not
    assert known(heads[1], TEXTS) is None  # it was never loaded
    engine.close()
    with pytest.raises(ServiceUnavailable, match="stopping"):
        known(heads[0], TEXTS)


def test_one_new_text_sends_the_whole_request_to_the_queue(engine_of: Callable[..., Engine], heads: list[Made]) -> None:
    engine = engine_of(*heads)
    ask(engine, heads[0], TEXTS[:2])
    finish(engine)
    mixed = ask(engine, heads[0], TEXTS[:3])
    assert not mixed.done()
    finish(engine)
    close_to(mixed.result(timeout=0), heads[0], TEXTS[:3])
    assert engine.stats().computed_rows == 3


def test_a_lora_adapters_own_texts_are_known_and_nobody_elses(
    engine_of: Callable[..., Engine], upper: list[Made]
) -> None:
    engine = engine_of(*upper)
    ask(engine, upper[0])
    finish(engine)
    again, other = ask(engine, upper[0]), ask(engine, upper[1])
    assert (again.done(), other.done()) == (True, False)
    close_to(again.result(), upper[0])
    finish(engine)
    close_to(other.result(timeout=0), upper[1])


def test_known_vectors_are_answered_at_once_too_as_they_are_wanted(
    engine_of: Callable[..., Engine], heads: list[Made], bert: Backbone
) -> None:
    engine = engine_of(*heads)
    engine.embed("acme", bert.fingerprint, TEXTS, normalize=True)
    finish(engine)
    known = engine.embed("acme", bert.fingerprint, TEXTS, normalize=True)
    other = engine.embed("acme", bert.fingerprint, TEXTS, normalize=False)
    assert (known.done(), other.done()) == (True, False)
    np.testing.assert_allclose(np.linalg.norm(known.result().vectors, axis=1), 1, rtol=1e-5)
    known.result().vectors[:] = 0  # the caller's own
    assert engine.embed("acme", bert.fingerprint, TEXTS, normalize=True).result(timeout=0).vectors.any()


def test_a_known_text_waits_for_nobody_and_a_full_queue_does_not_refuse_it(
    engine_of: Callable[..., Engine], heads: list[Made]
) -> None:
    engine = engine_of(*heads, queue_texts=2)
    ask(engine, heads[0], TEXTS[:1])
    finish(engine)
    ask(engine, heads[0], TEXTS[2:4])
    with pytest.raises(QueueFull):
        ask(engine, heads[0], TEXTS[4:5])
    assert ask(engine, heads[0], TEXTS[:1]).done()
    with pytest.raises(RequestTooLarge):
        ask(engine, heads[0], [TEXTS[0]] * 3)


def test_deadlines_and_the_end_of_the_engine_hold_for_what_is_known(
    engine_of: Callable[..., Engine], heads: list[Made]
) -> None:
    engine = engine_of(*heads)
    ask(engine, heads[0])
    finish(engine)
    late = ask(engine, heads[0], deadline=time.monotonic() - 1)
    finish(engine)
    with pytest.raises(DeadlineExceeded):
        late.result(timeout=0)
    engine.close()
    with pytest.raises(ServiceUnavailable, match="stopping"):
        ask(engine, heads[0])
    assert engine.stats().refusals == {"deadline-exceeded": 1, "unavailable": 1}


def test_a_head_that_overflows_is_told_by_who_computes(engine_of: Callable[..., Engine], bert: Backbone) -> None:
    wild = make(bert, Spec(seed=5, targets=None, temperature=1e-44))
    engine = engine_of(wild)
    engine.embed("acme", bert.fingerprint, TEXTS, adapter=wild.digest)
    finish(engine)
    answer = ask(engine, wild)
    assert not answer.done()
    finish(engine)
    with pytest.raises(ArtifactInvalid, match="NaN or infinity"):
        answer.result(timeout=0)


def test_several_adapters_share_tokens_and_trunk_in_one_batch(
    engine_of: Callable[..., Engine], heads: list[Made], upper: list[Made]
) -> None:
    engine = engine_of(*heads, *upper)
    adapters = [*heads, *upper]
    futures = engine.classify_each(asks(*adapters), TEXTS)
    assert not any(future.done() for future in futures)
    finish(engine)
    for adapter, future in zip(adapters, futures, strict=True):
        close_to(future.result(timeout=0), adapter)
    stats = engine.stats()
    # One trunk a text; above it the base's own row for all heads, and one for each of two LoRAs.
    lengths = [len(ids) for ids in adapters[0].backbone.encode(TEXTS, 32)]
    assert stats.trunk_rows == len(TEXTS)
    assert stats.computed_rows == 3 * len(TEXTS)
    assert stats.tokens == 5 * sum(lengths)


def test_each_text_is_tokenised_once_for_all(
    engine_of: Callable[..., Engine], heads: list[Made], bert: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    encode = bert.encode

    def watched(_: Backbone, texts: Sequence[str], limit: int | None = None) -> Sequence[Sequence[int]]:
        seen.extend(texts)
        return encode(texts, limit)

    monkeypatch.setattr(type(bert), "encode", watched)
    engine = engine_of(*heads)
    engine.classify_each(asks(*heads), [TEXTS[0], TEXTS[1], TEXTS[0]])
    finish(engine)
    assert seen == [TEXTS[0], TEXTS[1]]


def test_what_fails_among_several_fails_alone(engine_of: Callable[..., Engine], heads: list[Made]) -> None:
    engine = engine_of(*heads, queue_texts=len(TEXTS))
    ask(engine, heads[0], ["something else"], tenant="tenant1")
    missing = Ask("acme", heads[0].backbone.fingerprint, "0" * 64)
    futures = engine.classify_each([*asks(*heads), missing], TEXTS)
    with pytest.raises(QueueFull):
        futures[1].result(timeout=0)
    with pytest.raises(NotFound):
        futures[3].result(timeout=WAIT)
    finish(engine)
    for index in (0, 2):
        close_to(futures[index].result(timeout=0), heads[index])
    with pytest.raises(RequestInvalid):
        engine.classify_each(asks(*heads), [])
