from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from graftwork.errors import SettingsInvalid
from graftwork.evaluation.temperature import fit_temperature
from graftwork.training.objective import Objective, class_weights

LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 2], dtype=np.int64)
NAMES = ("ham", "odd", "spam")
CPU = torch.device("cpu")


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, np.array([1.0, 5.0, 0.5], dtype=np.float32)], ids=["plain", "weighted"])
def test_parts_add_up_to_torchs_mean_over_the_whole(weights: Any, smoothing: float) -> None:
    logits = torch.randn(11, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    targets = torch.from_numpy(LABELS)
    objective = Objective(weights, smoothing, CPU)
    parts = [objective.total(part, wanted) for part, wanted in zip(logits.split(4), targets.split(4), strict=True)]
    reference = torch.nn.functional.cross_entropy(
        logits, targets, weight=None if weights is None else torch.from_numpy(weights), label_smoothing=smoothing
    )
    assert float(sum(parts)) / objective.weight_of(targets) == pytest.approx(float(reference), rel=1e-6)


def test_validation_is_weighted_and_not_smoothed() -> None:
    logits, targets = torch.randn(11, 3, generator=torch.Generator().manual_seed(0)), torch.from_numpy(LABELS)
    weights = np.array([1.0, 5.0, 0.5], dtype=np.float32)
    reference = torch.nn.functional.cross_entropy(logits, targets, weight=torch.from_numpy(weights))
    assert Objective(weights, 0.3, CPU).validation_loss(logits, targets) == pytest.approx(float(reference))


@pytest.mark.parametrize("weights", [None, np.array([1.0, 5.0, 0.5], dtype=np.float32)], ids=["plain", "weighted"])
def test_validation_is_calibrated_so_that_being_too_sure_costs_nothing(weights: Any) -> None:
    random = np.random.default_rng(0)
    targets = torch.from_numpy(random.integers(0, 3, 200))
    logits = torch.from_numpy(random.normal(size=(200, 3)).astype(np.float32))
    logits[torch.arange(200), targets] += 1.0
    objective = Objective(weights, 0.0, CPU)
    temperature = fit_temperature(logits.double().numpy(), targets.numpy())
    reference = torch.nn.functional.cross_entropy(
        logits / temperature, targets, weight=None if weights is None else torch.from_numpy(weights)
    )
    assert objective.validation_loss(logits, targets) == pytest.approx(float(reference), rel=1e-6)
    assert objective.validation_loss(8 * logits, targets) == pytest.approx(float(reference), rel=1e-5)
    logits[3, 1] = torch.nan
    assert np.isnan(objective.validation_loss(logits, targets))


def test_balanced_weights_are_scikit_learns() -> None:
    found = class_weights("balanced", LABELS, NAMES)
    assert found is not None
    np.testing.assert_allclose(found, compute_class_weight("balanced", classes=np.arange(3), y=LABELS), rtol=1e-6)


def test_given_weights_go_by_name_and_strange_names_are_refused_all_at_once() -> None:
    given = class_weights({"spam": 3.0}, LABELS, NAMES)
    assert given is not None
    assert given.tolist() == [1.0, 1.0, 3.0]
    assert class_weights(None, LABELS, NAMES) is None
    with pytest.raises(SettingsInvalid) as caught:
        class_weights({"spma": 3.0, "ham": 1.0, "egg": 2.0}, LABELS, NAMES)
    assert [problem.where for problem in caught.value.problems] == [
        "fine_tuning.class_weights.egg",
        "fine_tuning.class_weights.spma",
    ]
    assert "ham, odd, spam" in caught.value.remedy
