"""Building blocks beside skada's: `python -m benchmarks.domains_skada [--targets …] [--seeds 5]`.

On the pooled MiniLM features of `benchmarks.domains` (level `probe`): films with labels, tweets or Amazon reviews
without. First the scores: soft neighbourhood density, the entropy of the answers, and accuracy and log loss weighted
by importance, by graftwork and by skada, of the same answers, with the largest difference. Then skada's shallow
methods on the same rows, beside its own base estimator without adaptation: scikit-learn's logistic regression, its
penalty chosen by cross-validation on the labelled rows. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.domains import difference, draw_rows, open_backbone
from benchmarks.machine import describe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

ROWS, TEST_ROWS, TOKENS = 1000, 1000, 64
_FOLDS, _COMPONENTS = 5, 50
_BANDWIDTH = 10.0  # of the kernel density, half of a row's norm: with a narrower one a single row has all the weight


class Problem:
    """Features and labels of one seed, centred and divided by one scale.

    Args:
        backbone: gives the features.
        target: domain without labels.
        seed: of the rows.
    """

    def __init__(self, backbone: Any, target: str, seed: int) -> None:
        films, theirs = (draw_rows(name, "train", seed, ROWS) for name in ("movies", target))
        test = draw_rows(target, "test", 0, TEST_ROWS)
        read = [backbone.embed(rows.texts, max_length=TOKENS).double().numpy() for rows in (films, theirs, test)]
        centre, scale = read[0].mean(axis=0), read[0].std()
        self.source, self.target, self.test = ((part - centre) / scale for part in read)
        names = list(films.label_names)
        self.labels, self.truth = (np.array([names.index(one) for one in rows.labels]) for rows in (films, test))

    def together(self) -> tuple[Array, NDArray[np.int64], NDArray[np.int64]]:
        """Rows, labels (-1 where there are none) and domains (negative for the target) as skada takes them."""
        domains = np.repeat([1, -2], [len(self.source), len(self.target)])
        return (
            np.concatenate([self.source, self.target]),
            np.concatenate([self.labels, np.full(len(self.target), -1)]),
            domains,
        )

    def strength(self) -> float:
        """The inverse penalty of scikit-learn's logistic regression of least cross-validated loss."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import cross_val_score

        def loss(strength: float) -> float:
            model = LogisticRegression(C=strength, max_iter=1000)
            found = cross_val_score(model, self.source, self.labels, cv=_FOLDS, scoring="neg_log_loss")
            return -float(found.mean())

        return min((1e-4, 3e-4, 1e-3, 3e-3, 1e-2), key=loss)


def compare_scores(problem: Problem, strength: float) -> dict[str, float]:
    """Of each score how far graftwork and skada are apart, of the same answers."""
    from skada import make_da_pipeline
    from skada.metrics import ImportanceWeightedScorer, PredictionEntropyScorer, SoftNeighborhoodDensity
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KernelDensity

    from graftwork.training.domains.scores import entropy, neighbourhood_density, weighted_accuracy

    model = make_da_pipeline(LogisticRegression(C=strength, max_iter=1000).set_score_request(sample_weight=True))
    rows, labels, domains = problem.together()
    model.fit(rows, labels, sample_domain=domains)
    there = model.predict_proba(problem.target)
    here = model.predict_proba(problem.source, sample_domain=domains[: len(problem.source)], allow_source=True)
    kernel = KernelDensity(bandwidth=_BANDWIDTH)
    densities = [kernel.fit(of).score_samples(problem.source) for of in (problem.target, problem.source)]
    ours = {
        "soft neighbourhood density": neighbourhood_density(there),
        "entropy of the answers": float(entropy(there).mean()),
        "weighted accuracy": weighted_accuracy(here, problem.labels, np.exp(densities[0] - densities[1])),
    }
    scorers = (
        SoftNeighborhoodDensity(),
        PredictionEntropyScorer(greater_is_better=True),
        ImportanceWeightedScorer(weight_estimator=kernel),
    )
    theirs = [float(scorer(model, rows, labels, sample_domain=domains)) for scorer in scorers]
    return {name: abs(own - other) for (name, own), other in zip(ours.items(), theirs, strict=True)}


def right_by_method(problem: Problem, strength: float) -> dict[str, NDArray[np.int64]]:
    """Of each of skada's methods which test rows of the target it has right; `source-only` is its base estimator."""
    from skada import CORAL, ClassRegularizerOTMapping, OTMapping, SubspaceAlignment
    from sklearn.linear_model import LogisticRegression

    base = LogisticRegression(C=strength, max_iter=1000)
    right = {"source-only": base.fit(problem.source, problem.labels).predict(problem.test) == problem.truth}
    rows, labels, domains = problem.together()
    methods = {
        "CORAL": CORAL(base_estimator=base),
        "optimal transport": OTMapping(base_estimator=base),
        "optimal transport by class": ClassRegularizerOTMapping(base_estimator=base),
        "subspace alignment": SubspaceAlignment(base_estimator=base, n_components=_COMPONENTS),
    }
    for name, method in methods.items():
        method.fit(rows, labels, sample_domain=domains)
        right[name] = method.predict(problem.test) == problem.truth
    return {name: found.astype(int) for name, found in right.items()}


def main() -> None:
    """Compare and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=["tweets", "amazon"])
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    warnings.filterwarnings("ignore", module="skada|ot|sklearn")
    print(f"{describe()}, skada {version('skada')}, POT {version('POT')}")
    print(f"python -m benchmarks.domains_skada {' '.join(sys.argv[1:])}".rstrip())
    backbone = open_backbone(remember=True)
    for target in asked.targets:
        right, apart = dict[str, list[Any]](), dict[str, float]()
        for seed in range(asked.seeds):
            problem = Problem(backbone, target, seed)
            strength = problem.strength()
            for name, gap in compare_scores(problem, strength).items():
                apart[name] = max(gap, apart.get(name, 0.0))
            for name, found in right_by_method(problem, strength).items():
                right.setdefault(name, []).append(found)
        print_tables(target, right, apart)


def print_tables(target: str, right: Mapping[str, list[Any]], apart: Mapping[str, float]) -> None:
    """Accuracy of each method less source-only, and the largest differences of the scores."""
    print(f"\nfilms -> {target}, {len(right['source-only'])} seeds\n")
    print("| method of skada | accuracy | less source-only |\n| --- | --- | --- |")
    for name, found in right.items():
        less = "" if name == "source-only" else difference(found, right["source-only"])
        print(f"| {name} | {np.mean(found):.1%} | {less} |")
    print("\n| score | largest difference from skada's |\n| --- | --- |")
    for name, gap in apart.items():
        print(f"| {name} | {gap:.1e} |")


if __name__ == "__main__":
    main()
