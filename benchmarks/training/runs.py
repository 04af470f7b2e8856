"""One run of one contestant: its rows, its process, its score."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.training.peers import MAX_LENGTH

CACHE = Path(__file__).parents[2] / ".cache" / "graftwork"
SETS = {
    "tweets": "sentiment/tweets",
    "movies": "sentiment/movies",
    "amazon": "sentiment/amazon",
    "bbc": "bbc",
    "headlines": "bbc",  # the first line of each article
}
OURS = ("auto", "feature-extraction", "lora", "prefix-tuning", "partial", "full")
RATES = {
    "trainer-full": (2e-5, 5e-5, 1e-4, 2e-4),
    "trainer-lora": (3e-4, 1e-3, 3e-3),
    "trainer-scratch": (1e-4, 3e-4, 1e-3),
}
EPOCHS = {"trainer-full": 5, "trainer-lora": 5, "trainer-scratch": 10}
PEERS = ("tfidf", "setfit", *RATES)
TEST_ROWS = 500


@dataclass(frozen=True)
class Run:
    """One process.

    Attributes:
        data: the set.
        rows: training rows, or a class with `per_class`.
        per_class: whether `rows` counts a class.
        seed: of the draw of the rows, and of training.
        contestant: who.
        seconds: wall clock of the whole process.
        peak_mb: its peak resident memory.
        accuracy: share of the test rows.
        macro_f1: on the test rows.
        right: for each test row whether the answer was right.
        note: the rate that was taken, or what was chosen.
        tuning_seconds: wall clock of the processes that looked for the rate.
        first_step: of ours, seconds from the start of the process to the end of its first optimizer step.
    """

    data: str
    rows: int
    per_class: bool
    seed: int
    contestant: str
    seconds: float
    peak_mb: float
    accuracy: float
    macro_f1: float
    right: list[bool]
    note: str
    tuning_seconds: float = 0.0
    first_step: float | None = None


class Bench:
    """Makes runs, in a folder for rows and an installation of ours; `done` tells of rates that were found before."""

    def __init__(self, folder: Path, done: Iterable[Run] = ()) -> None:
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self._base = CACHE / "models" / "minilm"
        self._environment = {**os.environ, "GRAFT_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
        self._graft = [sys.executable, "-m", "graftwork"]
        if not (folder / "home").exists():
            add = [*self._graft, "base", "add", str(self._base), "--name", "minilm"]
            subprocess.run(add, check=True, env=self._environment, stdout=subprocess.DEVNULL)
        self._rates = {
            (run.data, run.rows, run.per_class, run.contestant): (float(run.note.split()[1]), run.tuning_seconds)
            for run in done
            if run.contestant in RATES
        }

    def run(self, data: str, rows: int, per_class: bool, seed: int, contestant: str) -> Run | None:
        """Train and judge one contestant; None when its process failed, which is told."""
        train, test = draw(self._folder, data, rows, per_class, seed)
        note, tuning, first_step = "", 0.0, None
        if contestant in RATES:
            rate, tuning = self._tuned(data, rows, per_class, contestant)
            command, note = self._peer(contestant, train, test, rate, seed), f"rate {rate:g}"
        elif contestant in PEERS:
            command = self._peer(contestant, train, test, 0.0, seed)
        else:
            command = self._ours(contestant, train, test, seed)
        started = time.perf_counter()
        done, peak = _process(command, self._environment)
        seconds = time.perf_counter() - started
        if done.returncode:
            print(f"{contestant} failed on {data}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
            return None
        truth = _labels(test)
        if contestant in OURS:
            published = json.loads(done.stdout)
            note, first_step = published["manifest"]["strategy"], published["record"].get("seconds_to_first_step")
            predicted = self._predict(f"bench/{data}", test)
        else:
            predicted = json.loads(done.stdout.splitlines()[-1])["predicted"]
        right = [mine == theirs for mine, theirs in zip(predicted, truth, strict=True)]
        accuracy = sum(right) / len(right)
        f1 = macro_f1(predicted, truth)
        return Run(
            data, rows, per_class, seed, contestant, seconds, peak, accuracy, f1, right, note, tuning, first_step
        )

    def _ours(self, strategy: str, train: Path, test: Path, seed: int) -> list[str]:
        name = f"bench/{train.stem.split('-')[0]}"
        options = ["--strategy", strategy, "--seed", str(seed), "--set", f"max_length={MAX_LENGTH}", "--json"]
        return [*self._graft, "train", str(train), "--test", str(test), "--base", "minilm", "--name", name, *options]

    def _peer(self, peer: str, train: Path, test: Path, rate: float, seed: int) -> list[str]:
        command = [sys.executable, "-m", "benchmarks.training.peers", peer, str(self._base), str(train), str(test)]
        tuned = ["--rate", f"{rate:g}", "--epochs", str(EPOCHS[peer])] if rate else []
        return [*command, "--seed", str(seed), *tuned]

    def _predict(self, name: str, test: Path) -> list[str]:
        texts = "\n".join(" ".join(row["text"].split()) for row in _rows(test))
        command = [*self._graft, "predict", name, "--json", "-"]
        done = subprocess.run(command, input=texts, capture_output=True, text=True, check=True, env=self._environment)
        return [answer["labels"][0]["label"] for answer in json.loads(done.stdout)["results"]]

    def _tuned(self, data: str, rows: int, per_class: bool, peer: str) -> tuple[float, float]:
        """The best rate on a fifth of the first seed's training rows, and the seconds it took to find it."""
        key = (data, rows, per_class, peer)
        if key not in self._rates:
            train, _ = draw(self._folder, data, rows, per_class, 0)
            content = _rows(train)
            cut = len(content) * 4 // 5
            inner, held = self._folder / "tune-train.csv", self._folder / "tune-held.csv"
            _write(inner, content[:cut])
            _write(held, content[cut:])
            started = time.perf_counter()
            scores = {rate: self._score(peer, inner, held, rate) for rate in RATES[peer]}
            best = max(scores, key=lambda rate: scores[rate])
            self._rates[key] = best, time.perf_counter() - started
        return self._rates[key]

    def _score(self, peer: str, train: Path, held: Path, rate: float) -> float:
        done, _ = _process(self._peer(peer, train, held, rate, 0), self._environment)
        predicted = json.loads(done.stdout.splitlines()[-1])["predicted"]
        right = [mine == theirs for mine, theirs in zip(predicted, _labels(held), strict=True)]
        return float(sum(right) / len(right))


