"""Classifiers of texts, of pictures and of recordings with scikit-learn's interface."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Sequence
from numbers import Number
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin

from graftwork.adaptation.inference import adapted_features, head_logits, probabilities
from graftwork.data.dataset import Dataset
from graftwork.data.media import Media, Modality
from graftwork.data.unlabelled import unlabelled
from graftwork.errors import DataRejected, Problem
from graftwork.estimator import AdaptingEstimator
from graftwork.training.job import train

Inputs = ArrayLike | Sequence[Any]
"""Texts, or whatever a sibling reads."""


class TextClassifier(ClassifierMixin, AdaptingEstimator):  # type: ignore[misc]
    """Adapt a pretrained encoder to labelled texts.

    It is a scikit-learn estimator: it works in `cross_val_score`, `GridSearchCV` and as the last step of a
    `Pipeline`. All rows given to `fit` are used; nothing is held out for a final judgement.

    Args:
        base: a base model of the registry, or a folder in Hugging Face layout.
        strategy: `auto`, `feature-extraction`, `lora`, `prefix-tuning`, `partial` or `full`.
        seed: of every random choice.
        max_length: tokens kept of a text; the base's own limit by default.
        settings: further training settings by dotted name, such as `{"lora.rank": 4}`.
        home: the installation's folder; `GRAFT_HOME` by default.

    Attributes:
        classes_: the distinct labels as they were given, sorted: the order of the columns of `predict_proba`.
        artifact_: the adapter, ready to be published.
        report_: what the check of the rows found.

    Example:
        >>> from graftwork import TextClassifier
        >>> spam = TextClassifier(base="minilm").fit(texts, labels)         # doctest: +SKIP
        >>> spam.predict(["You have won a prize"])                          # doctest: +SKIP
        array(['spam'], dtype='<U4')
        >>> spam.publish("acme/spam")                                       # doctest: +SKIP
    """

    def fit(self, X: Inputs, y: ArrayLike, adapt_to: Inputs | None = None) -> Self:  # noqa: N803
        """Train on texts `X` (`[rows]` or `[rows, 1]`) and their labels `y` (`[rows]`; texts, numbers or truth values).

        `adapt_to` are rows like `X`, of the domain it shall answer in; the setting `adaptation` says how.

        Raises:
            DataRejected: if they are no texts, labels are missing or of several types, or nothing sound can be
                trained on them; every reason is listed.
            NotFound: if there is no such base model.
            SettingsInvalid: if the settings are unknown or do not fit the base.
        """
        texts = self._inputs(X)
        labels = labels_of(y, rows=len(texts))
        classes, columns = named_classes(labels)
        rows = Dataset.from_lists(texts, [str(label) for label in labels], source="X")
        target = None if adapt_to is None else unlabelled(self._inputs(adapt_to, "adapt_to"), source="adapt_to")
        trained = train(self._backbone(), rows, config=self._config(), adapt_to=target)
        self.artifact_ = trained.artifact
        self.report_ = trained.report
        # The artifact holds its labels as text, sorted as text: of ten numbers "10" stands before "9".
        kept = sorted(trained.artifact.manifest.labels, key=columns.__getitem__)
        self.classes_ = classes[[columns[name] for name in kept]]
        self._order = [trained.artifact.manifest.labels.index(name) for name in kept]
        return self

    def predict_proba(self, X: Inputs) -> NDArray[np.float64]:  # noqa: N803
        """Probabilities `[rows, classes]`, columns in the order of `classes_`."""
        artifact = self._fitted()
        features = adapted_features(self._backbone(), artifact, self._inputs(X))
        return probabilities(head_logits(artifact, features), artifact.manifest.temperature)[:, self._order]

    def predict(self, X: Inputs) -> NDArray[Any]:  # noqa: N803
        """The most probable label of each text, `[rows]`."""
        best = self.predict_proba(X).argmax(axis=1)
        chosen: NDArray[Any] = self.classes_[best]
        return chosen

    def _inputs(self, X: Inputs, name: str = "X") -> Sequence[str]:  # noqa: N803
        return texts_of(cast(ArrayLike, X), name)

    def __sklearn_tags__(self) -> Any:
        """Say that the input is text."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags


