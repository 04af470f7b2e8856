"""What training a probe from a CSV cannot be faster than here: `python -m benchmarks.train_limit ROWS.csv`.

The imports of torch and transformers, and the matrix products of the encoder's linear layers for the tokens of the
rows: whoever reads these texts with this encoder in this precision, from a new process, needs both.
"""

from __future__ import annotations

import csv
import statistics
import subprocess
import sys
import time
from pathlib import Path

_IMPORTS = """
import time
start = time.perf_counter()
import torch
from transformers import AutoTokenizer, BertModel
print(time.perf_counter() - start)
"""
_TOKENS = 1_024  # multiplied at once, as the forward does
_REPEATS = 5


def main() -> None:
    """Measure both, and print their medians."""
    from benchmarks import machine
    from benchmarks.serving.products import products_alone
    from benchmarks.serving.registries import open_backbone
    from benchmarks.serving.setting import Setting

    imports = [float(subprocess.check_output([sys.executable, "-c", _IMPORTS])) for _ in range(_REPEATS)]
    backbone = open_backbone(Setting())
    with Path(sys.argv[1]).open(newline="", encoding="utf-8") as file:
        tokens = sum(map(len, backbone.encode([row["text"] for row in csv.DictReader(file)])))
    call = products_alone(backbone, _TOKENS)
    call()
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    print(machine.describe())
    print(f"imports of torch and transformers: {statistics.median(imports):.1f} s")
    print(
        f"matrix products for {tokens:,} tokens, {backbone.dtype_name}: "
        f"{statistics.median(seconds) * tokens / _TOKENS:.1f} s"
    )


if __name__ == "__main__":
    main()
