"""Our own engine, stepped by hand, so that single batches can be timed; and our own bare forwards.

Networks are compiled as `graft serve` compiles them, and are there before anything is timed.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.serving.made import lora
from benchmarks.serving.setting import Setting
from benchmarks.serving.texts import Texts
from benchmarks.serving.timing import Candidate
from graftwork.backbones.backbone import Backbone, TokenBatch
from graftwork.registry.artifact import Artifact
from graftwork.serving.compiled.forward import CompiledForward, Compiler
from graftwork.serving.delta import Place, adaptable
from graftwork.serving.engine import Engine, EngineLimits
from graftwork.serving.forward import Forward
from graftwork.serving.stats import Meter, Phase

# Of the engine's phases, those in which a batch is computed.
_COMPUTING: tuple[Phase, ...] = ("trunk", "tail", "heads")
_CHUNK = 64
_PATIENCE = 600.0


def bare_networks(setting: Setting, backbone: Backbone) -> dict[str, Callable[[TokenBatch], Any]]:
    """What our engine runs for batches without adapters, by name: each gives the last hidden state of a batch."""
    places = adaptable(backbone)
    eager = Forward(backbone, places)
    networks: dict[str, Callable[[TokenBatch], Any]] = {"ours, eager": lambda batch: eager.whole(batch, {})}
    if setting.compiled:
        compiler, meter = _compiler(setting.store), Meter()
        compiled = CompiledForward(backbone, places, setting.model, compiler, meter)
        compiler.settle(_PATIENCE)
        if not len(compiled):
            raise SystemExit("the network could not be compiled; --eager leaves it out")
        networks["ours, compiled"] = lambda batch: compiled.whole(batch, {})
    return networks


def bare_forwards(setting: Setting, backbone: Backbone, batch: TokenBatch) -> dict[str, Callable[[], Any]]:
    """The same as calls for one batch."""
    return {name: partial(run, batch) for name, run in bare_networks(setting, backbone).items()}


class Steps:
    """An engine without its thread: batches of one text a row are asked for, and one step computes them.

    Args:
        engine: not started.
        backbone: its only base model.
        texts: gives texts that were never asked before, so that no cache answers.
        tokens: of a text.
        compiler: makes the engine's networks; None when it runs eagerly.
    """

    def __init__(
        self, engine: Engine, backbone: Backbone, texts: Texts, tokens: int, compiler: Compiler | None
    ) -> None:
        self._engine = engine
        self._compiler = compiler
        self._base = backbone.fingerprint
        self._texts = texts
        self._tokens = tokens

    def warm(self, adapters: Sequence[str]) -> None:
        """Answer once with every adapter, so that all are in slots as far as they have room."""
        for begin in range(0, len(adapters), _CHUNK):
            self._finish(self._ask(adapters[begin : begin + _CHUNK]))
        if self._compiler is None:
            return
        # The first batches have shown which networks are needed.
        self._compiler.settle(_PATIENCE)
        before = self._engine.stats().eager_batches
        self._finish(self._ask(adapters[:_CHUNK]))
        if self._engine.stats().eager_batches != before:
            raise SystemExit("batches are not run by compiled networks; --eager measures without")

    def batch(self, name: str, adapters: Sequence[str]) -> Candidate:
        """A candidate: one batch, a row of a request of its own for each adapter named; names may repeat.

        Its two times are `name`, the computing alone, and `name, whole step`, with the choice of the batch, the slots
        and the answers.
        """

        def step() -> dict[str, float]:
            futures = self._ask(adapters)
            before, seconds = self._computing(), self._finish(futures)
            return {name: self._computing() - before, f"{name}, whole step": seconds}

        return step

    def bare(self, name: str, rows: int) -> Candidate:
        """A candidate: the base's own vectors of a batch, without any adapter; two times as of `batch`."""

        def step() -> dict[str, float]:
            texts = self._texts.unique(rows, self._tokens)
            futures = [self._engine.embed(f"t{row}", self._base, [text]) for row, text in enumerate(texts)]
            before, seconds = self._computing(), self._finish(futures)
            return {name: self._computing() - before, f"{name}, whole step": seconds}

        return step

    def _ask(self, adapters: Sequence[str]) -> list[Future[Any]]:
        texts = self._texts.unique(len(adapters), self._tokens)
        asked = [
            self._engine.classify(f"t{row}", self._base, adapter, [text])
            for row, (adapter, text) in enumerate(zip(adapters, texts, strict=True))
        ]
        return list(asked)

    def _finish(self, futures: Sequence[Future[Any]]) -> float:
        """Step until all are answered; the seconds spent in steps that computed something."""
        seconds = 0.0
        while True:
            start = time.perf_counter()
            worked = self._engine.step()
            if worked:
                seconds += time.perf_counter() - start
            elif all(future.done() for future in futures):
                break
            else:
                wait(futures, timeout=0.001)  # an adapter is being loaded
        for future in futures:
            future.result()
        return seconds

    def _computing(self) -> float:
        spent = self._engine.stats().step_seconds
        return sum((spent[phase].total for phase in _COMPUTING), 0.0)


@contextmanager
def steps_over(setting: Setting, backbone: Backbone, texts: Texts, count: int) -> Iterator[tuple[Steps, list[str]]]:
    """The same over made-up LoRA adapters in memory, all in slots already, and their digests."""
    artifacts = [lora(backbone, seed) for seed in range(count)]
    by_digest = {artifact.digest: artifact for artifact in artifacts}
    with steps(setting, backbone, by_digest.__getitem__, texts) as engine:
        engine.warm(list(by_digest))
        yield engine, list(by_digest)


@contextmanager
def steps(
    setting: Setting, backbone: Backbone, read_artifact: Callable[[str], Artifact], texts: Texts
) -> Iterator[Steps]:
    """An engine for batches of the setting's rows and tokens, over artifacts that are read by digest."""
    limits = EngineLimits(batch_rows=setting.rows, batch_tokens=setting.rows * setting.tokens)
    compiler = _compiler(setting.store) if setting.compiled else None

    def forward(backbone: Backbone, places: Mapping[str, Place], meter: Meter) -> Forward:
        return (
            CompiledForward(backbone, places, setting.model, compiler, meter) if compiler else Forward(backbone, places)
        )

    engine = Engine(lambda _: backbone, read_artifact, limits, make_forward=forward)
    try:
        yield Steps(engine, backbone, texts, setting.tokens, compiler)
    finally:
        engine.close(drain=False)


@cache
def _compiler(store: Path) -> Compiler:
    """One for the whole run; what it made in earlier runs is used again."""
    compiler = Compiler(store / "compiled")
    atexit.register(compiler.close)
    return compiler
