from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from graftwork import MultiTaskClassifier
from graftwork.errors import DataRejected, SettingsInvalid
from tests.backbones.tiny import save_model
from tests.cli.running import run_graft
from tests.cli.samples import draw_rows

ROWS = draw_rows(15)
TEXTS = [text for text, _ in ROWS]
TOPICS = [label for _, label in ROWS]
LENGTHS = [10 if label == TOPICS[0] else 9 for label in TOPICS]  # as texts "10" stands before "9"
TASKS: dict[str, tuple[Any, Any]] = {"topic": (TEXTS, TOPICS), "length": (np.array(TEXTS[:24]), np.array(LENGTHS[:24]))}
UNSEEN = ["fox jumps over lazy brown dog", "court granted broken parcel refund"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "tiny", "bert")


@pytest.fixture(autouse=True)
def full_precision(graft_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_DTYPE", "float32")


@pytest.fixture
def probes(tiny: Path) -> MultiTaskClassifier:
    return MultiTaskClassifier(base=tiny, strategy="feature-extraction")


def test_it_answers_every_task_with_labels_of_their_own_type(probes: MultiTaskClassifier) -> None:
    assert probes.fit(TASKS) is probes
    assert {name: classes.tolist() for name, classes in probes.classes_.items()} == {
        "topic": ["animal", "legal"],
        "length": [9, 10],
    }
    answers = probes.predict(UNSEEN)
    assert answers["topic"].tolist() == ["animal", "legal"]
    assert answers["length"].tolist() == [10 if topic == TOPICS[0] else 9 for topic in answers["topic"]]
    shares = probes.predict_proba(UNSEEN)
    for name, each in shares.items():
        assert each.shape == (2, 2)
        assert each.sum(axis=1) == pytest.approx([1, 1])
        assert probes.classes_[name][each.argmax(axis=1)].tolist() == answers[name].tolist()
    accuracy = probes.scores(TASKS)
    assert accuracy["topic"] == pytest.approx(float(np.mean(probes.predict(TEXTS)["topic"] == np.array(TOPICS))))
    assert probes.score(TASKS) == pytest.approx((accuracy["topic"] + accuracy["length"]) / 2)
    assert min(accuracy.values()) > 0.9
    copied = pickle.loads(pickle.dumps(probes))
    assert (copied.predict_proba(UNSEEN)["topic"] == shares["topic"]).all()


def test_lora_is_shared_and_what_is_published_answers_the_same(tiny: Path) -> None:
    assert run_graft(["base", "add", str(tiny), "--name", "tiny"]).code == 0
    settings = {"fine_tuning.epochs": 1, "lora.rank": 2, "tasks.temperature": 1.0}
    shared = MultiTaskClassifier(base="tiny", strategy="lora", settings=settings).fit(TASKS)
    assert [task.name for task in shared.artifact_.manifest.tasks] == ["length", "topic"]
    assert shared.artifact_.manifest.settings["tasks"]["temperature"] == 1.0
    assert clone(shared).fit(TASKS).artifact_.digest == shared.artifact_.digest
    assert shared.publish("acme/mail").reference == "acme/mail@1"
    (row,) = run_graft(["predict", "acme/mail", UNSEEN[0], "--json"]).json["results"]
    expected = shared.predict_proba(UNSEEN[:1])
    for name, classes in shared.classes_.items():
        scores = {one["label"]: one["score"] for one in row["tasks"][name]}
        assert [scores[str(label)] for label in classes] == pytest.approx(expected[name][0].tolist(), abs=1e-4)


def test_every_mistake_of_every_task_is_told(probes: MultiTaskClassifier) -> None:
    with pytest.raises(DataRejected) as caught:
        probes.fit({"topic": (["a", 3], ["x", "y"]), "mood": (["a", "b"], ["x"]), "spam": 5})  # type: ignore[dict-item]
    assert [problem.where for problem in caught.value.problems] == ["task topic, X, row 2", "task mood", "task spam"]
    with pytest.raises(SettingsInvalid, match="not several tasks"):
        probes.fit({"topic": (TEXTS, TOPICS)})
    with pytest.raises(NotFittedError):
        probes.predict(UNSEEN)
    probes.fit(TASKS)
    with pytest.raises(DataRejected, match="not trained for 'mood'"):
        probes.score({"mood": (TEXTS, TOPICS)})
    with pytest.raises(DataRejected, match="no rows of topic"):
        probes.score({"topic": ([], [])})
