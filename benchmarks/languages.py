"""One classifier for many languages: `python -m benchmarks.languages [--seeds 5]`.

Captions in English train an adapter; it answers captions in other languages, as it is (zero-shot), and after 10 rows a
class of the other language as a child of it (`--parent`). Beside them the same rows alone, and all of that language's.
With multilingual-e5-small, and with MiniLM, which was trained on English, as the contrast. Needs
`scripts/fetch_models.py e5 minilm` and `scripts/fetch_datasets.py captions-by-language`. What was computed is kept in
.cache/graftwork/bench/languages.jsonl, and is not computed again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import machine

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone
    from graftwork.data.dataset import Dataset
    from graftwork.registry.artifact import Artifact

_CACHE = Path(".cache/graftwork")
_KEPT = _CACHE / "bench" / "languages.jsonl"
_SET = _CACHE / "datasets" / "captions-by-language"
_PROMPTS = {"e5": "query: ", "minilm": ""}
_OTHERS = ("de", "es", "fi", "fr", "ja", "ko", "ru")
_A_CLASS = 10
_CONTESTANTS = ("zero-shot", "child", "alone", "all rows")


@dataclass(frozen=True)
class Run:
    """One adapter judged on one language.

    Attributes:
        base: the base model.
        language: of the test rows.
        contestant: `zero-shot`, `child` (of the English adapter), `alone` (the same rows without it) or `all rows`.
        seed: of the draw of the few rows.
        right: for each test row whether the answer was right.
        published: False where the gate kept the child back and the English adapter answers on.
    """

    base: str
    language: str
    contestant: str
    seed: int
    right: list[bool]
    published: bool = True

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What is computed once."""
        return self.base, self.language, self.contestant, self.seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    runs = {run.key: run for run in _kept()}
    for base in _PROMPTS:
        bench: Bench | None = None
        for language, contestant, seed in _plan(seeds):
            if (base, language, contestant, seed) in runs:
                continue
            bench = bench or Bench(base)
            run = bench.run(language, contestant, seed)
            runs[run.key] = run
            with _KEPT.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(run)) + "\n")
    print(machine.describe())
    print(f"command: python -m benchmarks.languages --seeds {seeds}")
    for base in _PROMPTS:
        _print_table(base, [run for run in runs.values() if run.base == base and run.seed < seeds])


def _plan(seeds: int) -> Iterator[tuple[str, str, int]]:
    for language in ("en", *_OTHERS):
        yield language, "zero-shot", 0
    for seed in range(seeds):
        for language in _OTHERS:
            yield language, "child", seed
            yield language, "alone", seed
    for language in _OTHERS:
        yield language, "all rows", 0


def _kept() -> list[Run]:
    if not _KEPT.exists():
        _KEPT.parent.mkdir(parents=True, exist_ok=True)
        return []
    return [Run(**json.loads(line)) for line in _KEPT.read_text("utf-8").splitlines()]


