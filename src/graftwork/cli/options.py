"""Options and arguments that several verbs share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

R = TypeVar("R")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
ReferenceArgument = Annotated[
    str, typer.Argument(metavar="REF", help="tenant/name, tenant/name@3 or tenant/name:production.")
]
BaseArgument = Annotated[
    str, typer.Argument(metavar="BASE", help="A base model: its name, family/version/variant, or fingerprint.")
]
FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="CSV, TSV, JSONL or Parquet file, or a folder with a folder per class.")
]
TextColumn = Annotated[
    str,
    typer.Option("--text", metavar="COLUMN", help="Column that holds the texts, or the paths of images or recordings."),
]
LabelColumn = Annotated[str, typer.Option("--label", metavar="COLUMN", help="Column that holds the labels.")]
TaskOption = Annotated[
    str | None, typer.Option("--task", metavar="NAME", help="One of the tasks, of an adapter that answers several.")
]
Encoding = Annotated[
    str | None, typer.Option("--encoding", help="Encoding of the file, such as utf-8 or cp1252; detected by default.")
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Go on without media files that cannot be read; they are listed.")
]
Delimiter = Annotated[str | None, typer.Option("--delimiter", help="Delimiter of a CSV file; detected by default.")]


def examples(*lines: str) -> str:
    """An epilog that lists examples, one a line."""
    return "\n".join(["[bold]Examples[/bold]", *(f"[dim]$[/dim] {line}" for line in lines)])


def command_of(request: type[R], act: Callable[[R], None]) -> Callable[..., None]:
    """A command whose options are the fields of a dataclass, and that hands it, filled in, to a function.

    So every option is written once, and what was asked for is passed on as one value.

    Args:
        request: the dataclass; its fields are annotated as Typer's parameters are.
        act: what the command does; its name is the command's, its docstring the help.
    """

    def command(**given: Any) -> None:
        act(request(**given))

    signature = inspect.signature(request, eval_str=True)
    command.__name__, command.__doc__ = act.__name__, act.__doc__
    command.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    command.__dict__["__signature__"] = signature
    return command
