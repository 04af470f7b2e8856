"""Planned against measured peaks of memory: `python -m benchmarks.plan_peaks [MODEL_FOLDER]`.

Each strategy is trained in a process of its own, which tells the most memory it had beyond what it had after its
first use of its libraries, and the processor seconds it took: once as the C library keeps memory, once with
`fine_tuning.tight_memory=true`.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_STRATEGIES = ("lora", "prefix-tuning", "partial", "full")
_LETTERS = list("abcdefghilmnoprstuwx ")
_MODEL = Path(".cache/graftwork/models/minilm")
_CHILD = "from benchmarks.plan_peaks import run_child; run_child()"


@dataclass(frozen=True)
class Peak:
    """What one run took.

    Attributes:
        strategy: what was trained.
        tight: with `fine_tuning.tight_memory=true`.
        planned: bytes at the peak.
        measured: the same, as the kernel counts them.
        cpu_seconds: of user and system, training alone.
    """

    strategy: str
    tight: bool
    planned: int
    measured: int
    cpu_seconds: float

    @property
    def ratio(self) -> float:
        """Measured over planned."""
        return self.measured / self.planned


def measured_peaks(
    folder: Path, strategies: Sequence[str], *, tight: bool, rows: int = 100, tokens: int = 128
) -> list[Peak]:
    """Train in a new process and compare its peaks with the plans. Linux only.

    Args:
        folder: a model in Hugging Face layout.
        strategies: what to train, one after the other.
        tight: give freed memory back at once.
        rows: rows to train on, a fifth of which is held out.
        tokens: of each.
    """
    given = {"folder": str(folder), "strategies": list(strategies), "tight": tight, "rows": rows, "tokens": tokens}
    output = subprocess.run(
        [sys.executable, "-c", _CHILD, json.dumps(given)],
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
    ).stdout
    return [Peak(**peak) for peak in json.loads(output.splitlines()[-1])]


def run_child() -> None:
    """Train as the argument says, and print the peaks as JSON."""
    given = json.loads(sys.argv[1])
    folder, tight, tokens = Path(given["folder"]), given["tight"], given["tokens"]
    # What libraries load and keep when they are first used is not what is measured.
    _train(folder, given["strategies"][0], tight=tight, rows=30, tokens=8)
    peaks = [_train(folder, name, tight=tight, rows=given["rows"], tokens=tokens) for name in given["strategies"]]
    print(json.dumps([asdict(peak) for peak in peaks]))


def _train(folder: Path, strategy: str, *, tight: bool, rows: int, tokens: int) -> Peak:
    import numpy as np
    import torch

    from graftwork.backbones.inspect import inspect_model
    from graftwork.backbones.load import load_backbone
    from graftwork.backbones.network import read_config
    from graftwork.data.dataset import Dataset
    from graftwork.training.config import TrainingConfig
    from graftwork.training.job import train
    from graftwork.training.plan import make_plan

    config = TrainingConfig.parse(
        strategy=strategy,
        max_length=tokens,
        test_share=0.2,
        assignments=["fine_tuning.epochs=1", f"fine_tuning.tight_memory={str(tight).lower()}"],
    )
    inspection = inspect_model(folder)
    drawn = np.random.default_rng(0)
    # Letters at random: texts of words at random would be near-duplicates, and few would be left to train on.
    texts = ["".join(drawn.choice(_LETTERS, size=8 * tokens)) for _ in range(rows)]
    data = Dataset.from_lists(texts, ["abc"[row % 3] for row in range(rows)])
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    backbone = load_backbone(
        folder,
        fingerprint=inspection.fingerprint,
        tokenizer=inspection.tokenizer,
        metadata=inspection.metadata,
        dtype="float32",
        device="cpu",
    )
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    started = _cpu_seconds()
    train(backbone, data, config=config)
    seconds = _cpu_seconds() - started
    measured = _status("VmHWM") - before
    lengths = [len(ids) for ids in backbone.encode(texts[: round(rows * 0.8)], tokens)]
    plan = make_plan(read_config(folder), config, strategy=strategy, lengths=lengths, classes=3, dtype=torch.float32)
    return Peak(strategy, tight, plan.memory.peak, measured, round(seconds, 1))


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def main() -> None:
    """Measure and print."""
    from benchmarks import machine

    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else _MODEL
    print(machine.describe())
    print("| strategy | tight_memory | planned MB | measured MB | measured / planned | CPU seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for tight in (True, False):
        for strategy in _STRATEGIES:
            (peak,) = measured_peaks(folder, [strategy], tight=tight)
            print(
                f"| {strategy} | {str(tight).lower()} | {peak.planned / 1e6:,.0f} | {peak.measured / 1e6:,.0f} | "
                f"{peak.ratio:.2f} | {peak.cpu_seconds} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
