"""A published adapter as one ONNX file: tokens in, probabilities of its labels out.

The file holds the base with the delta in its weights (a prefix stays what it is: keys and values), the pooling, the
head and the temperature. What is written is asked again by ONNX Runtime, at other sizes than it was traced at, before
anybody is told of it (docs/decisions/0086-onnx-and-languages.md).
"""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load
from torch import Tensor, nn

from graftwork.adaptation import strategy_of
from graftwork.adaptation.merge import merged_weights
from graftwork.backbones.backbone import TokenBatch
from graftwork.backbones.belonging import check_belongs
from graftwork.backbones.onnx_graph import require_onnx
from graftwork.backbones.pooling import pool
from graftwork.errors import ModelUnsupported, Problem
from graftwork.registry.artifact import HEAD, MANIFEST, Artifact
from graftwork.registry.durable import storage_error
from graftwork.training.export import refuse_tasks
from graftwork.training.onnx_readme import readme

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.registry.manifest import Manifest, Pooling

MODEL, TENSORS, CLASSIFIER, TOKENIZER = "model.onnx", "model.onnx.data", "classifier.json", "tokenizer.json"
OPSET = 17
ONE_FILE_BYTES = 1_800_000_000
"""Weights beyond this go into a file beside the graph: a protobuf message holds 2 GB at most."""
AGREEMENT = 1e-3
"""By how much a probability may differ between ONNX Runtime and PyTorch."""
_INPUTS = ("input_ids", "attention_mask")
_OUTPUTS = ("logits", "probabilities")


