from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.validation import check_is_fitted

from graftwork import TextClassifier
from graftwork.errors import DataRejected, ModelUnreadable, NotFound, SettingsInvalid
from tests.backbones.tiny import save_model
from tests.cli.running import run_graft
from tests.cli.samples import draw_rows

ROWS = draw_rows(15)
TEXTS = [text for text, _ in ROWS]
NAMES = [label for _, label in ROWS]
UNSEEN, EXPECTED = ["fox jumps over lazy brown dog", "court granted broken parcel refund"], ["animal", "legal"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "tiny", "bert")


@pytest.fixture(autouse=True)
def full_precision(graft_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_DTYPE", "float32")


@pytest.fixture
def probe(tiny: Path) -> TextClassifier:
    return TextClassifier(base=tiny, strategy="feature-extraction")


@pytest.fixture
def registered(tiny: Path) -> None:
    assert run_graft(["base", "add", str(tiny), "--name", "tiny"]).code == 0


def test_it_learns_predicts_and_scores(probe: TextClassifier) -> None:
    fitted = probe.fit(TEXTS, NAMES)
    assert fitted is probe
    assert probe.predict(UNSEEN).tolist() == EXPECTED
    shares = probe.predict_proba(UNSEEN)
    assert shares.shape == (2, 2)
    assert shares.dtype == np.float64
    assert shares.sum(axis=1) == pytest.approx([1, 1])
    assert probe.classes_[shares.argmax(axis=1)].tolist() == EXPECTED
    assert probe.score(TEXTS, NAMES) > 0.9
    assert probe.predict_proba([]).shape == (0, 2)
    assert probe.report_.rows == len(TEXTS)
    assert probe.artifact_.manifest.dataset.train_rows == len(TEXTS)
    assert probe.artifact_.manifest.metrics is None


def test_lora_too(tiny: Path) -> None:
    settings = {"fine_tuning.epochs": 1, "lora.rank": 2}
    lora = TextClassifier(base=str(tiny), strategy="lora", settings=settings).fit(TEXTS, NAMES)
    assert lora.artifact_.manifest.strategy == "lora"
    assert lora.artifact_.manifest.strategy_settings["rank"] == 2
    again = clone(lora).fit(TEXTS, NAMES)
    assert again.artifact_.digest == lora.artifact_.digest
    assert (again.predict_proba(UNSEEN) == lora.predict_proba(UNSEEN)).all()


def test_it_is_a_classifier_of_scikit_learn(probe: TextClassifier) -> None:
    assert is_classifier(probe)
    params = probe.get_params()
    assert set(params) == {"base", "strategy", "seed", "max_length", "settings", "home"}
    assert clone(probe).get_params() == params
    assert probe.set_params(seed=4, strategy="lora").get_params() == {**params, "seed": 4, "strategy": "lora"}
    with pytest.raises(ValueError, match="colour"):
        probe.set_params(colour="red")
    with pytest.raises(NotFittedError):
        check_is_fitted(probe)
    assert "strategy='lora'" in repr(probe)


def test_cross_validation(probe: TextClassifier) -> None:
    scores = cross_val_score(probe, TEXTS, NAMES, cv=3, error_score="raise")
    assert scores.shape == (3,)
    assert scores.mean() > 0.8


def test_a_search_over_strategies_and_settings(probe: TextClassifier) -> None:
    grid = [
        {"strategy": ["feature-extraction"], "seed": np.array([0, 1])},
        {"strategy": ["lora"], "settings": [{"lora.rank": rank, "fine_tuning.epochs": 1} for rank in np.array([1, 2])]},
    ]
    search = GridSearchCV(probe, grid, cv=2, error_score="raise", scoring="neg_log_loss").fit(TEXTS, NAMES)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert len(search.cv_results_["params"]) == 4
    assert search.predict(UNSEEN).tolist() == EXPECTED
    assert search.best_estimator_.get_params()["base"] == probe.base


def test_the_last_step_of_a_pipeline(probe: TextClassifier) -> None:
    upper = [text.upper() for text in TEXTS]
    lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    pipeline = Pipeline([("lower", lower), ("classify", probe)]).fit(upper, NAMES)
    assert pipeline.predict([text.upper() for text in UNSEEN]).tolist() == EXPECTED
    assert pipeline.classes_.tolist() == ["animal", "legal"]
    assert pipeline.set_params(classify__seed=3).named_steps["classify"].seed == 3


def test_pickles_answer_the_same(probe: TextClassifier) -> None:
    expected = probe.fit(TEXTS, NAMES).predict_proba(UNSEEN)
    copied = pickle.loads(pickle.dumps(probe))
    assert (copied.predict_proba(UNSEEN) == expected).all()
    assert copied.artifact_.digest == probe.artifact_.digest


LABELS: dict[str, tuple[Any, Any, Any]] = {
    "int": ([7 if name == "animal" else -3 for name in NAMES], [7, -3], np.int64),
    "int8": (np.array([7 if name == "animal" else -3 for name in NAMES], np.int8), [7, -3], np.int8),
    "float": ([1.0 if name == "animal" else 2.0 for name in NAMES], [1.0, 2.0], np.float64),
    "bool": ([name == "animal" for name in NAMES], [True, False], np.bool_),
    "str": (NAMES, ["animal", "legal"], np.dtype("<U6")),
    "object": (np.array(NAMES, dtype=object), ["animal", "legal"], np.object_),
    "series": (pd.Series(NAMES), ["animal", "legal"], None),
    "column": (np.array(NAMES)[:, None], ["animal", "legal"], np.dtype("<U6")),
}


@pytest.mark.parametrize(("labels", "expected", "dtype"), LABELS.values(), ids=LABELS)
def test_labels_keep_their_type(probe: TextClassifier, labels: Any, expected: Any, dtype: Any) -> None:
    probe.fit(TEXTS, labels)
    answer = probe.predict(UNSEEN)
    assert answer.tolist() == expected
    assert probe.classes_.tolist() == sorted(expected)
    if dtype is not None:
        assert answer.dtype == probe.classes_.dtype == dtype
    assert probe.score(TEXTS, labels) > 0.9


def test_columns_stand_in_the_order_of_numbers_not_of_their_digits(tiny: Path) -> None:
    """scikit-learn takes columns to be sorted as numbers; the artifact sorts labels as text."""
    classes = list(range(12))
    words = ["quick", "brown", "fox", "jumps", "lazy", "dog", "court", "granted", "appeal", "case", "refund", "parcel"]
    texts = [f"{words[label]} {other} {words[label]} over" for label in classes for other in words[:8]]
    labels = np.repeat(classes, 8)
    fitted = TextClassifier(base=tiny, strategy="feature-extraction").fit(texts, labels)
    assert fitted.artifact_.manifest.labels[:4] == ("0", "1", "10", "11")
    assert fitted.classes_.tolist() == classes
    shares = fitted.predict_proba(texts)
    assert (fitted.classes_[shares.argmax(axis=1)] == fitted.predict(texts)).all()
    assert log_loss(labels, shares) < 1
    held_out = cross_val_predict(clone(fitted), texts, labels, cv=2, method="predict_proba")
    assert held_out.shape == (96, 12)
    assert log_loss(labels, held_out) < 2


@pytest.mark.parametrize(
    "given",
    [
        tuple(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object)[:, None],
        pd.Series(TEXTS, index=range(100, 100 + len(TEXTS))),
        pd.DataFrame({"text": TEXTS}),
    ],
    ids=["tuple", "array", "column", "series", "frame"],
)
def test_texts_in_any_container(probe: TextClassifier, given: Any) -> None:
    digest = clone(probe).fit(TEXTS, NAMES).artifact_.digest
    assert probe.fit(given, NAMES).artifact_.digest == digest
    assert probe.predict(given).tolist() == probe.predict(TEXTS).tolist()


def test_nothing_is_answered_before_fitting(probe: TextClassifier) -> None:
    for call in (lambda: probe.predict(UNSEEN), lambda: probe.predict_proba(UNSEEN), lambda: probe.publish("a/b")):
        with pytest.raises(NotFittedError, match="not fitted yet; call fit first"):
            call()


def test_what_is_published_answers_the_same_everywhere(registered: None, graft_home: Path) -> None:
    classifier = TextClassifier(base="tiny", strategy="feature-extraction", home=graft_home).fit(TEXTS, NAMES)
    version = classifier.publish("acme/topics")
    assert (version.reference, version.digest) == ("acme/topics@1", classifier.artifact_.digest)
    answer = run_graft(["predict", "acme/topics", *UNSEEN, "--json"]).json
    for result, shares in zip(answer["results"], classifier.predict_proba(UNSEEN), strict=True):
        told = {entry["label"]: entry["score"] for entry in result["labels"]}
        assert [told[name] for name in classifier.classes_] == pytest.approx(shares.tolist(), abs=1e-5)
    assert run_graft(["fsck", "--json"]).json == {"errors": 0, "findings": []}


def test_publishing_from_a_folder_needs_the_base_in_the_registry(probe: TextClassifier, tiny: Path) -> None:
    probe.fit(TEXTS, NAMES)
    with pytest.raises(NotFound, match="graft base add"):
        probe.publish("acme/topics")
    assert run_graft(["base", "add", str(tiny), "--name", "tiny"]).code == 0
    assert probe.publish("acme/topics", expected_latest=0).reference == "acme/topics@1"


def test_a_folder_that_changed_is_loaded_anew(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "model")
    first = TextClassifier(base=folder, strategy="feature-extraction").fit(TEXTS, NAMES)
    shutil.rmtree(folder)
    save_model(folder, "bert", num_hidden_layers=2)
    second = TextClassifier(base=folder, strategy="feature-extraction").fit(TEXTS, NAMES)
    assert (first.artifact_.manifest.layers, second.artifact_.manifest.layers) == (3, 2)


@pytest.mark.parametrize(
    ("texts", "labels", "words"),
    [
        (TEXTS, NAMES[:-1], ["y has the shape (29,), but X has 30 rows"]),
        (TEXTS, np.array([NAMES, NAMES]).T, ["y has the shape (30, 2)"]),
        (TEXTS, [[1], [1, 2], *([[1]] * 28)], ["y is no table of one column"]),
        ("one text", ["a"], ["X is one text"]),
        (np.array([TEXTS, TEXTS]).T, NAMES, ["X has the shape (30, 2)"]),
        ([None, 3, *TEXTS[2:]], NAMES, ["X, row 1: is NoneType, not text", "X, row 2: is int, not text"]),
        (TEXTS, [None, *NAMES[1:]], ["y, row 1: is missing"]),
        (TEXTS, [float("nan"), *([1.0, 2.0] * 14), 1.0], ["y, row 1: is missing"]),
        (TEXTS, pd.array([pd.NA, *NAMES[1:]], dtype="string"), ["y, row 1: is missing"]),
        (TEXTS, [1, *NAMES[1:]], ["y, row 1: is a number, most are text"]),
        (TEXTS, [*([0, 1] * 14), 1, True], ["y, row 30: is a truth value, most are a number"]),
        (TEXTS, ["same"] * 30, ["all 30 rows have one label, 'same'"]),
        ([], [], ["none of the 0 rows is left"]),
    ],
)
def test_rows_that_cannot_be_learned_from(probe: TextClassifier, texts: Any, labels: Any, words: list[str]) -> None:
    with pytest.raises(DataRejected) as error:
        probe.fit(texts, labels)
    assert [word for word in words if word not in str(error.value)] == []
    with pytest.raises(NotFittedError):
        probe.predict(UNSEEN)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"strategy": "magic"}, ["strategy: input should be 'auto'"]),
        ({"seed": -1, "max_length": 1}, ["seed: ", "max_length: "]),
        ({"settings": {"lora.rnk": 2, "colour": 1}}, ["lora.rnk: is unknown; did you mean lora.rank?", "colour: is"]),
        ({"settings": {"seed": 2}}, ["seed: is an argument of its own"]),
        ({"settings": {"lora": 3, "lora.rank": "x"}}, ["lora.rank: "]),
    ],
)
def test_settings_that_do_not_exist(tiny: Path, arguments: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(SettingsInvalid) as error:
        TextClassifier(base=tiny, **arguments).fit(TEXTS, NAMES)
    assert [word for word in words if word not in str(error.value)] == []


def test_settings_are_not_changed(tiny: Path) -> None:
    settings = {"lora": {"rank": 2}, "lora.alpha": 4, "fine_tuning": {"epochs": 1}}
    fitted = TextClassifier(base=tiny, strategy="lora", settings=settings).fit(TEXTS, NAMES)
    assert settings == {"lora": {"rank": 2}, "lora.alpha": 4, "fine_tuning": {"epochs": 1}}
    used = fitted.artifact_.manifest.strategy_settings
    assert (used["rank"], used["alpha"]) == (2, 4)


def test_bases_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no base model 'tinny'"):
        TextClassifier(base="tinny").fit(TEXTS, NAMES)
    with pytest.raises(ModelUnreadable, match=r"config\.json"):
        TextClassifier(base=tmp_path).fit(TEXTS, NAMES)
