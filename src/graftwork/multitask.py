"""A classifier for several tasks in the style of scikit-learn: one delta, a head for each task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graftwork.adaptation.inference import adapted_features, head_logits, probabilities
from graftwork.classifier import labels_of, named_classes, texts_of
from graftwork.data.dataset import Dataset
from graftwork.errors import DataRejected, Problem
from graftwork.estimator import AdaptingEstimator
from graftwork.registry.tasks import columns_of
from graftwork.training.tasks import train_tasks

if TYPE_CHECKING:
    from graftwork.registry.artifact import Artifact

Rows = tuple[ArrayLike, ArrayLike]
"""The texts of a task and their labels, as `TextClassifier.fit` takes them."""


class MultiTaskClassifier(AdaptingEstimator):
    """Adapt a pretrained encoder to several questions about a text, which share one delta and one pass.

    The arguments are those of `TextClassifier`. All rows given to `fit` are used; nothing is held out for a final
    judgement. `settings={"tasks.temperature": 1.0}` draws tasks as often as they have rows.

    Attributes:
        classes_: by the name of the task its distinct labels as they were given, sorted: the order of the columns of
            `predict_proba`.
        artifact_: the adapter, ready to be published.
        report_: what the check of the rows found.

    Example:
        >>> from graftwork import MultiTaskClassifier
        >>> mails = MultiTaskClassifier(base="minilm").fit(                             # doctest: +SKIP
        ...     {"topic": (headlines, topics), "mood": (tweets, moods)}
        ... )
        >>> mails.predict(["late goal wins the cup"])                                   # doctest: +SKIP
        {'topic': array(['sport'], dtype='<U13'), 'mood': array(['good'], dtype='<U4')}
        >>> mails.publish("acme/mail")                                                  # doctest: +SKIP
    """

    def fit(self, tasks: Mapping[str, Rows]) -> Self:
        """Train on the texts and labels of each task; a text may stand in several.

        Raises:
            DataRejected: if rows are no texts, labels are missing or of several types, or nothing sound can be trained
                on them; every reason of every task is listed.
            NotFound: if there is no such base model.
            SettingsInvalid: if there are not several tasks, or the settings are unknown or do not fit the base.
        """
        rows, classes, columns = _read(tasks)
        trained = train_tasks(self._backbone(), rows, config=self._config())
        self.artifact_: Artifact = trained.artifact
        self.report_ = trained.report
        self.classes_: dict[str, NDArray[Any]] = {}
        self._order: dict[str, list[int]] = {}
        for task in columns_of(trained.artifact.manifest):
            # Sorted as they were given, and not as the texts that stand for them.
            kept = sorted(task.labels, key=columns[task.name].__getitem__)
            self.classes_[task.name] = classes[task.name][[columns[task.name][label] for label in kept]]
            self._order[task.name] = [task.labels.index(label) for label in kept]
        return self

    def predict_proba(self, X: ArrayLike) -> dict[str, NDArray[np.float64]]:  # noqa: N803
        """Probabilities `[rows, classes]` by task, columns in the order of `classes_`; the network runs once."""
        artifact = cast("Artifact", self._fitted())
        logits = head_logits(artifact, adapted_features(self._backbone(), artifact, texts_of(X, "X")))
        manifest = artifact.manifest
        return {
            task.name: probabilities(logits[:, task.columns], record.temperature)[:, self._order[task.name]]
            for task, record in zip(columns_of(manifest), manifest.tasks, strict=True)
        }

    def predict(self, X: ArrayLike) -> dict[str, NDArray[Any]]:  # noqa: N803
        """The most probable label of each text by task, `[rows]` each."""
        return {name: self.classes_[name][each.argmax(axis=1)] for name, each in self.predict_proba(X).items()}

    def scores(self, tasks: Mapping[str, Rows]) -> dict[str, float]:
        """Accuracy on the rows of each task that is given.

        Raises:
            DataRejected: if a task is unknown or has no rows, or rows are no texts with a label each.
        """
        self._fitted()
        unknown = [name for name in tasks if name not in self.classes_]
        if unknown:
            raise DataRejected(
                f"it was not trained for {', '.join(map(repr, unknown))}",
                remedy=f"Its tasks are {', '.join(self.classes_)}.",
            )
        found = {}
        for name, (texts, labels) in tasks.items():
            asked = texts_of(texts, f"X of {name}")
            truth = labels_of(labels, rows=len(asked), name=f"y of {name}")
            if not len(truth):
                raise DataRejected(f"there are no rows of {name} to judge on", remedy="Give some, or leave it out.")
            found[name] = float(np.mean(self.predict(asked)[name] == truth))
        return found

    def score(self, tasks: Mapping[str, Rows]) -> float:
        """Mean of the tasks' accuracies (see `scores`)."""
        return float(np.mean(list(self.scores(tasks).values())))


def _read(
    tasks: Mapping[str, Rows],
) -> tuple[dict[str, Dataset], dict[str, NDArray[Any]], dict[str, dict[str, int]]]:
    """The rows of each task, its classes, and the place of each class by the text that stands for it."""
    rows, classes, columns = {}, {}, {}
    problems: list[Problem] = []
    for name, given in tasks.items():
        try:
            texts, labels = _pair(name, given)
            classes[name], columns[name] = named_classes(labels)
            rows[name] = Dataset.from_lists(texts, [str(label) for label in labels], source=name)
        except DataRejected as error:
            found = error.problems or [Problem("", error.message)]
            problems += [Problem(f"task {name}{f', {one.where}' if one.where else ''}", one.what) for one in found]
    if problems:
        raise DataRejected(
            "some tasks cannot be learned from these rows",
            problems=problems,
            remedy="Give each task a pair: its texts, and one label for each, all of one type.",
        )
    return rows, classes, columns


def _pair(name: str, given: Any) -> tuple[list[str], NDArray[Any]]:
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise DataRejected(f"{name} is no pair of texts and labels")
    texts = list(texts_of(given[0], "X"))
    return texts, labels_of(given[1], rows=len(texts))
