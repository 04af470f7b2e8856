"""From the start of a process to the end of its first optimizer step: `python -m benchmarks.training.first_step`.

Of 1,000 tweets, MiniLM-L6, LoRA of rank 8 on all linear layers, batches of 16:

- `bare`: what no such run can do without: it imports torch, the model's class and PEFT, loads the base, takes one step.
- `bare-read`: the same with one reading of all texts before the step, in batches of 32 sorted by length, no gradients:
  what a start from a probe cannot do without.
- `trainer`: transformers' Trainer with PEFT, as `benchmarks.training.peers` writes it.
- `graft`: `graft train`, by its own record.

Each is a process of its own, in turn; run it on a machine that has nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.training.peers import MAX_LENGTH, Rows, lora, read, trainer
from benchmarks.training.runs import CACHE, draw

_BASE = CACHE / "models" / "minilm"
_CONTESTANTS = ("bare", "bare-read", "trainer", "graft")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=_CONTESTANTS, default=list(_CONTESTANTS))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        _child(asked.child, read(asked.rows))
        return
    seconds: dict[str, list[float]] = {name: [] for name in asked.only}
    with tempfile.TemporaryDirectory() as folder:
        rows, _ = draw(Path(folder), "tweets", 1000, False, 0)
        environment = {**os.environ, "GRAFT_HOME": f"{folder}/home", "HF_HUB_OFFLINE": "1"}
        add = [sys.executable, "-m", "graftwork", "base", "add", str(_BASE), "--name", "minilm"]
        subprocess.run(add, check=True, env=environment, stdout=subprocess.DEVNULL)
        for _ in range(asked.runs):
            for name in asked.only:
                seconds[name].append(_seconds(name, rows, environment))
    print(f"{describe()}\npython -m benchmarks.training.first_step {' '.join(sys.argv[1:])}\n")
    print("| | seconds to the first step, median | of runs |\n| --- | --- | --- |")
    for name, each in seconds.items():
        print(f"| {name} | {statistics.median(each):.1f} | {', '.join(f'{one:.1f}' for one in each)} |")


def _seconds(name: str, rows: Path, environment: dict[str, str]) -> float:
    if name == "graft":
        line = ["train", str(rows), "--base", "minilm", "--name", "bench/first", "--json"]
        command = [sys.executable, "-m", "graftwork", *line, "--set", f"max_length={MAX_LENGTH}"]
    else:
        command = [sys.executable, "-m", "benchmarks.training.first_step", "--child", name, "--rows", str(rows)]
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    told = json.loads(done.stdout.splitlines()[-1] if name != "graft" else done.stdout)
    return float(told["record"]["seconds_to_first_step"] if name == "graft" else told)


def _child(name: str, rows: Rows) -> None:
    if name == "trainer":
        from transformers import TrainerCallback

        class Told(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, *_: Any, **__: Any) -> None:
                _tell()

        options = argparse.Namespace(base=_BASE, rate=1e-3, epochs=1, seed=0)
        trainer(options, rows, (rows[0][:1], rows[1][:1]), lora, callbacks=[Told()])
    else:
        _bare(rows, read_first=name == "bare-read")
        _tell()


def _tell() -> None:
    import psutil

    print(time.time() - psutil.Process().create_time(), flush=True)
    os._exit(0)


def _bare(rows: Rows, *, read_first: bool) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer
    from transformers.models.bert.modeling_bert import BertModel

    tokenizer = Tokenizer.from_file(str(_BASE / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_LENGTH)
    tokenizer.no_padding()
    model = BertModel.from_pretrained(_BASE, add_pooling_layer=False)
    ids = sorted((each.ids for each in tokenizer.encode_batch(rows[0])), key=len)

    def vectors(batch: list[list[int]]) -> torch.Tensor:
        longest = max(map(len, batch))
        padded = torch.tensor([each + [0] * (longest - len(each)) for each in batch])
        mask = torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in batch])
        hidden: torch.Tensor = model(input_ids=padded, attention_mask=mask).last_hidden_state * mask[..., None]
        return hidden.sum(1) / mask.sum(1, keepdim=True)

    if read_first:
        with torch.no_grad():
            for start in range(0, len(ids), 32):
                vectors(ids[start : start + 32])
    targets = ["query", "key", "value", "dense"]
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=targets))
    head = torch.nn.Linear(model.config.hidden_size, len(set(rows[1])))
    trained = [*(each for each in model.parameters() if each.requires_grad), *head.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    batch = ids[len(ids) // 2 :][:16]
    loss = torch.nn.functional.cross_entropy(head(vectors(batch)), torch.zeros(16, dtype=torch.long))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


if __name__ == "__main__":
    main()
