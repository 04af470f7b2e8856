"""An ONNX file somebody brings: read as data, and refused where it could do more than compute vectors.

Nothing is run here. Operators are those of the ONNX standard that end by themselves, read no file and draw no lots;
weights are in the file itself or in the one beside it; every one is finite.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftwork.errors import DependencyMissing, ModelUnreadable, ModelUnsupported, Problem

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

MOST_BYTES = 2 * 2**30 - 1
"""Of the graph's own file: what a protobuf message holds."""
MOST_WEIGHT_BYTES = 64 * 2**30
_MOST_NODES = 200_000
_STANDARD = ("", "ai.onnx")
_DATA_ENDINGS = (".data", "_data")
# What they are refused for.
_UNSAFE = {
    **dict.fromkeys(("Loop", "Scan"), "may run without end"),
    **dict.fromkeys(
        ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
        "draws lots, so that a text has no one vector",
    ),
}
# Names of inputs as exporters for PyTorch and TensorFlow write them.
_INPUTS = {
    "input_ids": "input_ids",
    "input_word_ids": "input_ids",
    "attention_mask": "attention_mask",
    "input_mask": "attention_mask",
    "token_type_ids": "token_type_ids",
    "input_type_ids": "token_type_ids",
    "segment_ids": "token_type_ids",
}
_TOKENS = ("last_hidden_state", "token_embeddings")
_POOLED = ("sentence_embedding", "pooler_output")


@dataclass(frozen=True)
class GraphInput:
    """An input of the graph.

    Attributes:
        name: as the graph spells it.
        role: `input_ids`, `attention_mask` or `token_type_ids`.
        dtype: `int64` or `int32`.
    """

    name: str
    role: str
    dtype: str


@dataclass(frozen=True)
class OnnxGraph:
    """What a graph takes and gives.

    Attributes:
        path: its file.
        files: the file, and the one beside it that holds weights, if there is one.
        inputs: what it takes.
        output: the output that is used.
        pooled: whether that is one vector a text, `[rows, width]`, and not one a token.
        parameters: numbers in its weights.
    """

    path: Path
    files: tuple[Path, ...]
    inputs: tuple[GraphInput, ...]
    output: str
    pooled: bool
    parameters: int


def find_graph(folder: Path) -> Path | None:
    """The ONNX file of a folder that has no safetensors weights; None for other folders.

    Raises:
        ModelUnsupported: if there are several.
    """
    found = sorted(folder.glob("*.onnx"))
    if not found or any(folder.rglob("*.safetensors")):
        return None
    if len(found) > 1:
        raise ModelUnsupported(
            f"{folder} holds {len(found)} ONNX files",
            problems=[Problem(path.name, "is one of them") for path in found],
            remedy="Leave the one that is meant in a folder with the tokenizer's files.",
        )
    return found[0]


def require_onnx() -> None:
    """Refuse early what needs packages that are not installed.

    Raises:
        DependencyMissing: if onnx or onnxruntime is not there.
    """
    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise DependencyMissing(
            f"ONNX needs {' and '.join(missing)}, not installed here", remedy="pip install 'graftwork[onnx]'"
        )


def read_graph(path: Path, *, output: str = "") -> OnnxGraph:
    """Read and check an ONNX file.

    Args:
        path: the file.
        output: name of the output to use; found when it is not said.

    Raises:
        DependencyMissing: if onnx is not installed.
        ModelUnreadable: if it is damaged or unsafe; everything found is listed.
        ModelUnsupported: if it is sound, but of a kind that cannot be used.
    """
    require_onnx()
    model = _parse(path)
    data = [path.with_name(path.name + ending) for ending in _DATA_ENDINGS]
    problems = [*_wrong_operators(model), *_wrong_weights(model, path, data)]
    if problems:
        raise ModelUnreadable(
            f"{path.name} is not safe to run",
            problems=problems[:20],
            remedy="Export the model again with operators of the ONNX standard alone, not rewritten by an optimiser, "
            f"its weights in the file or in {path.name}.data beside it.",
        )
    inputs, chosen = _inputs(model, path), _output(model, path, output)
    external = {tensor.external_data[0].value for tensor in _tensors(model) if tensor.data_location == 1}
    files = (path, *(each for each in data if each.name in external))
    parameters = sum(_size(tensor) for tensor in model.graph.initializer)
    return OnnxGraph(path, files, inputs, chosen.name, len(chosen.type.tensor_type.shape.dim) == 2, parameters)


def _parse(path: Path) -> ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    remedy = "Copy or export the file again."
    if path.is_symlink() or not path.is_file():
        raise ModelUnreadable(f"{path.name} is a link, or no file", remedy="Copy the file itself.")
    if path.stat().st_size > MOST_BYTES:
        raise ModelUnreadable(f"{path.name} is larger than 2 GB, which ONNX cannot be", remedy=remedy)
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError as error:
        raise ModelUnreadable(f"{path.name} is no ONNX file, or a damaged one: {error}", remedy=remedy) from error
    if not model.graph.node or not model.opset_import:
        raise ModelUnreadable(f"{path.name} holds no graph", remedy=remedy)
    return model


