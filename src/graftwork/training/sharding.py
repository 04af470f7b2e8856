"""A backbone and what is trained of it, spread over the processes of a run by PyTorch's FSDP2.

A layer's parameters are put together only while the layer runs, forwards or backwards; between, every process holds its
part of them, of their gradients and of AdamW's moments. Neither the model's modules nor the attachment are changed:
stand-ins hold the parts and run the layers' own forwards, and everything is put back at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from graftwork.adaptation.parameters import ParameterPlace, parameter_places
from graftwork.adaptation.weights import WeightsAttachment
from graftwork.backbones.stack import ReachedSplit, forwards_replaced
from graftwork.errors import SettingsInvalid, TrainingInterrupted
from graftwork.training.processes import Processes, ProcessLost, processes

if TYPE_CHECKING:
    from types import TracebackType

    from torch.distributed.device_mesh import DeviceMesh

    from graftwork.adaptation.strategy import Attachment, Delta
    from graftwork.backbones.backbone import Backbone
    from graftwork.training.config import FineTuningSettings


def check_sharding(settings: FineTuningSettings, *, resume: bool = False) -> None:
    """Refuse to shard what cannot be.

    Raises:
        SettingsInvalid: if there is one process only, the loss is scaled, or an earlier run is to go on.
    """
    if settings.sharding == "none":
        return
    if processes().count == 1:
        raise SettingsInvalid(
            "fine_tuning.sharding=fsdp spreads a run over several processes, and there is one",
            remedy="Start them with torchrun --nproc-per-node 2 -m graftwork train …, or leave the setting out.",
        )
    if settings.precision == "float16":
        raise SettingsInvalid(
            "fine_tuning.precision=float16 scales the loss, which sharded gradients would have to agree on",
            remedy="Use bfloat16, or leave fine_tuning.sharding out.",
        )
    if resume:
        raise SettingsInvalid(
            "a sharded run keeps no checkpoints, so none can be resumed",
            remedy="Train from the beginning without --resume, or leave fine_tuning.sharding out.",
        )


@contextmanager
def sharded(backbone: Backbone, attachment: Attachment, settings: FineTuningSettings) -> Iterator[Attachment]:
    """The attachment, its parameters spread over the processes if the settings want that.

    While the block runs, the backbone is for all processes together: each of its forwards is theirs too. Prefixes and
    parameters without a dimension are not spread. When the block ends, base and attachment are whole everywhere; when a
    process was lost they are not, and the backbone must not be used again.

    Args:
        backbone: the frozen backbone.
        attachment: the delta in place on it.
        settings: say whether.

    Raises:
        SettingsInvalid: see `check_sharding`.
    """
    check_sharding(settings)
    if settings.sharding == "none":
        yield attachment
        return
    shards = _Shards(backbone, attachment)
    try:
        with forwards_replaced(shards.forwards):
            yield shards.attachment
    except ProcessLost:
        raise
    except (TrainingInterrupted, SettingsInvalid):  # what all processes end with at the same point
        shards.gather()
        raise
    shards.gather()


def clip_gradients(parameters: Sequence[nn.Parameter], largest: float, together: Processes) -> float:
    """Scale gradients, some of them spread over the processes, to a norm of `largest` at most; gives the norm before.

    Args:
        parameters: with gradients.
        largest: norm over all of them.
        together: the processes.
    """
    whole = [p.grad for p in parameters if p.grad is not None and not is_sharded(p)]
    parts = [_local(p.grad) for p in parameters if p.grad is not None and is_sharded(p)]
    squares = together.add_up(_squares(parts)) + _squares(whole)
    norm = math.sqrt(float(squares))
    if norm > largest:
        for gradient in (*whole, *parts):
            gradient.mul_(largest / (norm + 1e-6))
    return norm


def is_sharded(parameter: Tensor) -> bool:
    """Whether it is spread over the processes."""
    from torch.distributed.tensor import DTensor

    return isinstance(parameter, DTensor)


def _local(tensor: Any) -> Tensor:
    part: Tensor = tensor.to_local()
    return part


def _squares(tensors: Sequence[Tensor]) -> Tensor:
    return sum((tensor.double().square().sum() for tensor in tensors), torch.zeros((), dtype=torch.float64))


class _Unit(nn.Module):
    """Parameters that are put together at the same time, and the forward that needs them.

    Args:
        forward: what it runs.
        values: what stands in each place, in the dtype it is trained in.
        dtype: the model wants its own parameters in.
        units: inside of it.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        values: Sequence[tuple[ParameterPlace, nn.Parameter]],
        dtype: torch.dtype,
        units: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        self._run = forward
        self._places = [place for place, _ in values]
        self._tuned = [value is not place.parameter for place, value in values]
        self._dtype = dtype
        self.values = nn.ParameterList([value for _, value in values])
        self.units = nn.ModuleList(units)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        for place, value, tuned in zip(self._places, self.values, self._tuned, strict=True):
            place.put(value.to(self._dtype) if tuned else value)
        return self._run(*args, **kwargs)


