"""Planned peaks of memory beside those that the kernel counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.plan_peaks import measured_peaks

from tests.backbones.tiny import save_model

STRATEGIES = ("lora", "prefix-tuning", "partial", "full")


def test_a_run_takes_what_its_plan_says(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4}
    folder = save_model(tmp_path / "model", "bert", **changes)
    peaks = measured_peaks(folder, STRATEGIES, tight=True, rows=50, tokens=64)
    told = [f"{peak.strategy}: {peak.ratio:.2f}" for peak in peaks]
    assert [peak.strategy for peak in peaks] == list(STRATEGIES)
    assert all(1 / 1.2 <= peak.ratio <= 1.2 for peak in peaks), told
    assert peaks[0].measured > 100e6  # large beside what is not planned
