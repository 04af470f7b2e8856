"""Adapting on frozen features, beside skada: `python -m benchmarks.domains_skada [--targets …] [--seeds 5]`.

First the building blocks: the same features, answers and labels are given to ours and to skada's (0.6), and what comes
out is set side by side. Then accuracy: what skada has for features that stay as they are, on the rows and MiniLM
features of `python -m benchmarks.domains --levels probe`, whose runs have to be there, beside our self-training and the
label-free choice. skada's methods end in scikit-learn's logistic regression, whose penalty is chosen on the labelled
rows; none of them sees a label of the target. Their other settings are skada's own.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.domains import RESULTS, ROWS, TEST_ROWS, TOKENS, Run, accuracy, draw_rows, open_backbone, read_runs
from benchmarks.forgetting.table import difference
from benchmarks.machine import describe
from graftwork.training.domains.game import reverse_gradient
from graftwork.training.domains.scores import entropy, importance_weights, neighbourhood_density, weighted_accuracy

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
_SOURCE, _TARGET, _HIDDEN = 1, -2, -1  # skada's marks: of a source row, of a target row, of a label that is not known
_COMPONENTS = 50
_STRENGTHS = tuple(10.0**power for power in range(-4, 2))  # C of scikit-learn
_STEPS = 1000


@dataclass(frozen=True)
class Rows:
    """Pooled features and classes of one draw.

    Attributes:
        source: features of the labelled rows `[m, width]`.
        labels: their classes `[m]`.
        target: features of the unlabelled rows `[n, width]`.
        test: features of the target's test rows `[k, width]`.
        truth: their classes `[k]`.
    """

    source: Array
    labels: Ints
    target: Array
    test: Array
    truth: Ints

    def together(self) -> tuple[Array, Ints, Ints]:
        """Features, labels and domains as skada takes them: source rows first, the target's labels hidden."""
        counts = (len(self.source), len(self.target))
        return (
            np.concatenate([self.source, self.target]),
            np.concatenate([self.labels, np.full(counts[1], _HIDDEN)]),
            np.repeat([_SOURCE, _TARGET], counts),
        )


class Answers:
    """A classifier whose probabilities are given, as skada's scorers ask for one."""

    def __init__(self, probabilities: Array) -> None:
        self._probabilities = probabilities

    def predict_proba(self, _: Array, **__: Any) -> Array:
        """The probabilities of the target rows."""
        return self._probabilities


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=["tweets", "amazon"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--blocks", action="store_true", help="only the building blocks, on the first target and seed 0"
    )
    asked = parser.parse_args()
    print(f"{describe()}, skada {version('skada')}, scikit-learn {version('scikit-learn')}")
    print(f"python -m benchmarks.domains_skada {' '.join(sys.argv[1:])}".rstrip())
    backbone = open_backbone(remember=True)
    first = read_rows(backbone, asked.targets[0], 0)
    print_blocks(first)
    print_weights(first)
    if asked.blocks:
        return
    done = read_runs(RESULTS)
    for target in asked.targets:
        seeds = [seed for seed in range(asked.seeds) if ("probe", target, seed) in done]
        runs = [done["probe", target, seed] for seed in seeds]
        print_accuracies(target, runs, [read_rows(backbone, target, seed) for seed in seeds])


def read_rows(backbone: Backbone, target: str, seed: int) -> Rows:
    """The rows of a run of `benchmarks.domains`, read by the frozen backbone."""
    films, theirs = (draw_rows(name, "train", seed, ROWS["probe"]) for name in ("movies", target))
    test = draw_rows(target, "test", 0, TEST_ROWS["probe"])
    names = films.label_names
    source, unlabelled, judged = (
        backbone.embed(rows.texts, max_length=TOKENS["probe"]).numpy().astype(np.float64)
        for rows in (films, theirs, test)
    )
    centre = source.mean(axis=0)
    scale = np.sqrt(((source - centre) ** 2).mean())
    labels, truth = (np.array([names.index(label) for label in rows.labels]) for rows in (films, test))
    source, unlabelled, judged = ((each - centre) / scale for each in (source, unlabelled, judged))
    return Rows(source, labels, unlabelled, judged, truth)


def print_blocks(rows: Rows) -> None:
    """What each building block gives, ours and skada's."""
    print("\n| building block | ours | skada's | largest difference |\n| --- | --- | --- | --- |")
    for name, ours, theirs in building_blocks(rows):
        far = float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())
        shown = [f"{float(one):.6f}" if np.ndim(one) == 0 else f"{np.size(one):,} values" for one in (ours, theirs)]
        print(f"| {name} | {shown[0]} | {shown[1]} | {far:.1e} |")


def building_blocks(rows: Rows) -> Iterator[tuple[str, Any, Any]]:
    """Name, ours and skada's of each."""
    from skada import DensityReweightAdapter, make_da_pipeline
    from skada.deep.modules import GradientReversalLayer
    from skada.metrics import ImportanceWeightedScorer, PredictionEntropyScorer, SoftNeighborhoodDensity
    from sklearn.linear_model import LogisticRegression

    both, labels, domains = rows.together()
    model = LogisticRegression(C=_STRENGTHS[2], max_iter=_STEPS).set_score_request(sample_weight=True)
    probe = make_da_pipeline(model)
    probe.fit(both, labels, sample_domain=domains)
    answers = probe.predict_proba(rows.target)
    yield (
        "soft neighbourhood density",
        neighbourhood_density(answers),
        SoftNeighborhoodDensity()(Answers(answers), both, labels, sample_domain=domains),
    )
    mean = PredictionEntropyScorer(greater_is_better=True)(Answers(answers), both, labels, sample_domain=domains)
    yield "mean entropy of the answers (skada's, a mean over classes, times classes)", entropy(answers).mean(), mean * 3
    kernels = DensityReweightAdapter().fit(both, sample_domain=domains)
    weights = kernels.compute_weights(both, sample_domain=domains)[: len(rows.source)]
    scorer = ImportanceWeightedScorer()
    yield (
        "importance-weighted accuracy, by skada's density weights",
        weighted_accuracy(probe.predict_proba(rows.source, allow_source=True), rows.labels, weights),
        scorer(probe, both, labels, sample_domain=domains),
    )
    factor = 0.7
    gradients: list[Array] = []
    for layer in (reverse_gradient, GradientReversalLayer.apply):
        features = torch.from_numpy(rows.source).requires_grad_()
        layer(features, factor).square().sum().backward()
        assert features.grad is not None
        gradients.append(features.grad.numpy())
    yield "reversed gradients", gradients[0], gradients[1]