def draw(folder: Path, data: str, rows: int, per_class: bool, seed: int) -> tuple[Path, Path]:
    """Files of the rows of a seed, drawn anew from the whole training file, and of the same test rows for all."""
    source = CACHE / "datasets" / SETS[data]
    train, test = folder / f"{data}-{rows}-{per_class}-{seed}.csv", folder / f"{data}-test.csv"
    content = _texts(data, source / "train.csv")
    random.Random(seed).shuffle(content)
    _write(train, _first_of_each(content, rows) if per_class else content[:rows])
    held = _texts(data, source / "test.csv")
    random.Random(0).shuffle(held)
    _write(test, held[:TEST_ROWS])
    return train, test


def _process(command: list[str], environment: dict[str, str]) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run a process to its end; with it its peak resident megabytes."""
    watched = "import resource,subprocess,sys; code=subprocess.call(sys.argv[1:]); "
    watched += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr); sys.exit(code)"
    done = subprocess.run(
        [sys.executable, "-c", watched, *command], capture_output=True, text=True, env=environment, check=False
    )
    lines = done.stderr.strip().splitlines()
    unit = 1 if sys.platform == "darwin" else 1024
    peak = int(lines[-1]) * unit / 1e6 if lines and lines[-1].isdigit() else 0.0
    return subprocess.CompletedProcess(command, done.returncode, done.stdout, "\n".join(lines[:-1])), peak


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _texts(data: str, file: Path) -> list[dict[str, str]]:
    rows = _rows(file)
    if data == "headlines":
        return [{**row, "text": row["text"].partition("\n")[0]} for row in rows]
    return rows


def _labels(file: Path) -> list[str]:
    return [row["label"] for row in _rows(file)]


def _write(file: Path, rows: list[dict[str, str]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, ["text", "label"])
        writer.writeheader()
        writer.writerows({"text": row["text"], "label": row["label"]} for row in rows)


def _first_of_each(rows: list[dict[str, str]], count: int) -> list[dict[str, str]]:
    taken: dict[str, int] = defaultdict(int)
    kept = []
    for row in rows:
        taken[row["label"]] += 1
        if taken[row["label"]] <= count:
            kept.append(row)
    return kept


def macro_f1(predicted: Sequence[str], truth: Sequence[str]) -> float:
    """The mean of the classes' F1."""
    from sklearn.metrics import f1_score

    return float(f1_score(truth, predicted, average="macro", zero_division=0))