class TokenClassifier(nn.Module):
    """Backbone, pooling, head and temperature as one network.

    Args:
        model: the backbone's network, the delta in place.
        pooling: how token vectors become one.
        head: the head's tensors, float32.
        temperature: the logits are divided by it.
    """

    def __init__(self, model: nn.Module, pooling: Pooling, head: dict[str, Tensor], temperature: float) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling
        # In float64, as serving does: a head's weights may be large and cancel.
        self.hidden = _linear(head["hidden.weight"], head["hidden.bias"]) if "hidden.weight" in head else None
        self.head = _linear(head["head.weight"].double() / temperature, head["head.bias"].double() / temperature)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits divided by the temperature, and probabilities, each float32 `[rows, classes]`.

        Args:
            input_ids: int64 `[rows, tokens]`, padded on the right.
            attention_mask: int64 `[rows, tokens]`, 1 for a token and 0 for padding.
        """
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        vectors = pool(hidden, attention_mask, self.pooling).double()
        if self.hidden is not None:
            vectors = torch.relu(self.hidden(vectors))
        logits = self.head(vectors)
        return logits.float(), logits.softmax(dim=-1).float()


def export_onnx(
    backbone: Backbone,
    artifact: Artifact,
    to: Path,
    ancestors: Sequence[Artifact] = (),
    *,
    one_file_bytes: int = ONE_FILE_BYTES,
) -> list[str]:
    """Write an adapter as an ONNX model, with its tokenizer, its labels and a README that says how to run it.

    Args:
        backbone: the base in float32 on the CPU, for this call alone: the delta is put into its weights.
        artifact: an adapter of it.
        to: a folder that exists and is empty; it is emptied again when something fails.
        ancestors: the adapters it stands on, the nearest first.
        one_file_bytes: weights beyond this go into a file of their own beside the graph.

    Returns:
        Names of the files.

    Raises:
        DependencyMissing: if onnx or onnxruntime is not installed.
        BaseMismatch: if the adapter was made for another base.
        ModelUnsupported: if the network cannot be written as an ONNX graph, or ONNX Runtime answers otherwise.
        StorageError: if the folder cannot be written.
    """
    require_onnx()
    manifest = artifact.manifest
    refuse_tasks(manifest)
    check_belongs(manifest, backbone)
    head = load(artifact.files[HEAD])
    try:
        with _adapted(backbone, artifact, ancestors):
            network = TokenClassifier(backbone.model, manifest.pooling, head, manifest.temperature).eval()
            _write_graph(network, backbone, to, manifest, one_file_bytes)
            _check_answers(network, backbone, to / MODEL, manifest.max_length)
        backbone.texts_only("an ONNX graph").save(to / TOKENIZER, max_length=manifest.max_length)
        described = {
            "labels": manifest.labels,
            "prompt": manifest.prompt,
            "max_length": manifest.max_length,
            "digest": artifact.digest,
            "base": manifest.base,
        }
        (to / CLASSIFIER).write_text(json.dumps(described, ensure_ascii=False, indent=2) + "\n", "utf-8")
        (to / MANIFEST).write_bytes(artifact.manifest_bytes)
        (to / "README.md").write_text(readme(manifest, one_file=not (to / TENSORS).exists()), "utf-8")
    except BaseException as error:
        for path in to.iterdir():
            path.unlink()
        if isinstance(error, OSError):
            raise storage_error(f"{to} cannot be written", error) from error
        raise
    return sorted(path.name for path in to.iterdir())


@contextmanager
def _adapted(backbone: Backbone, artifact: Artifact, ancestors: Sequence[Artifact]) -> Iterator[None]:
    """The delta in the weights; a prefix, which changes none, in place in the attention."""
    if artifact.manifest.strategy == "prefix-tuning":
        artifact.check()
        delta = {name: content for name, content in artifact.files.items() if name != HEAD}
        with strategy_of(artifact.manifest.strategy).restore(backbone, delta) as attachment:
            for parameter in attachment.parameters():
                parameter.requires_grad_(False)  # the tracer takes no constant that asks for a gradient
            yield
        return
    backbone.model.load_state_dict(merged_weights(backbone, artifact, ancestors))
    yield


def _write_graph(network: nn.Module, backbone: Backbone, to: Path, manifest: Manifest, one_file_bytes: int) -> None:
    import onnx

    batch = _batch(backbone, [5, 3], manifest.max_length, seed=0)
    # Of weights that do not fit into one message the exporter makes a file each, under names of its own.
    with tempfile.TemporaryDirectory(dir=to, prefix="graph-") as scratch:
        raw = Path(scratch) / MODEL
        _trace(network, batch, raw)
        graph = onnx.load(raw)
        facts = {"labels": json.dumps(manifest.labels, ensure_ascii=False), "prompt": manifest.prompt}
        onnx.helper.set_model_props(graph, {**facts, "max_length": str(manifest.max_length)})
        weights = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
        onnx.save_model(graph, to / MODEL, save_as_external_data=weights > one_file_bytes, location=TENSORS)


def _trace(network: nn.Module, batch: TokenBatch, path: Path) -> None:
    # The exporter by torch.export gives the same answers at twelve times the work, and needs onnxscript.
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                network,
                (batch.input_ids, batch.attention_mask),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=list(_INPUTS),
                output_names=list(_OUTPUTS),
                dynamic_axes={
                    **{name: {0: "rows", 1: "tokens"} for name in _INPUTS},
                    **{name: {0: "rows"} for name in _OUTPUTS},
                },
            )
    except OSError:
        raise
    except Exception as error:
        raise _not_writable(str(error).strip().splitlines()[0] if str(error) else type(error).__name__) from error


def _check_answers(network: nn.Module, backbone: Backbone, path: Path, max_length: int) -> None:
    """Ask both at one row, at rows of several lengths and at the longest."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for seed, lengths in enumerate(([4], [9, 2, 6], [max_length]), start=1):
            batch = _batch(backbone, lengths, max_length, seed=seed)
            given = dict(zip(_INPUTS, (batch.input_ids.numpy(), batch.attention_mask.numpy()), strict=True))
            (found,) = session.run(["probabilities"], given)
            with torch.no_grad():
                wanted = network(batch.input_ids, batch.attention_mask)[1]
            difference = (torch.from_numpy(found) - wanted).abs().max().item()
            if not difference <= AGREEMENT:
                size = f"{len(lengths)} x {max(lengths)} tokens"
                raise _not_writable(f"at {size} ONNX Runtime differs by {difference:.2g}")
    except ModelUnsupported:
        raise
    except Exception as error:
        raise _not_writable(f"ONNX Runtime cannot run it: {str(error).strip().splitlines()[0]}") from error


def _not_writable(why: str) -> ModelUnsupported:
    return ModelUnsupported(
        "this network cannot be written as an ONNX graph that answers as it does",
        problems=[Problem("ONNX", why)],
        remedy="Export it with --format transformers, or in the adapter's own files.",
    )


def _batch(backbone: Backbone, lengths: Sequence[int], max_length: int, *, seed: int) -> TokenBatch:
    """Random tokens, rows of these lengths or the longest allowed."""
    generator = torch.Generator().manual_seed(seed)
    known = min(backbone.texts_only("an ONNX graph").size, backbone.model.get_input_embeddings().num_embeddings)  # type: ignore[operator]
    rows = [torch.randint(known, (min(length, max_length),), generator=generator).tolist() for length in lengths]
    batch = backbone.collate(rows)
    assert isinstance(batch, TokenBatch)
    return batch


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
    layer.weight.data.copy_(weight)
    layer.bias.data.copy_(bias)
    return layer.requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of every shape it traces; what is wrong is found by asking the result."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