def print_weights(rows: Rows) -> None:
    """Importance weights by the same classifier of domains, and how near they bring the source to the target."""
    from scipy.stats import spearmanr
    from skada import DiscriminatorReweightAdapter

    both, _, domains = rows.together()
    adapter = DiscriminatorReweightAdapter().fit(both, sample_domain=domains)
    theirs = adapter.compute_weights(both, sample_domain=domains)[: len(rows.source)]
    chance = adapter.domain_classifier_.predict_proba(rows.source)[:, 1]
    ours = importance_weights(np.log(chance / (1 - chance)), (len(rows.source), len(rows.target)))
    print(
        f"\nimportance weights by one classifier of domains, rank correlation {spearmanr(ours, theirs)[0]:+.3f}; ",
        end="",
    )
    print("distance of the source's weighted mean to the target's mean:")
    for name, weights in (("unweighted", np.ones(len(ours))), ("ours", ours), ("DiscriminatorReweight", theirs)):
        mean = (weights[:, None] * rows.source).sum(axis=0) / weights.sum()
        print(f"- {name}: {np.linalg.norm(mean - rows.target.mean(axis=0)):.2f}")


def print_accuracies(target: str, runs: list[Run], draws: list[Rows]) -> None:
    """Accuracy on the target's test rows; differences are paired over seeds and rows, both drawn anew."""
    own = [run["right"]["none"] for run in runs]
    strengths = [best_penalty(rows) for rows in draws]
    print(f"\nfilms -> {target}, {len(runs)} seeds, {ROWS['probe']} rows of each, {TEST_ROWS['probe']} test rows\n")
    print("| way | accuracy | less our source-only [95 %] | seconds a seed |\n| --- | --- | --- | --- |")
    for way, name in (("none", "source-only"), ("self-training", "self-training"), ("auto", "the label-free choice")):
        beside = "" if way == "none" else difference([(run["right"][way], run["right"]["none"]) for run in runs])
        print(f"| ours: {name} | {accuracy(runs, way):.1%} | {beside} | |")
    for name, make in peers().items():
        begun = time.perf_counter()
        right = [_right(make, strength, rows) for strength, rows in zip(strengths, draws, strict=True)]
        seconds = (time.perf_counter() - begun) / len(draws)
        beside = difference(list(zip(right, own, strict=True)))
        print(f"| {name} | {np.mean(right):.1%} | {beside} | {seconds:.1f} |", flush=True)


def peers() -> dict[str, Callable[[float], Any]]:
    """scikit-learn's classifier without adaptation, and skada's ways for frozen features of several classes."""
    import skada
    from sklearn.linear_model import LogisticRegression

    def plain(strength: float) -> Any:
        return LogisticRegression(C=strength, max_iter=_STEPS)

    def weighted(strength: float) -> Any:
        return plain(strength).set_fit_request(sample_weight=True)

    return {
        "scikit-learn, source-only": plain,
        "skada, DiscriminatorReweight": lambda strength: skada.DiscriminatorReweight(weighted(strength)),
        "skada, KMMReweight": lambda strength: skada.KMMReweight(weighted(strength)),
        "skada, CORAL": lambda strength: skada.CORAL(plain(strength)),
        "skada, SubspaceAlignment": lambda strength: skada.SubspaceAlignment(plain(strength), n_components=_COMPONENTS),
        "skada, LinearOTMapping": lambda strength: skada.LinearOTMapping(plain(strength)),
        "skada, OTMapping": lambda strength: skada.OTMapping(plain(strength)),
        "skada, ClassRegularizerOTMapping": lambda strength: skada.ClassRegularizerOTMapping(plain(strength)),
        "skada, OTLabelProp": lambda strength: skada.OTLabelProp(plain(strength)),
        "skada, JDOTClassifier": lambda strength: skada.JDOTClassifier(plain(strength)),
    }


def best_penalty(rows: Rows) -> float:
    """The C of scikit-learn's logistic regression with the least log loss on folds of the labelled rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score

    def loss(strength: float) -> float:
        model = LogisticRegression(C=strength, max_iter=_STEPS)
        return -float(cross_val_score(model, rows.source, rows.labels, scoring="neg_log_loss").mean())

    return min(_STRENGTHS, key=loss)


def _right(make: Callable[[float], Any], strength: float, rows: Rows) -> list[bool]:
    both, labels, domains = rows.together()
    model = make(strength)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # solvers of optimal transport that stop before their tolerance
        if hasattr(model, "C"):
            model.fit(rows.source, rows.labels)
        else:
            model.fit(both, labels, sample_domain=domains)
        found: list[bool] = (model.predict(rows.test) == rows.truth).tolist()
    return found


if __name__ == "__main__":
    main()
