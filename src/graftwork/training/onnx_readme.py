"""The page that lies beside an exported ONNX model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graftwork.registry.manifest import Manifest

_PAGE = """\
# A text classifier in ONNX

`model.onnx` takes `input_ids` and `attention_mask` (int64 `[rows, tokens]`, padded on the right) and gives `logits` and
`probabilities` (float32 `[rows, classes]`). Base model, delta, pooling, head and temperature are all in it{parts}.
`tokenizer.json` cuts texts at {max_length} tokens and pads by itself; `classifier.json` names the labels in their
order{prompt}.

It computes in float32, the head in float64. A server that computes in bfloat16 rounds otherwise: compare with one in
float32 (`GRAFT_DTYPE=float32`).

    pip install onnxruntime tokenizers

```python
import json

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

with open("classifier.json", encoding="utf-8") as file:
    classifier = json.load(file)
tokenizer = Tokenizer.from_file("tokenizer.json")
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])


def classify(texts):
    rows = tokenizer.encode_batch([classifier["prompt"] + text for text in texts])
    given = {{
        "input_ids": np.array([row.ids for row in rows], np.int64),
        "attention_mask": np.array([row.attention_mask for row in rows], np.int64),
    }}
    (probabilities,) = session.run(["probabilities"], given)
    return [(classifier["labels"][row.argmax()], row) for row in probabilities]


for label, probabilities in classify(["a first text", "and a second one"]):
    print(label, probabilities.round(3))
```
"""


def readme(manifest: Manifest, *, one_file: bool) -> str:
    """What the files are and how they are run.

    Args:
        manifest: the adapter's.
        one_file: whether the weights are in model.onnx itself.
    """
    prompt = f", and what goes before every text (`{manifest.prompt}`)" if manifest.prompt else ""
    parts = "" if one_file else "; the weights are in `model.onnx.data`, which has to lie beside it"
    return _PAGE.format(max_length=f"{manifest.max_length:,}", prompt=prompt, parts=parts)
