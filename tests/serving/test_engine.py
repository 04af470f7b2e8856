"""What happens when things go wrong, and that it happens to nobody else."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from graftwork.backbones.backbone import Backbone
from graftwork.errors import (
    ArtifactInvalid,
    BaseMismatch,
    BlobDamaged,
    DataRejected,
    DeadlineExceeded,
    GraftworkError,
    NotFound,
    QueueFull,
    RequestInvalid,
    ServiceUnavailable,
)
from graftwork.registry.artifact import DELTA, DELTA_CONFIG, HEAD, Artifact
from graftwork.registry.manifest import Pooling
from graftwork.serving.engine import Engine, EngineLimits
from graftwork.serving.request import Row
from graftwork.serving.runner import Runner
from tests.serving.builders import TEXTS, Made, Spec, make, pack

Store = dict[str, Artifact | Exception]
WAIT = 60.0


class Gate:
    """Reads artifacts from a dict, once it is open; raises what is stored as an exception."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        self.reads: list[str] = []

    def __call__(self, digest: str) -> Artifact:
        self.reads.append(digest)
        self.entered.set()
        assert self.open.wait(WAIT)
        found = self.store.get(digest)
        if found is None:
            raise NotFound(f"no adapter {digest[:8]}")
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture
def gate() -> Gate:
    return Gate({})


@pytest.fixture
def engine_of(bert: Backbone, gate: Gate) -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def build(*adapters: Made, start: bool = True, **limits: Any) -> Engine:
        gate.store.update({adapter.digest: adapter.artifact for adapter in adapters})
        engine = Engine(lambda _: bert, gate, EngineLimits(**limits))
        engines.append(engine)
        if start:
            engine.start()
        return engine

    yield build
    gate.open.set()
    for engine in engines:
        engine.close(drain=False)


@pytest.fixture
def lora(bert: Backbone, made: Callable[..., Made]) -> Made:
    adapter: Made = made(bert, Spec(seed=11))
    return adapter


@pytest.fixture
def other(bert: Backbone, made: Callable[..., Made]) -> Made:
    adapter: Made = made(bert, Spec(seed=12, classes=5, temperature=1.7))
    return adapter


def ask(engine: Engine, adapter: Made, texts: Sequence[str] = TEXTS, **options: Any) -> Any:
    return engine.classify("acme", adapter.backbone.fingerprint, adapter.digest, texts, **options)


def check(engine: Engine, adapter: Made) -> None:
    answer = ask(engine, adapter).result(timeout=WAIT)
    np.testing.assert_allclose(
        answer.probabilities, [adapter.probabilities(text) for text in TEXTS], rtol=1e-5, atol=1e-5
    )


def test_an_answer_tells_labels_probabilities_digest_and_tokens(
    engine_of: Callable[..., Engine], other: Made, bert: Backbone
) -> None:
    answer = ask(engine_of(other), other, [TEXTS[0], TEXTS[0], TEXTS[2]]).result(timeout=WAIT)
    assert answer.labels == other.artifact.manifest.labels
    assert answer.digest == other.digest
    assert answer.probabilities.dtype == np.float32
    assert answer.probabilities.shape == (3, 5)
    np.testing.assert_allclose(answer.probabilities.sum(axis=1), 1.0, rtol=1e-6)
    assert answer.tokens == sum(map(len, bert.encode([TEXTS[0], TEXTS[0], TEXTS[2]])))
    assert answer.queue_seconds >= 0


def test_vectors_are_the_bases_own_or_those_the_head_sees(
    engine_of: Callable[..., Engine], lora: Made, bert: Backbone
) -> None:
    engine = engine_of(lora)
    own = engine.embed("acme", bert.fingerprint, TEXTS).result(timeout=WAIT)
    np.testing.assert_allclose(own.vectors, bert.embed(TEXTS).numpy(), rtol=1e-5, atol=1e-5)
    assert own.digest is None
    adapted = engine.embed("acme", bert.fingerprint, TEXTS, adapter=lora.digest, normalize=True).result(timeout=WAIT)
    wanted = np.concatenate([lora.vector(text).numpy() for text in TEXTS])
    np.testing.assert_allclose(
        adapted.vectors, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), rtol=1e-5, atol=1e-5
    )
    assert adapted.digest == lora.digest


