"""What a mixed batch costs: one forward pass for many adapters, beside the bare backbone and PEFT's adapter_names.

    python -m benchmarks.serving_mixed FOLDER [--dtype bfloat16] [--rows 32] [--tokens 32] [--repeats 40]

FOLDER is a model in Hugging Face layout. Every round runs each candidate once, in an order that changes from round to
round, so that whatever else the machine does meets all of them alike; the table shows medians, the middle half, and
ratios to the bare forward of the same run.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch

from benchmarks import machine
from graftwork.backbones.backbone import TextBackbone
from graftwork.backbones.inspect import inspect_model
from graftwork.backbones.load import load_backbone
from graftwork.serving.adapters import LoadedAdapter
from graftwork.serving.delta import Delta, LowRank, Place, adaptable, rank_bucket
from graftwork.serving.forward import Forward
from graftwork.serving.heads import Head
from graftwork.serving.request import AdapterKey, Row
from graftwork.serving.runner import Runner
from graftwork.serving.stacked import StackedAdapters
from graftwork.serving.stats import Meter

RANK = 8
CLASSES = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--resident", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    found = inspect_model(options.folder)
    backbone = load_backbone(
        options.folder,
        fingerprint=found.fingerprint,
        tokenizer=found.tokenizer,
        metadata=found.metadata,
        dtype=options.dtype,
    )
    print(describe(backbone, options))
    candidates = build(backbone, options)
    with torch.inference_mode():
        show(measure(candidates, options.repeats))


def build(backbone: TextBackbone, options: Any) -> dict[str, Callable[[], object]]:
    """Every candidate, by the name it has in the table; the first is what ratios refer to."""
    vocabulary = backbone.model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    texts = [tuple(row) for row in torch.randint(5, vocabulary, (options.rows, options.tokens)).tolist()]
    batch = backbone.collate(texts)
    places = {
        name: place for name, place in adaptable(backbone).items() if name.rsplit(".", 1)[-1] in ("query", "value")
    }
    if not places:
        raise SystemExit("this benchmark adapts modules named query and value; take a BERT-like model")
    peft_model = with_peft(backbone, options.rows)
    meter = Meter()
    stack = StackedAdapters(device=backbone.device, slots=options.resident, nbytes=1 << 34, meter=meter)
    adapters = [adapter(backbone, places, str(number)) for number in range(max(options.resident, options.rows))]
    for resident in adapters[: options.resident]:
        assert resident.delta is not None
        lease = stack.pin(resident.key, resident.delta)
        assert lease is not None
        stack.release(lease)
    runner = Runner(backbone, Forward(backbone, places), stack, meter)

    def ours(*picked: LoadedAdapter | None) -> Callable[[], object]:
        rows = [Row(text, one, backbone.pooling, one is not None) for text, one in zip(texts, picked, strict=True)]
        leases = {}
        for one in picked:
            if one is not None and one.delta is not None:
                leases[one.key] = stack.pin(one.key, one.delta)
        return lambda: runner.run(rows, leases)  # type: ignore[arg-type]

    def names(count: int) -> Callable[[], object]:
        chosen = [f"a{row % count}" for row in range(options.rows)]
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        return lambda: peft_model(**inputs, adapter_names=chosen)

    spread = random.Random(0).sample(adapters[: options.resident], options.rows)
    head_only = [LoadedAdapter(a.key, a.labels, a.pooling, a.max_length, a.head, None) for a in spread]
    thirds = [(spread, head_only, [None] * options.rows)[row % 3][row] for row in range(options.rows)]
    return {
        "bare forward": lambda: backbone.forward(batch),
        "ours, vectors of the base": ours(*[None] * options.rows),
        f"ours, {options.rows} head-only adapters": ours(*head_only),
        "ours, 1 adapter": ours(*[spread[0]] * options.rows),
        "ours, 8 adapters": ours(*[spread[row % 8] for row in range(options.rows)]),
        f"ours, {options.rows} adapters": ours(*spread),
        "ours, LoRA, head-only and base rows": ours(*thirds),
        "PEFT adapter_names, 1 adapter": names(1),
        f"PEFT adapter_names, {options.rows} adapters": names(options.rows),
    }


def adapter(backbone: TextBackbone, places: dict[str, Place], name: str) -> LoadedAdapter:
    """A made-up adapter of rank 8 with a head of 16 classes."""
    rank = rank_bucket(RANK)
    updates = {
        module: LowRank(
            (torch.randn(place.inputs, rank) * 0.02).to(backbone.dtype),
            (torch.randn(rank, place.outputs) * 0.02).to(backbone.dtype),
        )
        for module, place in places.items()
    }
    head = Head(torch.randn(CLASSES, backbone.width), torch.randn(CLASSES), 1.0)
    labels = tuple(map(str, range(CLASSES)))
    key = AdapterKey(name, backbone.fingerprint)
    return LoadedAdapter(key, labels, backbone.pooling, backbone.max_length, head, Delta(0, {rank: updates}))


def with_peft(backbone: TextBackbone, count: int) -> Any:
    """PEFT's model of the same base with `count` adapters, in the base's dtype."""
    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["query", "value"])
    model = peft.get_peft_model(copy.deepcopy(backbone.model), config, adapter_name="a0", autocast_adapter_dtype=False)
    for number in range(1, count):
        model.add_adapter(f"a{number}", config, autocast_adapter_dtype=False)
    return model.eval()


def measure(candidates: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    order = list(candidates)
    for repeat in range(repeats + 3):
        random.Random(repeat).shuffle(order)
        for name in order:
            start = time.perf_counter()
            candidates[name]()
            if repeat >= 3:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def show(seconds: dict[str, list[float]]) -> None:
    bare = statistics.median(next(iter(seconds.values())))
    print(f"{'':42} {'median ms':>10} {'middle half':>17} {'x bare':>7}")
    for name, times in seconds.items():
        low, middle, high = statistics.quantiles(times, n=4)
        print(f"{name:42} {middle * 1e3:10.1f} {low * 1e3:8.1f}-{high * 1e3:8.1f} {middle / bare:7.2f}")


def describe(backbone: TextBackbone, options: Any) -> str:
    return (
        f"{machine.describe()}, {options.threads} threads\n"
        f"{backbone.dtype_name}, {backbone.num_layers} layers of {backbone.width}; {options.rows} rows x "
        f"{options.tokens} tokens; rank {RANK} on query and value; {options.resident} adapters resident; "
        f"{options.repeats} rounds\n"
    )


if __name__ == "__main__":
    main()
