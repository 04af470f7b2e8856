"""A text classifier like any other estimator of scikit-learn.

python examples/scikit_learn.py FOLDER_OF_A_MODEL tweets.csv
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from sklearn.model_selection import cross_val_score

from graftwork import TextClassifier


def main(model: str, file: str) -> None:
    """Cross-validate a probe on 300 rows, then fit it on all of them."""
    with Path(file).open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))[:300]
    texts, labels = [row["text"] for row in rows], [row["label"] for row in rows]
    classifier = TextClassifier(base=model, strategy="feature-extraction")
    scores = cross_val_score(classifier, texts, labels, cv=3)
    print(f"accuracy in 3 folds: {', '.join(f'{score:.3f}' for score in scores)}")
    classifier.fit(texts, labels)
    print(f"classes: {', '.join(classifier.classes_)}")
    print(f"'so annoyed' is {classifier.predict(['so annoyed'])[0]}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
