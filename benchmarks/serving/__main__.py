"""The runner: `python -m benchmarks.serving [names...] [--quick] [--json FILE]`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.serving.http import load_generator
from benchmarks.serving.report import Table
from benchmarks.serving.setting import Setting

# Each is a module of this package with `run(setting) -> Iterator[Table]`.
BENCHMARKS = {
    "bare": "bare_forward",
    "updates": "updates",
    "heads": "heads",
    "mixed": "mixed_batch",
    "adapter-names": "adapter_names",
    "set-adapter": "set_adapter",
    "merged": "merged",
    "http": "http",
    "loads": "loads",
    "choosing": "choosing",
    "fairness": "fairness",
    "memory": "memory",
    "weights": "tuned_weights",
    "chains": "chains",
}


def main() -> None:
    """Run the benchmarks that are named, or all, and print their tables."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    options = _options()
    setting = replace(
        Setting(
            model=options.model,
            store=options.store,
            threads=options.threads,
            dtype=options.dtype,
            dtypes=tuple(options.dtypes),
            registered=tuple(options.registered),
            compiled=not options.eager,
        ),
        **({"rounds": options.repeats} if options.repeats else {}),
    )
    if options.quick:
        setting = setting.quick
    import torch

    from graftwork.backbones.device import choose_dtype, dtype_name

    torch.set_num_threads(setting.threads)
    named = [dtype_name(choose_dtype(torch.device("cpu"), dtype)) for dtype in setting.dtypes]
    setting = replace(setting, dtypes=tuple(dict.fromkeys(named)))
    print(f"{machine.describe()}\n{setting.threads} threads, {setting.rounds} rounds; {setting.model.name}")
    print("quick: sizes too small to be quoted\n" if options.quick else "")
    if "http" in (options.names or BENCHMARKS):
        load_generator(setting)
    found: dict[str, list[dict[str, Any]]] = {}
    bars = []
    for name in options.names or BENCHMARKS:
        start = time.perf_counter()
        for table in benchmark(name)(setting):
            print(f"{table}\n", flush=True)
            found.setdefault(name, []).append(table.as_json())
            bars += table.bars
        print(f"({name}: {time.perf_counter() - start:.0f} s)\n", flush=True)
    print(f"{sum(bar.met for bar in bars)} of {len(bars)} bars met")
    for bar in bars:
        print(bar)
    if options.json:
        content = {"machine": machine.describe(), "threads": setting.threads, "quick": options.quick, "found": found}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


def benchmark(name: str) -> Callable[[Setting], Iterator[Table]]:
    """The benchmark of a name; what it needs is imported only now."""
    run: Callable[[Setting], Iterator[Table]] = importlib.import_module(f"benchmarks.serving.{BENCHMARKS[name]}").run
    return run


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"which: {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="small, to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there too")
    parser.add_argument("--model", type=Path, default=Setting.model, help="a BERT-like model in Hugging Face layout")
    parser.add_argument("--store", type=Path, default=Setting.store, help="where registries are kept between runs")
    parser.add_argument("--dtype", default=Setting.dtype, help="of the engine and the server")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every candidate")
    parser.add_argument("--dtypes", nargs="+", default=Setting.dtypes, help="of the comparisons of forwards")
    parser.add_argument("--registered", nargs="+", type=int, default=Setting.registered, help="sizes of registries")
    parser.add_argument("--eager", action="store_true", help="without compiled networks of ours")
    parser.add_argument("--repeats", type=int, help="how often each candidate is measured, in turn with the others")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    return options


if __name__ == "__main__":
    main()
