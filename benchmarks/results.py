"""What transfer was worth on real sets: `python -m benchmarks.results [--rows 1000] [--write docs/results.md]`.

Each set is drawn once, trained with `graft train`, and measured with `graft evaluate --transfer`, by the commands a
user would type: against the probe, and against the same network from scratch. Three cases were taken because transfer
should not help: labels that were shuffled, a language that the base can hardly read, and numbers in no language.
Needs `scripts/fetch_models.py minilm efficientnet-lite0` and `scripts/fetch_datasets.py sentiment bbc
captions-by-language emoji`. What was measured is kept in .cache/graftwork/bench/results, and is not measured again
unless `--anew` says so; its threads are those of OMP_NUM_THREADS, and `--shared` notes that the machine did other work
meanwhile.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.kept import reading_otherwise

_CACHE = Path(".cache/graftwork")
_FOLDER = _CACHE / "bench" / "results"
_TEST_ROWS = 500
Row = tuple[str, str]


@dataclass(frozen=True)
class Case:
    """One set.

    Attributes:
        name: in the table.
        base: the base model.
        words: what the rows are.
        files: gives the training and the test file for a number of training rows.
        strategy: that is trained.
        max_length: tokens that are read of a text.
        pixels: height and width at which pictures are read, where that is not the base's own.
    """

    name: str
    base: str
    words: str
    files: Callable[[str, int], tuple[Path, Path]]
    strategy: str = "auto"
    max_length: int | None = 64
    pixels: int | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000, help="training rows of each set")
    parser.add_argument("--draws", type=int, default=2, help="of rows at each point of the curves")
    parser.add_argument("--only", nargs="*", choices=[case.name for case in CASES], help="these sets")
    parser.add_argument("--shared", action="store_true", help="other processes work on this machine meanwhile")
    parser.add_argument("--train-only", action="store_true", help="train the adapters, and measure another time")
    parser.add_argument(
        "--anew", action="store_true", help="forget what was measured, not what was trained, and measure"
    )
    parser.add_argument("--write", type=Path, help="where the page goes; printed without it")
    options = parser.parse_args()
    _FOLDER.mkdir(parents=True, exist_ok=True)
    found = {}
    for case in CASES:
        if not options.only or case.name in options.only:
            if options.anew:
                _forget(case, options.rows, options.draws)
            one = _measured(case, options.rows, options.draws, shared=options.shared, train_only=options.train_only)
            if one is not None:
                found[case.name] = one
    if options.train_only:
        return
    command = f"python -m benchmarks.results --rows {options.rows} --draws {options.draws}"
    if options.only:
        command += f" --only {' '.join(options.only)}"
    page = _page(found, command)
    if options.write is None:
        print(page)
    else:
        options.write.write_text(page, encoding="utf-8")


def _forget(case: Case, rows: int, draws: int) -> None:
    """Let a case be measured again, in one piece."""
    for kept in (f"{case.name}-{rows}-{draws}.json", f"{case.name}-{rows}-{draws}-begun"):
        (_FOLDER / kept).unlink(missing_ok=True)
    for folder in ("references", "evidence"):
        shutil.rmtree(_home(case) / folder, ignore_errors=True)


def _home(case: Case) -> Path:
    """Its registry."""
    return _FOLDER / "homes" / case.name


def _measured(case: Case, rows: int, draws: int, *, shared: bool, train_only: bool) -> dict[str, Any] | None:
    """What is kept of a case, or what is found now; None when it was only to be trained."""
    kept = _FOLDER / f"{case.name}-{rows}-{draws}.json"
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return found
    environment = os.environ | {"GRAFT_HOME": str(_home(case).absolute()), "HF_HUB_OFFLINE": "1"}

    def graft(*arguments: str | Path) -> tuple[Any, Took]:
        command = [sys.executable, "-m", "graftwork", *map(str, arguments)]
        began, used = time.perf_counter(), _processor_seconds()
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
        took = Took(round(time.perf_counter() - began, 2), round(_processor_seconds() - used, 2))
        return json.loads(done.stdout) if "--json" in arguments else done.stdout, took

    base = case.base if case.pixels is None else f"{case.base}-{case.pixels}"
    if base not in {name for known in graft("base", "list", "--json")[0] for name in known["names"]}:
        with _folder_of(case) as folder:
            graft("base", "add", folder, "--name", base, "--json")
    train, test = case.files(case.name, rows)
    name = f"results/{case.name}"
    length = [] if case.max_length is None else ["--set", f"max_length={case.max_length}"]
    made = _FOLDER / f"{case.name}-{rows}-trained.json"
    if not made.exists():
        line: list[str | Path] = ["train", train, "--test", test, "--base", base, "--name", name]
        line += ["--strategy", case.strategy]
        trained, training = graft(*line, *length, "--json")
        facts = {key: trained[key] for key in ("manifest", "size_bytes")} | {"took": vars(training)}
        made.write_text(json.dumps(facts), encoding="utf-8")
    if train_only:
        return None
    begun = _FOLDER / f"{case.name}-{rows}-{draws}-begun"
    in_parts = begun.exists()  # references are kept, so that what was broken off takes less the second time
    begun.touch()
    told, measuring = graft("evaluate", name, "--transfer", train, "--data", test, "--draws", str(draws), "--json")
    _, reporting = graft("report", name, "--data", test, "--out", _FOLDER / f"{case.name}-{rows}.html")
    result = {
        "trained": json.loads(made.read_text(encoding="utf-8")),
        "told": told,
        "took": {"measuring": vars(measuring), "reporting": vars(reporting)},
        "threads": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count())),
        "shared": shared,
        "in_parts": in_parts,
    }
    kept.write_text(json.dumps(result), encoding="utf-8")
    return result


@dataclass(frozen=True)
class Took:
    """What a command took.

    Attributes:
        seconds: on the clock.
        processor: seconds of processors.
    """

    seconds: float
    processor: float


def _folder_of(case: Case) -> AbstractContextManager[Path]:
    """The folder of its base."""
    folder = _CACHE / "models" / case.base
    if case.pixels is None:
        return nullcontext(folder)
    return reading_otherwise(folder, {"size": {"height": case.pixels, "width": case.pixels}})


def _processor_seconds() -> float:
    """Of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _drawn(
    name: str, rows: int, source: str, change: Callable[[list[Row]], list[Row]] | None = None
) -> tuple[Path, Path]:
    """Training and test rows of a set as CSV, drawn once."""
    parts = []
    for part, count in (("train", rows), ("test", _TEST_ROWS)):
        with (_CACHE / "datasets" / source / f"{part}.csv").open(encoding="utf-8", newline="") as file:
            found = [(row["text"], row["label"]) for row in csv.DictReader(file)]
        random.Random(0).shuffle(found)
        found = found[:count]
        if change is not None:
            found = change(found)
        parts.append(_written(_FOLDER / f"{name}-{rows}-{part}.csv", found))
    return parts[0], parts[1]


