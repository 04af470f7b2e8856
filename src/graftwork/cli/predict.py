"""`graft predict`: asking a published adapter."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from graftwork.cli.answers import tell_answer
from graftwork.cli.asking import ask, inputs_of
from graftwork.cli.options import Json, ReferenceArgument, TaskOption, command_of, examples
from graftwork.cli.replies import (
    MAX_NEW_TOKENS,
    answer_prompts,
    generates,
    refuse_to_classify,
    refuse_to_generate,
)
from graftwork.cli.session import services
from graftwork.cli.tasks import tell_tasks

if TYPE_CHECKING:
    from graftwork.registry.versions import AdapterVersion
    from graftwork.wiring import Services


@dataclass(frozen=True, kw_only=True)
class PredictRequest:
    """The options of `graft predict`."""

    reference: ReferenceArgument
    texts: Annotated[
        list[str],
        typer.Argument(
            metavar="TEXT…", help="Texts, or files for a model of images or speech; - for one a line of the input."
        ),
    ]
    top_k: Annotated[int | None, typer.Option(min=1, help="Labels to show for each text; 3 by default.")] = None
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Most tokens to generate for a prompt; 128 by default.")
    ] = None
    temperature: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="Draw tokens at this temperature; by default the most probable is taken."),
    ] = None
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the tokens that are drawn; 0 by default.")] = None
    task: TaskOption = None
    as_json: Json = False


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(
        epilog=examples(
            'graft predict acme/news "Shares fell after the report"',
            'graft predict acme/news:production "first text" "second text" --top-k 1 --json',
            "cat texts.txt | graft predict acme/news -",
            "graft predict acme/emoji cat.png dog.png",
            'graft predict acme/replies "Where is my parcel?" --max-new-tokens 60   [dim]# it generates[/dim]',
        )
    )(command_of(PredictRequest, predict))


def predict(asked: PredictRequest) -> None:
    """Classify texts with a published adapter, through the same engine that serves; or answer prompts.

    While acme/eu~user7 has no adapter, acme/eu answers for it, and the answer says so. An adapter of several tasks
    answers all of them from one pass, or the one that --task says.
    """
    from graftwork.registry.reference import Reference, resolve_nearest
    from graftwork.registry.tasks import task_of

    texts = _lines(sys.stdin.buffer) if asked.texts == ["-"] else asked.texts
    _refuse_long(texts)
    reference = Reference.parse(asked.reference)
    with services() as opened:
        version = resolve_nearest(opened.catalog.resolve, reference)
        if generates(version):
            _generate(opened, version, texts, asked)
            return
        given = {
            "--max-new-tokens": asked.max_new_tokens,
            "--temperature": asked.temperature,
            "--seed": asked.seed,
        }
        refuse_to_classify(version, [option for option, value in given.items() if value is not None])
        (answer,) = ask(opened, [version], inputs_of(version, texts))
    fallback = asked.reference if f"{version.tenant}/{version.name}" != reference.bare else None
    if answer.tasks:
        wanted = task_of(answer.tasks, asked.task, version.reference)
        tell_tasks(version, answer, texts, wanted, top_k=asked.top_k, fallback_for=fallback, as_json=asked.as_json)
    else:
        task_of((), asked.task, version.reference)
        tell_answer(version, answer, texts, top_k=asked.top_k, fallback_for=fallback, as_json=asked.as_json)


def _generate(opened: Services, version: AdapterVersion, prompts: Sequence[str], asked: PredictRequest) -> None:
    if asked.top_k is not None:
        refuse_to_generate(version, "--top-k")
    answer_prompts(
        opened,
        version,
        prompts,
        max_new_tokens=asked.max_new_tokens or MAX_NEW_TOKENS,
        temperature=asked.temperature or 0.0,
        seed=asked.seed or 0,
        as_json=asked.as_json,
    )


def _lines(stream: BinaryIO) -> list[str]:
    """One text a line, empty lines left out."""
    from graftwork.errors import DataUnreadable, Problem

    texts: list[str] = []
    problems = []
    for number, line in enumerate(stream, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
        except UnicodeDecodeError as error:
            problems.append(Problem(f"line {number}", f"byte {error.start + 1} is not valid UTF-8"))
            continue
        if text.strip():
            texts.append(text)
    if problems:
        raise DataUnreadable(
            "standard input is no text", problems=problems[:20], remedy="Convert it to UTF-8, for example with iconv."
        )
    return texts


def _refuse_long(texts: Sequence[str]) -> None:
    from graftwork.data.rows import MAX_TEXT
    from graftwork.errors import Problem, RequestTooLarge

    problems = [
        Problem(f"text {place}", f"has {len(text):,} characters")
        for place, text in enumerate(texts, start=1)
        if len(text) > MAX_TEXT
    ]
    if problems:
        raise RequestTooLarge(
            f"a text may have at most {MAX_TEXT:,} characters",
            problems=problems,
            remedy="Shorten it; models read no more than their first few hundred words.",
        )
