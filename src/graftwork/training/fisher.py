"""Fisher information of a classifier's parameters, and the file it is kept in beside an adapter.

The diagonal of the Fisher information is the mean over rows of the squared gradient of log p(label | row), each row by
itself: the square of a batch's mean gradient would depend on the size of the batch. The label is drawn from the model's
own answer, as the definition has it (Kunstner et al., arXiv 1905.12558); no label of the rows is needed.

Stored of a matrix are the sums of its rows and of its columns, whose product, divided by the sum of all, stands for it
(Shazeer & Stern, arXiv 1804.04235): nought of a word that never occurs stays nought. So it takes less than 1 % of what
is protected. Vectors are stored as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from graftwork.errors import ArtifactInvalid, Problem
from graftwork.registry.artifact import FISHER
from graftwork.training.activations import Activations
from graftwork.training.progress import Progress

if TYPE_CHECKING:
    from graftwork.adaptation.strategy import Attachment
    from graftwork.backbones.backbone import Backbone
    from graftwork.training.probe import Linear

ROWS, COLUMNS = "rows", "columns"


def fisher_information(
    backbone: Backbone,
    attachment: Attachment,
    head: Linear,
    texts: Sequence[str],
    *,
    max_length: int,
    seed: int,
    progress: Progress,
) -> list[Tensor]:
    """The diagonal of the Fisher information of an attached delta and a head, at the values they have.

    One row after the other: it works for every architecture and needs the memory of a single gradient.

    Args:
        backbone: the frozen backbone.
        attachment: the delta in place on it.
        head: the calibrated head.
        texts: of the task that is to be kept.
        max_length: tokens kept of a text.
        seed: of the labels that are drawn.
        progress: told of every row.

    Returns:
        For each of `attachment.parameters()`, and then for the head's weight `[classes, width]` and bias `[classes]`,
        float32 of its shape.
    """
    weight = nn.Parameter(torch.from_numpy(head.weight).float().to(backbone.device))
    bias = nn.Parameter(torch.from_numpy(head.bias).float().to(backbone.device))
    parameters = [*attachment.parameters(), weight, bias]
    totals = [torch.zeros_like(parameter, requires_grad=False) for parameter in parameters]
    # Nothing below the split is kept: each row is read once.
    activations = Activations(backbone, backbone.encode(texts, max_length), split=attachment.split)
    generator = torch.Generator().manual_seed(seed)
    attachment.train(False)
    progress.stage("estimating the Fisher information", len(texts))
    for row in range(len(texts)):
        logits = nn.functional.linear(activations.vectors([row], attachment), weight, bias)[0].float()
        answers = logits.log_softmax(dim=0)
        label = int(torch.multinomial(answers.detach().exp().cpu(), 1, generator=generator))
        gradients = torch.autograd.grad(answers[label], parameters, allow_unused=True)
        for total, gradient in zip(totals, gradients, strict=True):
            if gradient is not None:
                total.addcmul_(gradient, gradient)
        progress.advance(1)
    return [total / len(texts) for total in totals]


def write_fisher(fisher: Sequence[Tensor], *, before: bytes | None = None) -> bytes:
    """The file that holds Fisher information; the same values give the same bytes.

    Args:
        fisher: of each parameter.
        before: a file that holds what is to be added to it: that of the tasks before (online EWC, arXiv 1805.06370).
    """
    parts: dict[str, Tensor] = {}
    for place, part in enumerate(fisher):
        matrix = part.reshape(len(part), -1) if part.ndim > 1 else part.reshape(1, -1)
        parts[f"{place:04d}.{COLUMNS}"] = matrix.sum(dim=0).cpu()
        if part.ndim > 1:
            parts[f"{place:04d}.{ROWS}"] = matrix.sum(dim=1).cpu()
    if before is not None:
        earlier = load(before)
        parts = {name: part + earlier[name] for name, part in parts.items()}
    content: bytes = save({name: part.contiguous() for name, part in sorted(parts.items())})
    return content


def read_fisher(content: bytes, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Fisher information of each parameter, float32 of its shape, from its file.

    Args:
        content: the file.
        parameters: what it is for.

    Raises:
        ArtifactInvalid: if it is that of other parameters.
    """
    parts = load(content)
    wanted: dict[str, int] = {}
    for place, parameter in enumerate(parameters):
        wanted[f"{place:04d}.{COLUMNS}"] = parameter[0].numel() if parameter.ndim > 1 else parameter.numel()
        if parameter.ndim > 1:
            wanted[f"{place:04d}.{ROWS}"] = len(parameter)
    problems = [
        Problem(f"{FISHER}, {name}", f"has the shape {_shape(parts, name)} instead of [{size}]")
        for name, size in wanted.items()
        if _shape(parts, name) != [size]
    ]
    problems += [Problem(f"{FISHER}, {name}", "is left over") for name in sorted(parts.keys() - wanted.keys())]
    if problems:
        raise ArtifactInvalid(
            "the Fisher information beside the adapter is that of other parameters",
            problems=problems,
            remedy="Give old rows (--source FILE), from which it is estimated anew.",
        )
    return [_whole(parts, place, parameter) for place, parameter in enumerate(parameters)]


def _whole(parts: Mapping[str, Tensor], place: int, parameter: Tensor) -> Tensor:
    columns = parts[f"{place:04d}.{COLUMNS}"]
    if parameter.ndim < 2:
        return columns.reshape(parameter.shape).to(parameter.device)
    rows = parts[f"{place:04d}.{ROWS}"]
    total = rows.sum().clamp_min(torch.finfo(torch.float32).tiny)
    return torch.outer(rows, columns / total).reshape(parameter.shape).to(parameter.device)


def _shape(parts: Mapping[str, Tensor], name: str) -> list[int] | None:
    return list(parts[name].shape) if name in parts else None
