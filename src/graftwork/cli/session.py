"""What every verb does around its work: open the installation, tell errors, set the exit code."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import typer

from graftwork.errors import GraftworkError, Problem, SettingsInvalid, TrainingInterrupted, UserError

if TYPE_CHECKING:
    from graftwork.wiring import Services

_USAGE = 2
_INTERRUPTED = 130
_PATIENCE = 10.0  # seconds; torchrun kills who needs more than 30 to end


def services() -> Services:
    """The installation that the environment names."""
    from graftwork.settings import load_settings
    from graftwork.wiring import open_services

    return open_services(load_settings())


def run(command: Callable[[], object]) -> int:
    """Run the command line and return its exit code: 0, 2 for the user's mistake, 1 for ours, 130 when interrupted.

    An error of ours that nobody foresaw is told in one line; with `GRAFT_DEBUG=1` its traceback is printed too.

    Args:
        command: calls the Typer application outside its standalone mode, where it returns the code that a verb
            exited with.
    """
    try:
        _refuse_bytes(sys.argv)
        returned = command()
        sys.stdout.flush()
        code = returned if isinstance(returned, int) else 0
        if code == _INTERRUPTED:
            _tell_interrupted()
    except GraftworkError as error:
        code = _tell(error)
    except typer.TyperException as error:
        code = _tell_usage(error)
    except (KeyboardInterrupt, typer.Abort):
        _tell_interrupted()
        code = _INTERRUPTED
    except SystemExit as error:
        # Rich and Typer exit by themselves when nobody reads on: `graft list | head`.
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        code = 0
    except BrokenPipeError:
        code = 0
    except Exception as error:
        code = _tell_unforeseen(error)
    _let_go_of_output()
    return code


def _refuse_bytes(arguments: Sequence[str]) -> None:
    """Refuse arguments that are no text: neither a tokenizer nor a database could hold them."""
    problems = [
        Problem(f"argument {place} ({argument!r})", "is not valid UTF-8")
        for place, argument in enumerate(arguments[1:], start=1)
        if not argument.isascii() and any("\ud800" <= character <= "\udfff" for character in argument)
    ]
    if problems:
        raise SettingsInvalid(
            "the command line holds bytes that are no text",
            problems=problems,
            remedy="Write it in UTF-8; rename files whose names are in another encoding.",
        )


def _tell(error: GraftworkError) -> int:
    from graftwork.cli.console import print_error

    if _told_by_another(error):
        # Who started the processes ends all of them when one has failed: the first must come to tell why.
        threading.Event().wait(_PATIENCE)
    else:
        print_error(error, as_json="--json" in sys.argv)
    return error.exit_code


def _told_by_another(error: GraftworkError) -> bool:
    """Whether the first of several processes ends with the same error: it is told once."""
    from graftwork.training.processes import ProcessLost, launched

    alike = isinstance(error, (UserError, TrainingInterrupted)) and not isinstance(error, ProcessLost)
    return alike and not launched().first


def _tell_usage(error: typer.TyperException) -> int:
    """Tell what is wrong with the options in the form of every other error."""
    context = getattr(error, "ctx", None)
    message = error.format_message().strip().rstrip(".")
    if not message:
        return _USAGE  # a group without a verb: its help has been printed
    return _tell(
        SettingsInvalid(
            message[0].lower() + message[1:],
            remedy=f"{context.command_path if context else 'graft'} --help tells what there is.",
        )
    )


def _tell_interrupted() -> None:
    sys.stderr.write("interrupted; nothing was half done\n")


def _tell_unforeseen(error: Exception) -> int:
    if os.environ.get("GRAFT_DEBUG"):
        traceback.print_exc()
    if isinstance(error, OSError):
        from graftwork.registry.durable import storage_error

        return _tell(storage_error(f"{error.filename or 'the output'} cannot be used", error))
    reason = next(iter(str(error).splitlines()), "")
    return _tell(
        GraftworkError(
            f"this should not have happened: {type(error).__name__}: {reason}",
            remedy="Nothing was half done. Run it again with GRAFT_DEBUG=1 and report what it prints.",
        )
    )


def _let_go_of_output() -> None:
    """Drop what nobody takes: Python would try once more when it exits, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