class _Shards:
    """A backbone in parts.

    Attributes:
        forwards: what stands in for the forwards of the model and its layers.
        attachment: the attachment as the optimizer sees it.
    """

    def __init__(self, backbone: Backbone, attachment: Attachment) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Shard, distribute_tensor

        mesh = init_device_mesh(backbone.device.type, (processes().count,))
        trained = attachment.parameters()  # asks for their gradients
        self._places = [place for place in parameter_places(backbone).values() if place.parameter.ndim]
        tuned = attachment.tuned if isinstance(attachment, WeightsAttachment) else {}
        values = [(place, tuned.get(place.name, place.parameter)) for place in self._places]
        of_layer = {module: index for index, layer in enumerate(backbone.layers) for module in layer.modules()}
        inside = [_layer_of(place, of_layer) for place in self._places]
        parts = [
            [value for value, layer in zip(values, inside, strict=True) if layer == index]
            for index in range(-1, backbone.num_layers)
        ]
        layers = [
            _Unit(layer.forward, part, backbone.dtype) for layer, part in zip(backbone.layers, parts[1:], strict=True)
        ]
        root = _Unit(_returning_split(backbone.model.forward), parts[0], backbone.dtype, layers)
        self._shards: list[tuple[nn.Parameter, Any]] = []
        for unit in (*layers, root):
            originals = list(unit.values)
            _shard(unit, mesh)
            self._shards += zip(originals, unit.values, strict=True)
        # What is tuned has a base that no forward reads; it is wanted again when the change is stored.
        self._shards += [
            (place.parameter, distribute_tensor(place.parameter.data, mesh, [Shard(0)], src_data_rank=None))
            for place, value in values
            if value is not place.parameter
        ]
        for original, _ in self._shards:
            original.data = original.data.new_empty(0)
        self.forwards: Mapping[nn.Module, Callable[..., Any]] = {
            backbone.model: _raising_split(root),
            **dict(zip(backbone.layers, layers, strict=True)),
        }
        of_original = {id(original): shard for original, shard in self._shards}
        self.attachment: Attachment = _ShardedAttachment(attachment, [of_original.get(id(p), p) for p in trained])

    def gather(self) -> None:
        """Put everything back where it was, with the values it has now."""
        for original, shard in self._shards:
            original.data = shard.detach().full_tensor()
        for _, shard in self._shards:
            _local(shard.detach()).untyped_storage().resize_(0)  # FSDP's modules and hooks hold each other for a while
        for place in self._places:
            place.restore()


class _ShardedAttachment:
    """An attachment whose parameters are those that the optimizer may step."""

    def __init__(self, attachment: Attachment, parameters: list[nn.Parameter]) -> None:
        self._attachment = attachment
        self._parameters = parameters
        self.split = attachment.split

    def train(self, mode: bool) -> None:
        self._attachment.train(mode)

    def parameters(self) -> list[nn.Parameter]:
        return self._parameters

    def depths(self) -> list[int]:
        return self._attachment.depths()

    def delta(self) -> Delta:
        raise AssertionError("a delta is taken of the whole, after the block")

    def __enter__(self) -> _ShardedAttachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def _layer_of(place: ParameterPlace, of_layer: Mapping[nn.Module, int]) -> int:
    """The layer whose modules alone use it; -1 when it lies outside of them or several share it."""
    layers = {of_layer.get(module, -1) for module, _ in place.owners}
    return layers.pop() if len(layers) == 1 else -1


def _shard(unit: nn.Module, mesh: DeviceMesh) -> None:
    from torch.distributed.fsdp import fully_shard

    # The outermost too: what is whole when an optimizer steps would be read again with its old values.
    part = fully_shard(unit, mesh=mesh, reshard_after_forward=True)
    # Each process weighs its rows by the whole batch, so gradients are added up, not averaged; gloo can do no more.
    part.set_gradient_divide_factor(1.0)
    part.set_force_sum_reduction_for_comms(True)


def _returning_split(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A stopped forward is a value to FSDP, which must see its end to be ready for the next."""

    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return forward(*args, **kwargs)
        except ReachedSplit as reached:
            return reached

    return run


def _raising_split(root: nn.Module) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        result = root(*args, **kwargs)
        if isinstance(result, ReachedSplit):
            raise result
        return result

    return run