def test_texts_are_cut_at_each_adapters_own_length(
    engine_of: Callable[..., Engine], bert: Backbone, made: Callable[..., Made]
) -> None:
    short, long = made(bert, Spec(seed=1, max_length=4)), made(bert, Spec(seed=1, max_length=30))
    engine = engine_of(short, long)
    futures = [ask(engine, short), ask(engine, long)]
    assert futures[0].result(timeout=WAIT).tokens < futures[1].result(timeout=WAIT).tokens
    check(engine, short)
    check(engine, long)


def with_file(adapter: Made, name: str, content: bytes, **changes: Any) -> Artifact:
    """An artifact whose manifest promises a changed file, as if it had been published so."""
    files = dict(adapter.artifact.files) | {name: content}
    tensors = load(files[DELTA])
    return pack(adapter.backbone, files, tensors, spec=adapter.spec, split=0, **changes)


def spoilt(adapter: Made, name: str, change: Callable[[dict[str, torch.Tensor]], object], **changes: Any) -> Artifact:
    tensors = load(adapter.artifact.files[name])
    change(tensors)
    return with_file(adapter, name, save(tensors), **changes)


def first(tensors: dict[str, torch.Tensor], value: float) -> None:
    next(iter(tensors.values())).view(-1)[0] = value


def shuffled(tensors: dict[str, torch.Tensor]) -> None:
    name = next(iter(tensors))
    tensors[name] = tensors[name].unsqueeze(-1)