def _wrong_operators(model: ModelProto) -> list[Problem]:
    own = {(function.domain, function.name) for function in model.functions}
    problems: dict[tuple[str, str], Problem] = {}
    count = 0
    for node in _nodes(model):
        count += 1
        if node.domain not in _STANDARD and (node.domain, node.op_type) not in own:
            what = f"is an operator of {node.domain!r}, not of the ONNX standard"
            problems[node.domain, node.op_type] = Problem(f"operator {node.op_type}", what)
        elif node.domain in _STANDARD and node.op_type in _UNSAFE:
            problems[node.domain, node.op_type] = Problem(f"operator {node.op_type}", _UNSAFE[node.op_type])
    if count > _MOST_NODES:
        return [Problem("graph", f"has {count:,} nodes; at most {_MOST_NODES:,} are taken"), *problems.values()]
    return list(problems.values())


def _wrong_weights(model: ModelProto, path: Path, data: list[Path]) -> list[Problem]:
    import numpy as np
    from onnx import numpy_helper

    problems = []
    names = {each.name: each for each in data}
    for tensor in _tensors(model):
        where = f"tensor {tensor.name or '(without a name)'}"
        if tensor.data_location == 1:
            wrong = _wrong_place({entry.key: entry.value for entry in tensor.external_data}, names)
            if wrong:
                problems.append(Problem(where, wrong))
                continue
        try:
            values = numpy_helper.to_array(tensor, base_dir=str(path.parent))
        except Exception as error:
            problems.append(Problem(where, f"cannot be read: {str(error).splitlines()[0]}"))
            continue
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            problems.append(Problem(where, "holds NaN or infinity"))
    # A mask is often made with an infinite constant, which is no weight.
    weights = {f"tensor {tensor.name}" for tensor in model.graph.initializer if _size(tensor) > 1}
    return [each for each in problems if each.what != "holds NaN or infinity" or each.where in weights]


def _wrong_place(external: dict[str, str], names: dict[str, Path]) -> str:
    """Why a tensor's bytes may not be read from where it says; empty when they may."""
    location = external.get("location", "")
    place = names.get(location)
    if place is None:
        return f"is in {location!r}; weights outside the graph's file are taken from {' or '.join(names)} alone"
    if place.is_symlink() or not place.is_file():
        return f"is in {location!r}, which is a link or not there"
    size = place.stat().st_size
    if size > MOST_WEIGHT_BYTES:
        return f"is in {location!r}, which is larger than {MOST_WEIGHT_BYTES >> 30} GB"
    begin, length = external.get("offset", "0"), external.get("length", str(size))
    if not (begin.isdecimal() and length.isdecimal() and int(begin) + int(length) <= size):
        return f"is at byte {begin} of {location!r}, {length} bytes long; the file has {size:,}"
    return ""


def _inputs(model: ModelProto, path: Path) -> tuple[GraphInput, ...]:
    from onnx import TensorProto as Types

    weights = {tensor.name for tensor in model.graph.initializer}
    inputs, problems = [], []
    for each in model.graph.input:
        if each.name in weights:
            continue
        role = _INPUTS.get(each.name.split(":")[0])
        kind, shape = each.type.tensor_type.elem_type, each.type.tensor_type.shape.dim
        if role is None:
            problems.append(Problem(f"input {each.name}", "is not known; ids, mask and token types are"))
        elif kind not in (Types.INT64, Types.INT32):
            problems.append(Problem(f"input {each.name}", "does not take int64 or int32"))
        elif len(shape) != 2 or any(axis.dim_value for axis in shape):
            sizes = [axis.dim_value or axis.dim_param or "?" for axis in shape]
            problems.append(Problem(f"input {each.name}", f"has the shape {sizes}; rows and tokens must be free"))
        else:
            inputs.append(GraphInput(each.name, role, "int64" if kind == Types.INT64 else "int32"))
    roles = [each.role for each in inputs]
    problems += [
        Problem("graph", f"has {roles.count(role) or 'no'} inputs for {role}")
        for role in ("input_ids", "attention_mask")
        if roles.count(role) != 1 and not problems
    ]
    if problems:
        raise ModelUnsupported(
            f"{path.name} does not take what a text encoder takes",
            problems=problems,
            remedy="Export it with the inputs input_ids and attention_mask, rows and tokens of any number.",
        )
    return tuple(inputs)


def _output(model: ModelProto, path: Path, wanted: str) -> Any:
    outputs = {each.name: each for each in model.graph.output}
    usable = {name: each for name, each in outputs.items() if len(each.type.tensor_type.shape.dim) in (2, 3)}
    if wanted in usable:
        return usable[wanted]
    for name in () if wanted else (*_TOKENS, *_POOLED):
        if name in usable:
            return usable[name]
    if len(usable) == 1 and not wanted:
        return next(iter(usable.values()))
    raise ModelUnsupported(
        f"{path.name} has no output {wanted!r}" if wanted else f"which output of {path.name} is meant cannot be told",
        problems=[Problem(f"output {name}", "can be used" if name in usable else "is no vectors") for name in outputs],
        remedy="Say which holds a vector a token or a text: --set output=NAME.",
    )


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Every node, those of subgraphs and of the model's own functions too."""
    yield from _nodes_of(model.graph.node)
    for function in model.functions:
        yield from _nodes_of(function.node)


def _nodes_of(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes_of(graph.node)


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every constant: of the graph, of subgraphs, of attributes."""
    yield from _tensors_of(model.graph)
    for node in _nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in (attribute.g, *attribute.graphs):
                yield from _tensors_of(graph)


def _tensors_of(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices


def _size(tensor: TensorProto) -> int:
    size = 1
    for axis in tensor.dims:
        size *= axis
    return size
