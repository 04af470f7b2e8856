"""A published adapter as a model of its own, in Hugging Face layout."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftwork.adaptation.merge import merged_weights
from graftwork.backbones.quiet import quiet_transformers
from graftwork.errors import ModelUnsupported
from graftwork.registry.artifact import HEAD, MANIFEST, Artifact
from graftwork.registry.durable import storage_error

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.registry.manifest import Manifest

PAGE = "CLASSIFY.md"
_WEIGHTS = (".safetensors", ".safetensors.index.json")
_PAGE = """\
# A text classifier for transformers

The base model with the delta in its weights, its tokenizer, the head (`head.safetensors`) and what else has to be known
(`manifest.json`: labels, pooling, temperature, what goes before a text). It is stored in float32, and answers as
a server that computes in float32 does.

    pip install torch transformers safetensors

```python
import json

import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

with open("manifest.json", encoding="utf-8") as file:
    manifest = json.load(file)
model = AutoModel.from_pretrained(".", dtype=torch.float32)
if model.config.is_encoder_decoder:
    model = model.get_encoder()
tokenizer = AutoTokenizer.from_pretrained(".", padding_side="right")
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
head = {name: tensor.double() for name, tensor in load_file("head.safetensors").items()}


def pool(hidden, mask):
    mode = manifest["pooling"]["mode"]
    if mode == "cls":
        vectors = hidden[:, 0]
    elif mode == "last":
        vectors = hidden[torch.arange(len(hidden)), mask.sum(dim=1) - 1]
    else:
        vectors = (hidden * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    return torch.nn.functional.normalize(vectors) if manifest["pooling"]["normalize"] else vectors


def classify(texts):
    prompted = [manifest["prompt"] + text for text in texts]
    rows = tokenizer(prompted, padding=True, truncation=True, max_length=manifest["max_length"], return_tensors="pt")
    given = {name: rows[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        vectors = pool(model(**given).last_hidden_state, rows["attention_mask"]).double()
    if "hidden.weight" in head:
        vectors = torch.relu(vectors @ head["hidden.weight"].T + head["hidden.bias"])
    logits = (vectors @ head["head.weight"].T + head["head.bias"]) / manifest["temperature"]
    return [(manifest["labels"][row.argmax()], row.numpy()) for row in logits.softmax(dim=1)]


for label, probabilities in classify(["a first text", "and a second one"]):
    print(label, probabilities.round(3))
```
"""


def export_merged(
    backbone: Backbone, artifact: Artifact, base: Path, to: Path, ancestors: Sequence[Artifact] = ()
) -> list[str]:
    """Write the base with the delta merged into its weights, its tokenizer, the head and the manifest.

    `AutoModel.from_pretrained` gives the hidden states that the adapter has. The head stands beside it with a page that
    says how it is used: transformers' own classes for sequence classification pool otherwise, and put layers between.

    Args:
        backbone: the base; the labels are noted in its configuration.
        artifact: an adapter of it.
        base: the base's files.
        to: a folder that exists and is empty; it is emptied again when something fails.
        ancestors: the adapters it stands on, the nearest first; their updates are merged too.

    Returns:
        Names of the files.

    Raises:
        SettingsInvalid: if the delta cannot be merged.
        ModelUnsupported: if the adapter answers several tasks.
        StorageError: if the folder cannot be written.
    """
    refuse_tasks(artifact.manifest)
    weights = merged_weights(backbone, artifact, ancestors)
    with written(base, to):
        config: Any = backbone.model.config
        config.id2label = dict(enumerate(artifact.manifest.labels))
        config.label2id = {label: index for index, label in enumerate(artifact.manifest.labels)}
        with quiet_transformers():
            backbone.model.save_pretrained(to, state_dict=weights)  # type: ignore[operator]
        (to / HEAD).write_bytes(artifact.files[HEAD])
        (to / MANIFEST).write_bytes(artifact.manifest_bytes)
        if artifact.manifest.modality == "text":
            (to / PAGE).write_text(_PAGE, "utf-8")
    return names_in(to)


@contextmanager
def written(base: Path, to: Path) -> Iterator[None]:
    """Copy what a base has beside its weights, and let the block write the rest; `to` is emptied when that fails.

    Raises:
        StorageError: if the folder cannot be written.
    """
    try:
        for file in sorted(base.rglob("*")):
            if file.is_file() and not file.name.endswith(_WEIGHTS):
                target = to / file.relative_to(base)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
        yield
    except OSError as error:
        for path in to.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise storage_error(f"{to} cannot be written", error) from error


def names_in(to: Path) -> list[str]:
    """Names of all files in a folder."""
    return sorted(str(path.relative_to(to)) for path in to.rglob("*") if path.is_file())


def refuse_tasks(manifest: Manifest) -> None:
    """Refuse to make a model of its own of an adapter of several tasks: what it is exported with takes one softmax.

    Raises:
        ModelUnsupported: if it answers several tasks.
    """
    if manifest.tasks:
        names = ", ".join(task.name for task in manifest.tasks)
        raise ModelUnsupported(
            f"the adapter answers {len(manifest.tasks)} tasks ({names}), and a model of its own answers one",
            remedy="Export the adapter's own files (--format peft), or train one adapter for each task.",
        )
