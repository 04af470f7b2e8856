"""`graft recommend`: which base, which strategy and which settings for labelled rows."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graftwork.cli.options import Delimiter, Encoding, FileArgument, Json, LabelColumn, TextColumn, examples
from graftwork.cli.session import services

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from graftwork.backbones.backbone import Backbone
    from graftwork.data.dataset import Dataset
    from graftwork.registry.base_rows import BaseModel
    from graftwork.training.recommending.recommend import OfferedBase
    from graftwork.training.recommending.results import Candidate, JudgedBase, Recommendation
    from graftwork.wiring import Services


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(
        epilog=examples(
            "graft recommend tickets.csv --budget 5m",
            "graft recommend tickets.csv --base minilm --base e5 --budget 90s --bytes 200KB",
            "graft recommend mails.jsonl --text body --label team --latency 20ms --json",
        )
    )(recommend)


def recommend(
    file: FileArgument,
    budget: Annotated[
        str, typer.Option("--budget", metavar="TIME", help="What the recommendation may take, such as 90s or 5m.")
    ] = "5m",
    latency: Annotated[
        str | None, typer.Option("--latency", metavar="TIME", help="What one request may take, such as 50ms.")
    ] = None,
    stored: Annotated[
        str | None, typer.Option("--bytes", metavar="SIZE", help="What an adapter may take where it is stored.")
    ] = None,
    bases: Annotated[
        list[str] | None, typer.Option("--base", help="Choose among these bases only; may be repeated. All by default.")
    ] = None,
    test: Annotated[
        Path | None,
        typer.Option("--test", help="Rows to judge on later, which are not looked at; a share of FILE by default."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random choice.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One training setting of all candidates; may be repeated."),
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option(
            "--prices", metavar="FILE", help="YAML of prices; with an hourly price of `here` training is priced."
        ),
    ] = None,
    text: TextColumn = "text",
    label: LabelColumn = "label",
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    as_json: Json = False,
) -> None:
    """Say which base, strategy and settings suit labelled rows: by rules of thumb, by probes, and by short trials.

    Nothing is published. The command to train with what is recommended is printed last.
    """
    from graftwork.cli.console import print_json
    from graftwork.cli.durations import parse_duration
    from graftwork.cli.progress import DrawnProgress
    from graftwork.cli.sizes import parse_size
    from graftwork.data.read import read_dataset

    seconds = parse_duration(budget)
    milliseconds = None if latency is None else 1000 * parse_duration(latency)
    most_bytes = None if stored is None else parse_size(stored)
    from graftwork.training.config import TrainingConfig

    config = TrainingConfig.parse(seed=seed, assignments=assignments or [])

    def read(path: Path) -> Dataset:
        return read_dataset(path, text=text, label=label, encoding=encoding, delimiter=delimiter)

    with services() as opened, DrawnProgress(quiet=as_json) as progress:
        found = [opened.bases.resolve(name) for name in bases] if bases else opened.bases.list()
        rows, judged = read(file), None if test is None else read(test)
        progress.stage("loading libraries", None)
        from graftwork.training.recommending.clock import Budget
        from graftwork.training.recommending.experience import experience_of
        from graftwork.training.recommending.recommend import Limits
        from graftwork.training.recommending.recommend import recommend as recommend_for

        made = recommend_for(
            rows,
            [_offered(opened, base) for base in found],
            budget=Budget(seconds),
            test=judged,
            config=config,
            limits=Limits(milliseconds, most_bytes),
            experience=experience_of(opened.catalog.list()),
            price=_price(opened, prices),
            progress=progress,
        )
    command = None if made.chosen is None else _command(made.chosen, file, test, seed, text, label)
    if as_json:
        print_json({**made.model_dump(mode="json"), "command": command})
        return
    _print(made, command)


def _price(opened: Services, file: Path | None) -> Callable[[float], float | None] | None:
    """What seconds on this machine cost, where somebody has said so."""
    from graftwork.prices import HERE, read_prices

    here = read_prices(file or opened.settings.prices).hardware.get(HERE)
    return None if here is None or here.hourly is None else here.price


def _offered(opened: Services, base: BaseModel) -> OfferedBase:
    from graftwork.training.recommending.recommend import OfferedBase

    def load() -> Backbone:
        # Asked for anew: it may have been removed since it was listed.
        return opened.backbone(opened.bases.resolve(base.fingerprint))

    return OfferedBase(base.aliases[0] if base.aliases else base.reference, base.metadata, load)


def _command(chosen: Candidate, file: Path, test: Path | None, seed: int | None, text: str, label: str) -> str:
    """The command that trains what was chosen."""
    words = ["graft", "train", str(file), "--base", chosen.base, "--strategy", chosen.strategy]
    words += ["--name", "TENANT/NAME"]
    given = {"--test": test, "--seed": seed, "--text": text, "--label": label}
    usual = {"--text": "text", "--label": "label"}
    for option, value in given.items():
        if value is not None and value != usual.get(option):
            words += [option, str(value)]
    for setting in chosen.settings:
        words += ["--set", setting]
    return shlex.join(words)


def _print(made: Recommendation, command: str | None) -> None:
    from graftwork.cli.console import print_table, say

    print_table(
        f"Bases for {made.rows:,} rows of {made.classes} classes",
        ("base", "suits", "probe", "LogME", "H-score", "neighbours", "[UNK]", "cut", "tokens a word"),
        [_base_cells(base) for base in made.bases],
    )
    for base in made.bases:
        for reason in (*base.compatibility.reasons, *filter(None, [base.missing])):
            say((f"{base.name}: ", "yellow"), reason)
    _print_candidates(made.candidates)
    for note in made.notes:
        say((f"Note: {note}.", "yellow"))
    if made.chosen is None or command is None:
        say(("Nothing is within these limits. Allow more.", "bold red"))
        return
    say((f"Recommended: {made.chosen.strategy} on {made.chosen.base}", "bold green"))
    for reason in made.reasons:
        say(f"  {reason}")
    say(f"Found in {made.spent:.1f} s of {made.budget:.0f}. Next: {command}")


def _base_cells(base: JudgedBase) -> tuple[str, ...]:
    fit, found = base.compatibility, base.evidence
    suits = {"good": "well", "low": "badly", "none": "not"}[fit.level]
    shares = (fit.unknown_share, fit.truncated_share)
    torn = "–" if fit.tokens_a_word is None else f"{fit.tokens_a_word:.2f}"
    scores = ("–",) * 4
    if found is not None:
        probe = f"{found.accuracy.value:.1%} [{found.accuracy.low:.1%}, {found.accuracy.high:.1%}]"
        scores = (probe, f"{found.log_me:.3f}", f"{found.h_score:.3f}", f"{found.neighbours:.1%}")
    return (base.name, suits, *scores, *("–" if share is None else f"{share:.1%}" for share in shares), torn)


def _print_candidates(candidates: Sequence[Candidate]) -> None:
    from graftwork.cli.console import print_table, say
    from graftwork.cli.front import Point, draw_front, letters

    named = list(zip(letters(len(candidates)), candidates, strict=True))
    priced = any(one.price is not None for one in candidates)
    columns = ("", "base", "strategy", "expected accuracy", "from", "training", "memory", "stored", "a request")
    print_table(
        "Candidates",
        (*columns, *(["price"] if priced else []), ""),
        [_candidate_cells(letter, one, priced=priced) for letter, one in named],
    )
    able = [one for one in candidates if one.accuracy is not None and one.seconds and not one.refused]
    if able:
        say(("Expected accuracy against seconds of training; capitals: nobody is both better and faster", "bold"))
        for line in draw_front(
            [Point(one.seconds or 1.0, one.accuracy.value, one.front) for one in able if one.accuracy]
        ):
            say(line)


def _candidate_cells(letter: str, one: Candidate, *, priced: bool) -> tuple[str, ...]:
    from graftwork.cli.console import file_size

    expected = "–"
    if one.accuracy is not None:
        expected = f"{one.accuracy.value:.1%} [{one.accuracy.low:.1%}, {one.accuracy.high:.1%}]"
    source = {"rules": "rules", "probe": "probe", "trial": "trial"}[one.known_from]
    sizes = ("–" if size is None else file_size(size) for size in (one.memory_bytes, one.stored_bytes))
    return (
        letter,
        one.base,
        one.strategy,
        expected,
        source + (f", seen {one.seen}×" if one.seen else ""),
        "–" if one.seconds is None else f"{one.seconds:.1f} s",
        *sizes,
        "–" if one.latency_ms is None else f"{one.latency_ms:.1f} ms",
        *([f"{one.price:.4f}" if one.price is not None else "–"] if priced else []),
        "; ".join(one.refused) or ("front" if one.front else ""),
    )