class Bench:
    """A base model, its English adapter, and what it makes of the test rows of each language."""

    def __init__(self, base: str) -> None:
        from graftwork.backbones.inspect import inspect_model
        from graftwork.backbones.load import load_backbone

        folder = _CACHE / "models" / base
        found = inspect_model(folder, prompt=_PROMPTS[base])
        self.base = base
        self._backbone: Backbone = load_backbone(
            folder,
            fingerprint=found.fingerprint,
            tokenizer=found.tokenizer,
            metadata=found.metadata,
            dtype="float32",
        )
        self._tests = {language: _rows(language, "test") for language in ("en", *_OTHERS)}
        self._features = {language: self._backbone.embed(rows.texts) for language, rows in self._tests.items()}
        self._english = self._train(_rows("en", "train"))

    def run(self, language: str, contestant: str, seed: int) -> Run:
        """Train, if anything is to be trained, and judge."""
        from graftwork.errors import NotBetter

        if contestant == "zero-shot":
            return Run(self.base, language, contestant, seed, self._right(self._english, language))
        rows = _rows(language, "train")
        if contestant != "all rows":
            rows = _few(rows, seed)
        try:
            adapter = self._train(rows, parent=self._english if contestant == "child" else None)
        except NotBetter:
            return Run(self.base, language, contestant, seed, self._right(self._english, language), published=False)
        return Run(self.base, language, contestant, seed, self._right(adapter, language))

    def _train(self, rows: Dataset, parent: Artifact | None = None) -> Artifact:
        from graftwork.training.config import TrainingConfig
        from graftwork.training.job import train

        config = TrainingConfig(strategy="feature-extraction", test_share=0.0)
        return train(self._backbone, rows, config=config, ancestors=[parent] if parent else []).artifact

    def _right(self, adapter: Artifact, language: str) -> list[bool]:
        """Of a head alone: the base's vectors are the adapter's."""
        from graftwork.adaptation.inference import head_logits

        answers = head_logits(adapter, self._features[language]).argmax(axis=1)
        labels = adapter.manifest.labels
        return [labels[answer] == label for answer, label in zip(answers, self._tests[language].labels, strict=True)]


def _rows(language: str, split: str) -> Dataset:
    from graftwork.data.read import read_dataset

    return read_dataset(_SET / language / f"{split}.csv")


def _few(rows: Dataset, seed: int) -> Dataset:
    """At most ten rows of each class, drawn by the seed."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(len(rows))
    counts = dict.fromkeys(rows.label_names, 0)
    chosen = []
    for row in order.tolist():
        label = rows.labels[row]
        if counts[label] < _A_CLASS:
            counts[label] += 1
            chosen.append(row)
    return rows.select(sorted(chosen))


def _print_table(base: str, runs: list[Run]) -> None:
    print(f"\n{base}")
    heads = "".join(f"{name:>11}" for name in _CONTESTANTS)
    told = f"{'child less zero-shot [95 %]':<30}{'child less alone [95 %]':<26}kept back"
    print(f"{'language':<10}{'rows':>5}{heads}  {told}")
    for language in ("en", *_OTHERS):
        mine = {name: _of(runs, language, name) for name in _CONTESTANTS}
        shown = "".join(f"{_accuracy(mine[name]):>11.1%}" if mine[name] else f"{'':>11}" for name in _CONTESTANTS)
        zero, child, alone = (mine[name] for name in ("zero-shot", "child", "alone"))
        gained, beside = _difference(child, zero * len(child)), _difference(child, alone)
        back = f"{sum(not run.published for run in child)} of {len(child)}" if child else ""
        print(f"{language:<10}{len(zero[0].right):>5}{shown}  {gained:<30}{beside:<28}{back}")
    means = [statistics.mean(_accuracy(_of(runs, language, name)) for language in _OTHERS) for name in _CONTESTANTS]
    print(f"{'mean of ' + str(len(_OTHERS)):<15}" + "".join(f"{mean:>11.1%}" for mean in means))


def _of(runs: list[Run], language: str, contestant: str) -> list[Run]:
    return sorted((r for r in runs if (r.language, r.contestant) == (language, contestant)), key=lambda run: run.seed)


def _accuracy(runs: list[Run]) -> float:
    return statistics.mean(statistics.mean(run.right) for run in runs)


def _difference(mine: list[Run], theirs: list[Run]) -> str:
    """Mean difference of accuracy on the same rows and draws; rows and draws are bootstrapped for the interval."""
    import numpy as np

    if not mine or len(mine) != len(theirs):
        return ""
    pairs = np.array([np.subtract(a.right, b.right, dtype=float) for a, b in zip(mine, theirs, strict=True)])
    generator = np.random.default_rng(0)
    means = [
        pairs[generator.integers(len(pairs), size=len(pairs))][
            :, generator.integers(pairs.shape[1], size=pairs.shape[1])
        ].mean()
        for _ in range(2000)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{pairs.mean():+.1%} [{low:+.1%}, {high:+.1%}]"


if __name__ == "__main__":
    main()
