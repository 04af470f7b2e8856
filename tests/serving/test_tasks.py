"""Adapters of several tasks among others: one row through the network, and each task as its head gives it alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from graftwork.backbones.backbone import Backbone
from graftwork.errors import ArtifactInvalid
from graftwork.registry.artifact import HEAD, Artifact
from graftwork.registry.manifest import DatasetRecord, Manifest, TaskRecord
from graftwork.registry.tasks import columns_of, qualified
from graftwork.serving.engine import Engine
from tests.serving.builders import TEXTS, Made, Spec, make

SIZES = {"length": 2, "mood": 3, "topic": 2}
TEMPERATURES = {"length": 0.5, "mood": 1.0, "topic": 3.0}


def records() -> tuple[TaskRecord, ...]:
    dataset = DatasetRecord(digest="d" * 64, rows=9, train_rows=9, validation_rows=0, test_rows=0)
    return tuple(
        TaskRecord(
            name=name,
            labels=tuple(f"{name} {place}" for place in range(size)),
            temperature=TEMPERATURES[name],
            dataset=dataset,
        )
        for name, size in SIZES.items()
    )


def of_tasks(backbone: Backbone, spec: Spec, **changes: object) -> Made:
    labels = tuple(qualified(task.name, label) for task in records() for label in task.labels)
    return make(backbone, spec, **({"format": 2, "tasks": records(), "labels": labels} | changes))


@pytest.mark.parametrize("targets", [("query", "value"), None], ids=["lora", "head only"])
def test_one_pass_answers_all_tasks_beside_other_tenants(
    targets: tuple[str, ...] | None, bert: Backbone, made: Callable[..., Made]
) -> None:
    several = of_tasks(bert, Spec(seed=3, classes=7, targets=targets))
    others = [made(bert, Spec(seed=1)), made(bert, Spec(seed=2, targets=None, classes=5, temperature=0.7))]
    store = {one.digest: one.artifact for one in (several, *others)}
    engine = Engine(lambda _: bert, store.__getitem__)
    futures = [
        (one, engine.classify(f"tenant {place}", bert.fingerprint, one.digest, TEXTS))
        for place, one in enumerate((several, *others))
    ]
    engine.start()
    answers = {one.digest: future.result(60) for one, future in futures}
    computed = engine.stats().computed_rows
    # All heads on the frozen base share its vector, so a text runs through it once for both.
    assert computed == len(TEXTS) * (3 if targets else 2)
    answer = answers[several.digest]
    assert [task.name for task in answer.tasks] == list(SIZES)
    weight, bias = several.head
    for place, text in enumerate(TEXTS):
        logits = several.vector(text)[0] @ weight.T + bias
        for task in answer.tasks:
            wanted = torch.softmax(logits[task.columns] / TEMPERATURES[task.name], dim=0).numpy()
            np.testing.assert_allclose(answer.part(task).probabilities[place], wanted, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(answer.probabilities[place, task.columns], wanted, rtol=1e-4, atol=1e-5)
        for one in others:
            np.testing.assert_allclose(
                answers[one.digest].probabilities[place], one.probabilities(text), rtol=1e-4, atol=1e-5
            )
    again = engine.classify("tenant 0", bert.fingerprint, several.digest, TEXTS).result(60)
    np.testing.assert_allclose(again.logits, answer.logits, rtol=1e-6, atol=1e-6)
    assert again.tasks == answer.tasks
    assert engine.stats().computed_rows == computed  # every vector was known
    engine.close()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"format": 1}, "only the format 2 has"),
        ({"tasks": ()}, "has the format of several tasks, and none"),
        ({"tasks": records()[:1]}, "a single task"),
        ({"tasks": (records()[0], records()[0])}, "occurs twice"),
        ({"labels": tuple(f"label {place}" for place in range(7))}, "other labels than those of its tasks"),
        ({"hidden": 4}, "a hidden layer"),
    ],
)
def test_manifests_whose_tasks_do_not_fit_are_refused(changes: dict[str, object], told: str, bert: Backbone) -> None:
    made = of_tasks(bert, Spec(classes=7, targets=None), **changes)
    with pytest.raises(ArtifactInvalid, match=told):
        made.artifact.check()


def test_a_head_that_lacks_a_task_is_refused(bert: Backbone) -> None:
    short = of_tasks(bert, Spec(classes=5, targets=None))
    with pytest.raises(ArtifactInvalid, match=r"head.weight: has the shape \[5, \d+\] instead of \[7"):
        short.artifact.check()


def test_manifests_of_one_task_are_written_as_before(bert: Backbone, made: Callable[..., Made]) -> None:
    plain = made(bert, Spec(targets=None)).artifact
    assert b'"format":1' in plain.manifest_bytes
    assert b'"tasks"' not in plain.manifest_bytes
    several = of_tasks(bert, Spec(classes=7, targets=None)).artifact
    read = Manifest.model_validate_json(several.manifest_bytes)
    assert read == several.manifest
    assert columns_of(read)[1].columns == slice(2, 5)
    assert Artifact(read, {HEAD: several.files[HEAD]}).digest == several.digest