class ImageClassifier(TextClassifier):
    """Adapt a pretrained image encoder to labelled pictures: the sibling of `TextClassifier`, with all that it has.

    A picture is a path, the bytes of a file, or a Pillow image.

    Example:
        >>> from graftwork import ImageClassifier
        >>> defects = ImageClassifier(base="lite0").fit(["a.png", "b.png"], ["sound", "broken"])   # doctest: +SKIP
        >>> defects.predict([Path("c.png").read_bytes()])                                          # doctest: +SKIP
        array(['broken'], dtype='<U6')
    """

    _modality: Modality = "image"

    def __sklearn_tags__(self) -> Any:
        """Say that the input is neither texts nor numbers."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = False
        return tags

    def _inputs(self, X: Inputs, name: str = "X") -> Sequence[str]:  # noqa: N803
        """Media of the kind that the class is for; messages call them `name`.

        Raises:
            DataRejected: with every row that is none, or cannot be read.
        """
        from graftwork.data.kinds import kind_of

        one, several, given_as = _CALLED[self._modality]
        if isinstance(X, (str, bytes, Path)):
            raise DataRejected(f"{name} is one {one}", remedy=f"Give a list of {several}, even of one.")
        kind = kind_of(self._modality)
        found: list[Media] = []
        problems = []
        for row, given in enumerate(cast(Sequence[Any], X), start=1):
            try:
                media = _media(given, row, self._modality)
                wrong = kind.what_is_wrong(media)
            except OSError as error:
                wrong = f"{given}: {error.strerror}"
            except TypeError:
                wrong = f"is {type(given).__name__}, and no {given_as}"
            if wrong:
                problems.append(Problem(f"{name}, row {row}", wrong))
            else:
                found.append(media)
        if problems:
            raise DataRejected(f"some rows are no {several}", problems=problems[:20], remedy="Leave them out.")
        return found


class AudioClassifier(ImageClassifier):
    """Adapt a pretrained speech encoder to labelled recordings: the sibling of `ImageClassifier`.

    A recording is a path or the bytes of a file.

    Example:
        >>> from graftwork import AudioClassifier
        >>> spoken = AudioClassifier(base="whisper").fit(["a.ogg", "b.ogg"], ["de", "fr"])   # doctest: +SKIP
        >>> spoken.predict([Path("c.ogg").read_bytes()])                                     # doctest: +SKIP
        array(['fr'], dtype='<U2')
    """

    _modality: Modality = "audio"


_CALLED: dict[Modality, tuple[str, str, str]] = {
    "image": ("picture", "pictures", "path, bytes or Pillow image"),
    "audio": ("recording", "recordings", "path or bytes"),
}


def _media(given: Any, row: int, modality: Modality) -> Media:
    """A picture or a recording from a path or the bytes of a file; a picture from what Pillow holds, too.

    Raises:
        OSError: if the file cannot be read.
        TypeError: if it is something else.
    """
    if isinstance(given, Media):
        return given
    if isinstance(given, (str, os.PathLike)):
        return Media.of_file(Path(given), modality)
    if isinstance(given, (bytes, bytearray)):
        return Media.of_bytes(bytes(given), modality, name=f"row {row}")
    if modality != "image" or not hasattr(given, "save"):
        raise TypeError
    data = io.BytesIO()
    given.save(data, format="PNG")
    return Media.of_bytes(data.getvalue(), "image", name=f"row {row}")


def labels_of(y: ArrayLike, *, rows: int, name: str = "y") -> NDArray[Any]:
    """Labels `[rows]` of one type, from a list, an array, a series, or a table of one column.

    Raises:
        DataRejected: if their number differs from the texts', or with every one that is missing or of another type.
    """
    try:
        values = np.asarray(y)
    except ValueError as error:
        raise DataRejected(f"{name} is no table of one column", remedy="Give one label for each text.") from error
    if values.shape not in {(rows,), (rows, 1)}:
        raise DataRejected(
            f"{name} has the shape {values.shape}, but X has {rows:,} rows", remedy="Give one label for each text."
        )
    # As they were given: an array of numbers and texts makes texts of them all.
    given = list(y) if isinstance(y, (list, tuple)) else values.ravel().tolist()
    types = Counter(_kind(label) for label in given)
    usual = types.most_common(1)[0][0] if types else ""
    problems = [
        Problem(f"{name}, row {row}", "is missing" if _is_missing(label) else f"is {_kind(label)}, most are {usual}")
        for row, label in enumerate(given, start=1)
        if _is_missing(label) or _kind(label) != usual
    ]
    if problems:
        raise DataRejected(
            "some labels cannot be used", problems=problems[:20], remedy="Give every text a label, all of one type."
        )
    return values.ravel()


def named_classes(labels: NDArray[Any]) -> tuple[NDArray[Any], dict[str, int]]:
    """The distinct labels, sorted, and the place of each by the text that stands for it in an artifact.

    Raises:
        DataRejected: if some differ and print the same.
    """
    classes = np.unique(labels)
    columns = {str(label): column for column, label in enumerate(classes)}
    if len(columns) != len(classes):
        raise DataRejected(
            "some labels differ but print the same",
            problems=[Problem("y", f"{name!r} may stand for several labels") for name in columns],
            remedy="Give labels of one type.",
        )
    return classes, columns


def _kind(label: object) -> str:
    if isinstance(label, str):
        return "text"
    if isinstance(label, (bool, np.bool_)):
        return "a truth value"
    return "a number" if isinstance(label, (Number, np.number)) else type(label).__name__


def _is_missing(label: object) -> bool:
    if label is None:
        return True
    try:
        return bool(label != label)  # noqa: PLR0124 - how a number tells that it is none
    except TypeError:
        return True  # pandas.NA, which answers neither yes nor no


def texts_of(X: ArrayLike, name: str) -> Sequence[str]:  # noqa: N803
    """Texts from a list, an array, a series, or a table of one column; messages call them `name`.

    Raises:
        DataRejected: with every row that is no text.
    """
    if isinstance(X, str):
        raise DataRejected(f"{name} is one text", remedy="Give a list of texts, even of one.")
    values = X if isinstance(X, list) else np.asarray(X, dtype=object)
    if isinstance(values, np.ndarray):
        if values.ndim > 2 or (values.ndim == 2 and values.shape[1] != 1):
            raise DataRejected(
                f"{name} has the shape {values.shape}", remedy="Give one text a row: [rows] or [rows, 1]."
            )
        values = values.ravel().tolist()
    problems = [
        Problem(f"{name}, row {row}", f"is {type(value).__name__}, not text")
        for row, value in enumerate(values, start=1)
        if not isinstance(value, str)
    ]
    if problems:
        raise DataRejected("some rows are no texts", problems=problems[:20], remedy="Give texts only.")
    return [str(value) for value in values]