BAD: dict[str, tuple[Callable[[Made], Artifact], type[GraftworkError], str]] = {
    "nan in the delta": (lambda a: spoilt(a, DELTA, lambda t: first(t, np.nan)), ArtifactInvalid, "NaN or infinity"),
    "infinity in the head": (lambda a: spoilt(a, HEAD, lambda t: first(t, np.inf)), ArtifactInvalid, "NaN or inf"),
    "wrong shape": (lambda a: spoilt(a, DELTA, shuffled), ArtifactInvalid, "rank|shape"),
    "head of another shape": (lambda a: spoilt(a, HEAD, shuffled), ArtifactInvalid, "shape"),
    "dora": (
        lambda a: with_file(a, DELTA_CONFIG, a.artifact.files[DELTA_CONFIG].replace(b'dora": false', b'dora": true')),
        ArtifactInvalid,
        "use_dora",
    ),
    "one flipped bit": (
        lambda a: Artifact(a.artifact.manifest, {**a.artifact.files, HEAD: a.artifact.files[HEAD][:-1] + b"\x01"}),
        ArtifactInvalid,
        "SHA-256",
    ),
    "another base": (lambda a: with_file(a, "x", b"", base="f" * 64), BaseMismatch, "base: is"),
    "another tokenizer": (lambda a: with_file(a, "x", b"", tokenizer="f" * 64), BaseMismatch, "tokenizer"),
    "another width and number of layers": (
        lambda a: with_file(a, "x", b"", width=99, layers=7),
        BaseMismatch,
        r"(?s)width.*layers",
    ),
    "another prompt": (lambda a: with_file(a, "x", b"", prompt="query: "), BaseMismatch, "prompt"),
    "longer than the base": (lambda a: with_file(a, "x", b"", max_length=10_000), BaseMismatch, "max_length"),
    "a split above the adapted layers": (
        lambda a: pack(a.backbone, a.artifact.files, load(a.artifact.files[DELTA]), spec=a.spec, split=2),
        ArtifactInvalid,
        "layer 0 is adapted",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_an_adapter_that_cannot_be_served_fails_alone(
    fault: str, engine_of: Callable[..., Engine], gate: Gate, lora: Made, other: Made
) -> None:
    build, error, complaint = BAD[fault]
    artifact = build(lora)
    engine = engine_of(other)
    gate.store[artifact.digest] = artifact
    bad = engine.classify("acme", lora.backbone.fingerprint, artifact.digest, TEXTS)
    check(engine, other)
    with pytest.raises(error, match=complaint):
        bad.result(timeout=WAIT)
    stats = engine.stats()
    assert stats.load_failures == {error.code: 1}
    assert stats.refusals == {error.code: 1}
    assert stats.resident_adapters == 1


def test_an_artifact_other_than_the_one_asked_for_is_refused(
    engine_of: Callable[..., Engine], gate: Gate, lora: Made, other: Made
) -> None:
    engine = engine_of()
    gate.store[lora.digest] = other.artifact
    with pytest.raises(ArtifactInvalid, match="another adapter was read"):
        ask(engine, lora).result(timeout=WAIT)


def test_a_damaged_blob_answers_again_once_it_is_repaired(
    engine_of: Callable[..., Engine], gate: Gate, lora: Made, other: Made
) -> None:
    engine = engine_of(lora, other)
    gate.store[lora.digest] = BlobDamaged("the blob is cut short")
    for _ in range(2):
        with pytest.raises(BlobDamaged, match="cut short"):
            ask(engine, lora).result(timeout=WAIT)
    check(engine, other)
    gate.store[lora.digest] = lora.artifact
    check(engine, lora)


def test_resident_adapters_go_on_answering_when_the_store_is_gone(
    engine_of: Callable[..., Engine], gate: Gate, lora: Made, other: Made
) -> None:
    engine = engine_of(lora, other)
    check(engine, lora)
    gate.store[lora.digest] = gate.store[other.digest] = OSError("no route to the store")
    check(engine, lora)
    with pytest.raises(GraftworkError, match="no route to the store"):
        ask(engine, other).result(timeout=WAIT)


def test_a_load_that_hangs_keeps_nobody_else_waiting(
    engine_of: Callable[..., Engine], gate: Gate, lora: Made, other: Made
) -> None:
    engine = engine_of(lora, other)
    check(engine, other)
    gate.open.clear()
    waiting = ask(engine, lora)
    check(engine, other)
    assert not waiting.done()
    gate.open.set()
    assert waiting.result(timeout=WAIT).digest == lora.digest


def test_requests_that_come_while_an_adapter_loads_share_the_load(
    engine_of: Callable[..., Engine], gate: Gate, lora: Made
) -> None:
    engine = engine_of(lora)
    gate.open.clear()
    futures = [ask(engine, lora, [TEXTS[index % 6]]) for index in range(20)]
    assert gate.entered.wait(WAIT)
    gate.open.set()
    for index, future in enumerate(futures):
        np.testing.assert_allclose(
            future.result(timeout=WAIT).probabilities[0], lora.probabilities(TEXTS[index % 6]), rtol=1e-5, atol=1e-5
        )
    assert gate.reads == [lora.digest]
    assert engine.stats().loads == 1


def test_a_base_that_cannot_be_loaded_fails_its_own_requests_and_is_tried_again(
    bert: Backbone, gate: Gate, lora: Made
) -> None:
    gate.store[lora.digest] = lora.artifact
    broken = [True]

    def load_backbone(fingerprint: str) -> Backbone:
        if broken and fingerprint == bert.fingerprint:
            raise BlobDamaged("the base's weights are cut short")
        return bert

    engine = Engine(load_backbone, gate)
    engine.start()
    try:
        with pytest.raises(BlobDamaged):
            ask(engine, lora).result(timeout=WAIT)
        broken.clear()
        check(engine, lora)
        with pytest.raises(BaseMismatch, match="another base model was loaded"):
            engine.embed("acme", "e" * 64, TEXTS).result(timeout=WAIT)
        assert engine.stats().bases == 1
    finally:
        engine.close()


def test_a_row_that_cannot_be_computed_fails_alone(
    engine_of: Callable[..., Engine], lora: Made, other: Made, bert: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(lora, other, start=False)
    poison = tuple(bert.encode([TEXTS[2]])[0])
    compute = Runner.run

    def run(self: Runner, rows: Sequence[Row], leases: Any) -> Any:
        if any(row.ids == poison for row in rows):
            raise RuntimeError("not enough memory")
        return compute(self, rows, leases)

    monkeypatch.setattr(Runner, "run", run)
    futures = [ask(engine, adapter, [text]) for adapter in (lora, other) for text in TEXTS[:4]]
    engine.start()
    for future, (adapter, text) in zip(
        futures, [(adapter, text) for adapter in (lora, other) for text in TEXTS[:4]], strict=True
    ):
        if text == TEXTS[2]:
            with pytest.raises(GraftworkError, match="could not compute this: RuntimeError: not enough memory"):
                future.result(timeout=WAIT)
        else:
            np.testing.assert_allclose(
                future.result(timeout=WAIT).probabilities[0], adapter.probabilities(text), rtol=1e-5, atol=1e-5
            )
    assert engine.stats().reruns >= 1


def test_an_adapter_that_gives_no_numbers_fails_alone(
    engine_of: Callable[..., Engine], gate: Gate, lora: Made, bert: Backbone
) -> None:
    def enormous(tensors: dict[str, torch.Tensor]) -> None:
        # Of both signs, so that one class is beyond float32 whatever a vector's numbers add up to.
        tensors["head.bias"].fill_(3e38)
        tensors["head.weight"].fill_(0)
        tensors["head.weight"][0, ::2], tensors["head.weight"][1, ::2] = 3e38, -3e38

    artifact = spoilt(lora, HEAD, enormous)
    gate.store[artifact.digest] = artifact
    engine = engine_of(lora, start=False)
    bad = engine.classify("acme", bert.fingerprint, artifact.digest, TEXTS)
    good = ask(engine, lora)
    engine.start()
    with pytest.raises(ArtifactInvalid, match="gives NaN or infinity for this text"):
        bad.result(timeout=WAIT)
    assert good.result(timeout=WAIT).digest == lora.digest
    assert engine.stats().reruns == 0


def test_when_the_thread_dies_everybody_is_told(
    engine_of: Callable[..., Engine], lora: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(lora, cache_bytes=0)
    check(engine, lora)
    assert engine.ready() == (True, "")

    def broken(tasks: Sequence[Any]) -> list[Any]:
        raise AssertionError("a fault in the engine itself")

    monkeypatch.setattr("graftwork.serving.step._wanted", broken)
    with pytest.raises(ServiceUnavailable, match="thread died: AssertionError: a fault in the engine itself"):
        ask(engine, lora).result(timeout=WAIT)
    ready, why = engine.ready()
    assert not ready
    assert "a fault in the engine itself" in why
    with pytest.raises(ServiceUnavailable, match="thread died"):
        ask(engine, lora)


def test_closing_finishes_what_was_admitted_even_what_still_loads(
    engine_of: Callable[..., Engine], gate: Gate, lora: Made, other: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(lora, other)
    gate.open.clear()
    futures = [ask(engine, adapter) for adapter in (lora, other) for _ in range(5)]
    assert gate.entered.wait(WAIT)
    refusing = threading.Event()
    refuse = engine._scheduler.close

    def close(error: ServiceUnavailable) -> None:
        refuse(error)
        refusing.set()

    monkeypatch.setattr(engine._scheduler, "close", close)
    closing = threading.Thread(target=engine.close)
    closing.start()
    assert refusing.wait(WAIT)
    gate.open.set()
    closing.join(timeout=WAIT)
    assert not closing.is_alive()
    assert {future.result(timeout=0).digest for future in futures} == {lora.digest, other.digest}
    assert engine.ready() == (False, "stopping")
    with pytest.raises(ServiceUnavailable, match="stopping"):
        ask(engine, lora)


def test_closing_fails_what_is_not_finished_in_time(engine_of: Callable[..., Engine], gate: Gate, lora: Made) -> None:
    engine = engine_of(lora)
    gate.open.clear()
    stuck = ask(engine, lora)
    engine.close(timeout=0.0)
    with pytest.raises(ServiceUnavailable, match="stopping"):
        stuck.result(timeout=0)


def test_closing_without_draining_and_without_ever_starting(engine_of: Callable[..., Engine], lora: Made) -> None:
    engine = engine_of(lora, start=False)
    assert engine.ready() == (False, "not started")
    waiting = ask(engine, lora)
    engine.close(drain=False)
    with pytest.raises(ServiceUnavailable):
        waiting.result(timeout=0)


def test_a_cancelled_request_frees_its_place(engine_of: Callable[..., Engine], gate: Gate, lora: Made) -> None:
    engine = engine_of(lora, queue_texts=6)
    gate.open.clear()
    waiting = ask(engine, lora)
    with pytest.raises(QueueFull):
        ask(engine, lora, ["one more"])
    assert waiting.cancel()
    kept = ask(engine, lora)
    gate.open.set()
    assert kept.result(timeout=WAIT).digest == lora.digest
    stats = engine.stats()
    assert (stats.cancelled, stats.answers, stats.requests, stats.queue_depth) == (1, 1, 2, 0)
    assert stats.refusals == {"queue-full": 1}


def test_a_request_whose_deadline_passes_while_its_adapter_loads_is_told(
    engine_of: Callable[..., Engine], gate: Gate, lora: Made
) -> None:
    engine = engine_of(lora)
    gate.open.clear()
    with pytest.raises(DeadlineExceeded):
        ask(engine, lora, deadline=time.monotonic() + 0.01).result(timeout=WAIT)


@pytest.mark.parametrize("texts", [[], "", "one text", ["fine", 3], [None], [b"bytes"]])
def test_what_is_no_text_is_refused_at_once(texts: Any, engine_of: Callable[..., Engine], lora: Made) -> None:
    with pytest.raises(RequestInvalid):
        ask(engine_of(lora), lora, texts)


def test_odd_texts_are_answered_or_named(engine_of: Callable[..., Engine], lora: Made) -> None:
    engine = engine_of(lora)
    odd = ["", " ", "\x00", "🦊" * 50, "a" * 10_000]
    assert ask(engine, lora, odd).result(timeout=WAIT).probabilities.shape == (5, 3)
    with pytest.raises(DataRejected, match="text 2"):
        ask(engine, lora, ["fine", "\ud800"]).result(timeout=WAIT)


def test_equal_texts_and_adapters_are_computed_once_in_a_batch(
    engine_of: Callable[..., Engine], bert: Backbone, made: Callable[..., Made]
) -> None:
    heads = [made(bert, Spec(seed=seed, targets=None, classes=2 + seed)) for seed in range(5)]
    engine = engine_of(*heads, start=False)
    # Loaded beforehand, so that all five requests are in the queue when the one step begins.
    base = engine._bases.open(bert.fingerprint)
    for head in heads:
        engine._adapters.load(head.key, bert, base.places).result(timeout=WAIT)
    futures = [ask(engine, head, [TEXTS[0]]) for head in heads]
    assert engine.step()
    for head, future in zip(heads, futures, strict=True):
        np.testing.assert_allclose(
            future.result(timeout=0).probabilities[0], head.probabilities(TEXTS[0]), rtol=1e-5, atol=1e-5
        )
    stats = engine.stats()
    assert (stats.batches, stats.rows, stats.computed_rows) == (1, 5, 1)


def test_the_numbers_add_up(engine_of: Callable[..., Engine], lora: Made, other: Made) -> None:
    engine = engine_of(lora, other, cache_bytes=0)
    for adapter in (lora, other, lora):
        check(engine, adapter)
    engine.embed("acme", lora.backbone.fingerprint, TEXTS[:2]).result(timeout=WAIT)
    engine.close()
    stats = engine.stats()
    assert (stats.requests, stats.answers, stats.rows) == (4, 4, 3 * len(TEXTS) + 2)
    assert (stats.loads, stats.load_seconds.count, stats.slot_loads) == (2, 2, 2)
    assert (stats.resident_adapters, stats.host_adapters, stats.bases, stats.queue_depth) == (2, 2, 1, 0)
    assert stats.host_bytes == lora.loaded.nbytes + other.loaded.nbytes
    assert stats.batch_rows.count == stats.batches == stats.batch_fill.count
    assert stats.batch_rows.total == stats.rows
    assert stats.queue_seconds.count == 4
    assert stats.step_seconds["tokenise"].count == 4
    assert stats.step_seconds["heads"].count == stats.batches
    lengths = [len(ids) for ids in lora.backbone.encode(TEXTS)]
    assert stats.tokens == 3 * sum(lengths) + sum(lengths[:2])
    assert stats.padded_tokens >= 2 * sum(lengths) + sum(lengths[:2])  # what was known already is not computed again
    assert stats.queue_seconds.cumulative()[-1] == (float("inf"), 4)
    assert dataclasses.asdict(stats)["refusals"] == {}


def test_manifest_pooling_wins_over_the_bases(engine_of: Callable[..., Engine], gate: Gate, bert: Backbone) -> None:
    adapter = make(bert, Spec(seed=3, targets=None), pooling=Pooling(mode="cls"))
    engine = engine_of(adapter)
    got = ask(engine, adapter, [TEXTS[0]]).result(timeout=WAIT).probabilities[0]
    vector = bert.forward(bert.collate(bert.encode([TEXTS[0]], 32)))[0, 0]
    weight, bias = adapter.head
    np.testing.assert_allclose(got, torch.softmax(weight @ vector + bias, dim=0).numpy(), rtol=1e-5, atol=1e-5)
