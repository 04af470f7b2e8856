"""A million rows against PEFT alone: `python -m benchmarks.serving.soak [--rows N] [--seed S] [--compiled]`.

More adapters than slots and than host memory holds, a cache that is too small, several threads, names whose alias
moves, cancellations and deadlines. Every answer is compared with what PEFT gave for its adapter alone, one text at a
time without padding, before the traffic began. Exit code 1 when any answer is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from tests.backbones.tiny import save_model

from benchmarks import machine
from benchmarks.serving.soak_traffic import Tally, World, soak
from benchmarks.serving.soak_twins import Twin, base_twin, draw_specs, make_texts, make_twins
from graftwork.backbones.backbone import Backbone
from graftwork.backbones.inspect import Inspection, inspect_model
from graftwork.backbones.load import load_backbone
from graftwork.serving.compiled.forward import CompiledForward, Compiler
from graftwork.serving.delta import Place
from graftwork.serving.engine import Engine, EngineLimits
from graftwork.serving.forward import Forward
from graftwork.serving.stats import EngineStats, Meter
from graftwork.settings import load_settings
from graftwork.wiring import Services, open_services

# What rounding explains: sums in another order, as a share of `1 + |answer|`. Compiled networks fuse and reorder more.
_TOLERANCE = {False: 1e-5, True: 1e-4}
_WARM_ROWS = 3_000


@dataclass(frozen=True)
class Size:
    """How large the soak is.

    Attributes:
        adapters: adapters published, about a quarter of them heads only.
        texts: texts that are asked for.
        versions: versions of each name.
    """

    adapters: int = 48
    texts: int = 1_000
    versions: int = 3


@dataclass(frozen=True)
class Soaked:
    """What a soak saw, and the engine's own numbers."""

    tally: Tally
    stats: EngineStats
    seconds: float


def run(
    *, rows: int, seed: int, seconds: float | None = None, compiled: bool = False, size: Size | None = None
) -> Soaked:
    """Soak an engine over a registry of its own, with a tiny base of random weights."""
    with (
        tempfile.TemporaryDirectory() as folder,
        _world(Path(folder), seed, compiled, size or Size()) as (world, settle),
    ):
        start = time.monotonic()
        tally = Tally()
        if settle is not None:
            # Networks are compiled when batches ask for them; what is answered meanwhile is looked at too.
            tally.add(soak(world, rows=min(_WARM_ROWS, rows), seconds=None, seed=seed + 1))
            settle.settle()
        left = rows - tally.rows
        if left > 0:
            tally.add(soak(world, rows=left, seconds=seconds, seed=seed))
        return Soaked(tally, world.engine.stats(), time.monotonic() - start)


@contextmanager
def _world(home: Path, seed: int, compiled: bool, size: Size) -> Iterator[tuple[World, Compiler | None]]:
    folder = save_model(home / "model", "bert", seed=seed)
    found = inspect_model(folder)
    with open_services(load_settings(home=home / "home", dtype="float32", compile=False)) as services:
        services.bases.add(
            folder, fingerprint=found.fingerprint, tokenizer=found.tokenizer, metadata=found.metadata, name="soak"
        )
        texts = make_texts(size.texts, seed)
        names, twins = _publish(services, _open(folder, found), texts, seed, size)
        compiler = Compiler(home / "compiled") if compiled else None
        engine = _engine(services, folder, _limits(size), compiler)
        engine.start()
        try:
            yield (
                World(engine, services.catalog, found.fingerprint, texts, names, twins, _TOLERANCE[compiled]),
                compiler,
            )
        finally:
            engine.close(drain=False)
            if compiler is not None:
                compiler.close()


def _open(folder: Path, found: Inspection) -> Backbone:
    return load_backbone(
        folder, fingerprint=found.fingerprint, tokenizer=found.tokenizer, metadata=found.metadata, dtype="float32"
    )


def _publish(
    services: Services, backbone: Backbone, texts: list[str], seed: int, size: Size
) -> tuple[dict[str, int], dict[str | None, Twin]]:
    """Publish all adapters, some versions to a name; their names with counts of versions, and all twins."""
    twins: dict[str | None, Twin] = {None: base_twin(backbone, texts)}
    names: dict[str, int] = {}
    specs = draw_specs("bert", backbone.num_layers, size.adapters, seed)
    for number, (artifact, twin) in enumerate(make_twins(backbone, specs, texts)):
        version = services.catalog.publish(f"tenant/name-{number // size.versions}", artifact)
        twins[version.digest] = twin
        names[f"{version.tenant}/{version.name}"] = version.version
    for name in names:
        services.catalog.set_alias(name, "live", 1)
    return names, twins


def _limits(size: Size) -> EngineLimits:
    """Slots for a few of each rank, host memory for about a third of all, and a cache for some hundred vectors."""
    return EngineLimits(slots=4, host_bytes=size.adapters * 5_000, cache_bytes=300_000, queue_texts=600)


def _engine(services: Services, folder: Path, limits: EngineLimits, compiler: Compiler | None) -> Engine:
    def load(fingerprint: str) -> Backbone:
        return services.backbone(services.bases.resolve(fingerprint))

    if compiler is None:
        return Engine(load, services.catalog.read, limits)

    def make_forward(backbone: Backbone, places: Mapping[str, Place], meter: Meter) -> Forward:
        return CompiledForward(backbone, places, folder, compiler, meter)

    return Engine(load, services.catalog.read, limits, make_forward=make_forward)


def main() -> int:
    """Soak and print what was seen."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.soak", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows to compare")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--seconds", type=float, help="stop after this time, however few rows were compared")
    parser.add_argument("--compiled", action="store_true", help="with compiled networks, once they are there")
    options = parser.parse_args()
    # The base is tiny: more threads only wait for one another.
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    print(machine.describe(), flush=True)
    soaked = run(rows=options.rows, seed=options.seed, seconds=options.seconds, compiled=options.compiled)
    print("\n".join(f"{name:32} {value}" for name, value in told(soaked).items()))
    for line in soaked.tally.wrong[:20]:
        print(f"WRONG {line}")
    return 1 if soaked.tally.wrong or not soaked.tally.rows else 0


def told(soaked: Soaked) -> dict[str, str]:
    """The figures, by what they are."""
    tally, stats = soaked.tally, soaked.stats
    return {
        "rows compared": f"{tally.rows:,}",
        "wrong answers": f"{len(tally.wrong):,}",
        "largest difference / (1 + |x|)": f"{tally.largest:.2e}",
        "requests": f"{tally.requests:,}",
        "cancelled, expired, refused": f"{tally.cancelled:,}, {tally.expired:,}, {tally.refused:,}",
        "alias moves": f"{tally.moves:,}",
        "loads, host evictions": f"{stats.loads:,}, {stats.host_evictions:,}",
        "slot loads, slot evictions": f"{stats.slot_loads:,}, {stats.slot_evictions:,}",
        "rows from the cache": f"{stats.embedding_hits / max(stats.embedding_hits + stats.embedding_misses, 1):.0%}",
        "trunk hits, misses": f"{stats.trunk_hits:,}, {stats.trunk_misses:,}",
        "batches, compiled, eager": f"{stats.batches:,}, {stats.compiled_batches:,}, {stats.eager_batches:,}",
        "seconds": f"{soaked.seconds:.0f}",
    }


if __name__ == "__main__":
    sys.exit(main())
