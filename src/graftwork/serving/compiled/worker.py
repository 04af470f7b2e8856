"""The process that compiles: `python -m graftwork.serving.compiled.worker`, names of job files on its standard input.

A process of its own, because compiling keeps Python's lock for seconds, and because code that crashes is better found
out here than in the process that serves. It gives way to everything else on the machine, and ends with its parent.

It writes a line for every job that is done. A job that fails ends it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graftwork.backbones.network import Network, open_network
from graftwork.serving.compiled.checks import Case, all_agree, make_cases, make_slots, make_tables
from graftwork.serving.compiled.graph import Graph, embedding_names
from graftwork.serving.compiled.native import NativeNetwork
from graftwork.serving.compiled.shares import Inputs
from graftwork.serving.compiled.variant import Variant

LIBRARY = "network.so"
REFERENCES = "references.safetensors"
EXPECTED = "expected.safetensors"
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG
_MOST_ROWS = 1 << 16
# Precompiled headers take fourteen seconds to make and save four a network; the code that only calls the kernels is as
# fast unoptimised (docs/decisions/0045-compiled-ahead-of-time.md). Who runs a network says with how many threads.
_INDUCTOR = {
    "freezing": True,
    "cpp.dynamic_threads": True,
    "aot_inductor.precompile_headers": False,
    "aot_inductor.compile_wrapper_opt_level": "O0",
}


def main() -> None:
    """Do the jobs that are named on standard input, at the niceness that the only argument says."""
    _give_way(int(sys.argv[1]))
    # Whatever libraries print is no answer: it goes to the log.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            compile_job(line.rstrip("\n"))
            answers.write("made\n")
            answers.flush()


def compile_job(job_file: str) -> None:
    """Compile what a job file asks for into the folder that it names; any failure is an exception."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    get_cpp_compiler()  # an error where there is none, before anything else is done in vain
    job = json.loads(Path(job_file).read_text())
    variant = Variant(job["part"], job["split"], tuple((name, rank) for name, rank in job["sites"]))
    folder = Path(job["out"])
    dtype = getattr(torch, job["dtype"])
    # With a single thread the compiler leaves its parallel loops out.
    torch.set_num_threads(max(2, os.cpu_count() or 1))
    with torch.no_grad():
        network = open_network(Path(job["base"]), dtype=dtype, device=torch.device("cpu"))
        cases = make_cases(job["vocabulary"], job["max_length"])
        _check_weights(network, cases, folder)
        inputs = [_inputs(network, variant, case, dtype) for case in cases]
        graph = Graph(network, variant)
        expected = [graph(*arguments(given)) for given in inputs]
        library = _compile(graph, arguments(inputs[3]), job["max_length"], folder)
        native = NativeNetwork(library)
        found = [torch.empty_like(meant, memory_format=torch.contiguous_format) for meant in expected]
        for given, result in zip(inputs, found, strict=True):
            native.run(given.share(0, len(result)), result)
    answers = iter(found)
    if not all_agree(cases, lambda _: next(answers), expected):
        raise RuntimeError("the compiled network does not compute what the eager one does")
    kept = {f"hidden.{index}": hidden for index, hidden in enumerate(expected)}
    kept |= {
        f"activations.{index}": given.activations for index, given in enumerate(inputs) if given.activations is not None
    }
    _write(folder / EXPECTED, kept)


def arguments(inputs: Inputs) -> tuple[Any, ...]:
    """The arguments of `Graph.forward`."""
    half = len(inputs.tables) // 2
    a, b = list(inputs.tables[:half]), list(inputs.tables[half:])
    return inputs.input_ids, inputs.attention_mask, list(inputs.embeddings), inputs.activations, inputs.slots, a, b


def case_inputs(
    variant: Variant, case: Case, embeddings: list[Tensor], activations: Tensor | None, tables: Sequence[list[Tensor]]
) -> Inputs:
    """What a network is given for a case."""
    slots = make_slots(len(variant.sites), len(case.input_ids)) if variant.sites else None
    a, b = tables
    return Inputs(case.input_ids, case.attention_mask, embeddings, activations, slots, [*a, *b])


def _inputs(network: Network, variant: Variant, case: Case, dtype: torch.dtype) -> Inputs:
    embeddings = [network.model.get_parameter(name).data for name in embedding_names(network.model)]
    activations = None
    if variant.part == "tail":
        run = Graph(network, Variant("trunk", variant.split))
        activations = run(case.input_ids, case.attention_mask, embeddings, None, None, [], []).contiguous()
    return case_inputs(variant, case, embeddings, activations, make_tables(network.model, variant.sites, dtype))


def _compile(graph: Graph, sample: tuple[Any, ...], max_length: int, folder: Path) -> Path:
    import torch._inductor
    from torch.export import Dim, export
    from torch.fx.experimental import _config as sizes

    rows = Dim("rows", min=1, max=_MOST_ROWS)
    tokens = Dim("tokens", min=1, max=max_length)
    # Each site's tables have as many slots as their bucket; where no row has an update there is one of zeros.
    slots = [{0: Dim(f"slots_{site}", min=1)} for site in range(len(graph.sites))]
    _, _, embeddings, activations, picked, *_ = sample
    shapes: tuple[Any, ...] = (
        *({0: rows, 1: tokens}, {0: rows, 1: tokens}, [{} for _ in embeddings]),
        *(None if activations is None else {0: rows, 1: tokens}, None if picked is None else {1: rows}),
        *(slots, slots),
    )
    # Sizes are not to be guarded against the values that the sample happens to have.
    with sizes.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        program = export(graph, sample, dynamic_shapes=shapes)
        package = torch._inductor.aoti_compile_and_package(
            program, package_path=str(folder / "network.pt2"), inductor_configs=dict(_INDUCTOR)
        )
    with zipfile.ZipFile(package) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".so"))
        (folder / LIBRARY).write_bytes(archive.read(name))
    Path(package).unlink()
    return folder / LIBRARY


def _check_weights(network: Network, cases: Sequence[Case], folder: Path) -> None:
    """The network that was opened here must be the one that serves: it must give what that one gave."""
    from safetensors.torch import load_file

    references = load_file(folder / REFERENCES)

    def run(case: Case) -> Tensor:
        hidden = network.model(input_ids=case.input_ids, attention_mask=case.attention_mask).last_hidden_state
        assert isinstance(hidden, Tensor)
        return hidden

    if not all_agree(cases, run, [references[str(index)] for index in range(len(cases))]):
        raise RuntimeError("the folder of the base model does not hold the weights that are being served")


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def _give_way(niceness: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if hasattr(os, "nice"):
        os.nice(niceness)


if __name__ == "__main__":
    main()