def _written(path: Path, rows: list[Row]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(rows)
    return path


def _plain(source: str) -> Callable[[str, int], tuple[Path, Path]]:
    return lambda name, rows: _drawn(name, rows, source)


def _headlines(name: str, rows: int) -> tuple[Path, Path]:
    return _drawn(name, rows, "bbc", lambda found: [(text.splitlines()[0], label) for text, label in found])


def _shuffled(name: str, rows: int) -> tuple[Path, Path]:
    """Tweets whose labels say nothing of them."""

    def change(found: list[Row]) -> list[Row]:
        labels = [label for _, label in found]
        random.Random(1).shuffle(labels)
        return [(text, label) for (text, _), label in zip(found, labels, strict=True)]

    return _drawn(name, rows, "sentiment/tweets", change)


def _pictures(name: str, rows: int) -> tuple[Path, Path]:
    """Emoji as Google drew them, in folders with their metadata.csv."""
    folders = []
    for part, count in (("train", rows), ("test", _TEST_ROWS)):
        source = _CACHE / "datasets" / "emoji" / "google" / part
        target = _FOLDER / f"{name}-{rows}-{part}"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        with (source / "metadata.csv").open(encoding="utf-8", newline="") as file:
            head, *found = csv.reader(file)
        random.Random(0).shuffle(found)
        for line in found[:count]:
            shutil.copy(source / line[head.index("file_name")], target)
        with (target / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([head, *found[:count]])
        folders.append(target)
    return folders[0], folders[1]


def _codepoints(name: str, rows: int) -> tuple[Path, Path]:
    """The same emoji, told by their code points in hexadecimal, as their files are called."""
    parts = []
    for part, count in (("train", rows), ("test", _TEST_ROWS)):
        with (_CACHE / "datasets" / "emoji" / "google" / part / "metadata.csv").open(encoding="utf-8") as file:
            found = [(row["file_name"].removesuffix(".png"), row["label"]) for row in csv.DictReader(file)]
        random.Random(0).shuffle(found)
        parts.append(_written(_FOLDER / f"{name}-{rows}-{part}.csv", found[:count]))
    return parts[0], parts[1]


CASES = (
    Case("tweets", "minilm", "sentiment of tweets, 3 classes", _plain("sentiment/tweets")),
    Case("amazon", "minilm", "sentiment of product reviews, 3 classes", _plain("sentiment/amazon")),
    Case("movies", "minilm", "sentiment of sentences on films, 3 classes", _plain("sentiment/movies")),
    Case("headlines", "minilm", "topics of BBC headlines, 5 classes", _headlines),
    Case(
        "emoji",
        "efficientnet-lite0",
        "groups of emoji as Google drew them, 64 pixels wide and read at 112",
        _pictures,
        "feature-extraction",
        max_length=None,
        pixels=112,
    ),
    Case("shuffled", "minilm", "the tweets with shuffled labels", _shuffled),
    Case(
        "codepoints",
        "minilm",
        "groups of emoji by their code points, such as 1f468-200d-1f4bb",
        _codepoints,
    ),
    Case(
        "korean",
        "minilm",
        "captions in Korean, which the base's tokenizer cannot read",
        _plain("captions-by-language/ko"),
    ),
)


def _page(found: dict[str, dict[str, Any]], command: str) -> str:
    """The page in Markdown."""
    words = {case.name: case.words for case in CASES}
    lines = [
        "# What transfer was worth",
        "",
        f"Made by `{command}` on {machine.describe()}. Intervals are 95 %, over test rows; what the columns mean: "
        "[evaluation](evaluation.md). *Scratch* is the same network with random weights, trained for as many epochs, "
        "*scratch until it stops* for as long as it gets better; both have the best of three learning rates "
        "after one epoch, or the likeliest where one epoch does not tell.",
        "",
        *_table(
            ("set", "rows", "strategy", "accuracy", "probe", "scratch", "scratch until it stops", "transfer ratio"),
            [_quality(name, one) for name, one in found.items()],
        ),
        "",
        *[f"- **{name}**: {words[name]}. {' '.join(_verdicts(one))}" for name, one in found.items()],
        "",
        "## What it took",
        "",
        *_table(
            (
                "set",
                "threads",
                "training, s",
                "scratch, s",
                "until it stops, s",
                "measuring, s",
                "report, s",
                "stored, bytes",
                "gap, points",
            ),
            [_taken(name, one) for name, one in found.items()],
        ),
        "",
        "Seconds are on the clock, those of the processor in brackets; *training*, *measuring* and *report* are whole "
        "commands. Where *threads* says *shared*, other processes worked on the machine meanwhile, as they "
        "did at every training. What was broken off and gone on with was measured *in parts*. *Gap* is accuracy on "
        "training rows less that on test rows. Asked for: on two cores "
        "measuring under 300 s, a report under 5 s.",
        "",
        "## Rows that make a curve as good",
        "",
        "Rows after which the curve in the first column reaches what the other reached with all rows.",
        "",
        *_table(("set", "curve", "by rows", "rows needed"), _curves(found)),
    ]
    return "\n".join(lines) + "\n"


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (columns, ("---",) * len(columns), *rows)]


def _against(one: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in one["told"]["transfer"]["against"]}


def _percent(interval: dict[str, float]) -> str:
    return f"{interval['value']:.1%} [{interval['low']:.1%}, {interval['high']:.1%}]"


def _quality(name: str, one: dict[str, Any]) -> tuple[str, ...]:
    against, told = _against(one), one["told"]["transfer"]
    accuracies = [
        _percent(against[kind]["accuracy"]) if kind in against else "-"
        for kind in ("probe", "scratch", "scratch until it stops")
    ]
    ratio = best["ratio"] if (best := _best(one)) else None
    return (
        name,
        str(told["train_rows"]),
        one["trained"]["manifest"]["strategy"],
        _percent(told["accuracy"]),
        *accuracies,
        "-" if ratio is None else f"{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]",
    )


def _best(one: dict[str, Any]) -> dict[str, Any] | None:
    """The best that was trained from scratch."""
    scratch = [each for each in one["told"]["transfer"]["against"] if each["name"].startswith("scratch")]
    return max(scratch, key=lambda each: each["accuracy"]["value"], default=None)


def _verdicts(one: dict[str, Any]) -> list[str]:
    """Against the best that was trained from scratch, against the probe, and whether it tells the classes apart."""
    told = one["told"]["transfer"]
    best, probe = _best(one), _against(one).get("probe")
    majority = one["trained"]["manifest"]["metrics"]["majority"]["accuracy"]["value"]
    found = [_difference(each) for each in (best, probe) if each is not None]
    if best is None:
        found.insert(0, "Nothing could be trained from scratch.")
    above = told["accuracy"]["low"] > majority
    found.append(
        f"The most frequent class alone has {majority:.1%}"
        + ("." if above else ": it is not shown that the adapter tells anything apart.")
    )
    return found


def _difference(against: dict[str, Any]) -> str:
    gap = against["difference"]["difference"]
    return (
        f"Against {against['name']}: {against['verdict']}, {100 * gap['value']:+.1f} points "
        f"[{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}], p = {against['p_value']:.4f}."
    )


def _taken(name: str, one: dict[str, Any]) -> tuple[str, ...]:
    against = _against(one)
    seconds = [
        f"{against[kind]['seconds']:.0f}" if kind in against else "-" for kind in ("scratch", "scratch until it stops")
    ]
    training, measuring, reporting = (
        f"{took['seconds']:.1f} ({took['processor']:.1f})"
        for took in (one["trained"]["took"], one["took"]["measuring"], one["took"]["reporting"])
    )
    gap = one["told"]["transfer"]["gap"]
    if one.get("in_parts"):
        measuring = "in parts"
    return (
        name,
        one["threads"] + (", shared" if one["shared"] else ""),
        training,
        *seconds,
        measuring,
        reporting,
        f"{one['trained']['size_bytes']:,}",
        f"{100 * gap['value']:+.1f} [{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}]",
    )


def _curves(found: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, one in found.items():
        for curve in one["told"]["transfer"]["curves"]:
            points = ", ".join(f"{point['rows']}: {point['accuracy']['value']:.1%}" for point in curve["points"])
            needed = curve["needed"]
            told = "-" if needed is None else f"{needed['rows'] or 'never reached'} (of {curve['of']})"
            rows.append((name, curve["name"], points, told))
    return rows


if __name__ == "__main__":
    main()
