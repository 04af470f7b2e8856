"""`graft plan`: what a run would take, from a model's configuration alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graftwork.cli.options import Json, examples
from graftwork.errors import SettingsInvalid

if TYPE_CHECKING:
    import torch

    from graftwork.training.config import TrainingConfig
    from graftwork.training.plan import Plan

_PARTS = {
    "weights": "the frozen base",
    "trained": "what is trained, float32",
    "gradients": "its gradients",
    "optimizer": "AdamW's two moments",
    "best": "the best values so far",
    "anchor": "where it started, and its Fisher information (forgetting.protection)",
    "activations": "kept for the way back, at the longest texts",
    "cache": "the trunk's activations of all rows",
}


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(
        epilog=examples(
            "graft plan ./Llama-3.1-8B --rows 1000 --tokens 256",
            "graft plan config.json --strategy lora --dtype bfloat16 --flops 300e12 --set fine_tuning.batch_size=8",
        )
    )(plan)


def plan(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A config.json, or the folder that holds one.")],
    strategy: Annotated[str, typer.Option(help="What would be trained.")] = "lora",
    rows: Annotated[int, typer.Option(min=2, help="Rows to train on.")] = 1000,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of a text.")] = 128,
    classes: Annotated[int, typer.Option(min=2, help="Number of classes.")] = 2,
    dtype: Annotated[str, typer.Option(help="Of the frozen base: float32, bfloat16 or float16.")] = "float32",
    flops: Annotated[
        float | None,
        typer.Option(min=1.0, help="Operations a second in matrix products; measured on this machine by default."),
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One training setting; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what training would take: parameters, memory by part, time. No weights are needed, and none are read."""
    import torch

    from graftwork.backbones.network import read_config
    from graftwork.training.candidates import dearest
    from graftwork.training.config import TrainingConfig
    from graftwork.training.plan import make_plan

    if dtype not in ("float32", "bfloat16", "float16"):
        raise SettingsInvalid(
            f"--dtype is {dtype!r}, which no base is kept in", remedy="Give float32, bfloat16 or float16."
        )
    config = TrainingConfig.parse(strategy=strategy, assignments=assignments or [])
    number: torch.dtype = getattr(torch, dtype)
    made = make_plan(
        read_config(model), config, strategy=dearest(config), lengths=[tokens] * rows, classes=classes, dtype=number
    )
    tell_plan(made, config, flops_per_second=flops, as_json=as_json)


def tell_plan(made: Plan, config: TrainingConfig, *, flops_per_second: float | None, as_json: bool) -> None:
    """Print a plan.

    Args:
        made: the plan.
        config: the settings it was made with.
        flops_per_second: rate of the machine; None to measure this one's.
        as_json: as one JSON document.
    """
    from graftwork.cli.console import file_size, print_json, print_table, say
    from graftwork.training.plan import matrix_rate

    rate = flops_per_second or matrix_rate(made.width)
    if as_json:
        print_json(_described(made, config, rate))
        return
    share = made.trainable / (made.parameters + made.head)
    print_table(
        f"{made.strategy}, {made.rows:,} rows, {made.tokens:,} tokens, the longest text {made.longest}",
        ("memory", "bytes", "of"),
        [(name, file_size(getattr(made.memory, name)), what) for name, what in _PARTS.items()]
        + [("peak", file_size(made.memory.peak), "at once, beside libraries, rows and the allocator's own")],
    )
    say(
        f"{made.trainable:,} of {made.parameters + made.head:,} parameters are trained ({share:.2%}), "
        f"in the layers from {made.split} of {made.layers}; {made.steps:,} steps at most."
    )
    say(
        f"Matrix products: {made.flops:.3g} operations, {made.seconds(rate):,.1f} s at {rate / 1e9:,.0f} GFLOP/s; "
        "the rest of the network comes on top."
    )


def _described(made: Plan, config: TrainingConfig, rate: float) -> dict[str, Any]:
    return {
        **{name: value for name, value in vars(made).items() if name not in ("memory", "work")},
        "memory": vars(made.memory),
        "flops": made.flops,
        "work": vars(made.work),
        "flops_per_second": rate,
        "matrix_seconds": made.seconds(rate),
        "settings": config.model_dump(mode="json"),
    }
