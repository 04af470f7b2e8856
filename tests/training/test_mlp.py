"""A head with a hidden layer: fitted, published, judged and served as it was fitted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from safetensors.numpy import load, save
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from graftwork.adaptation.inference import head_logits
from graftwork.backbones.backbone import Backbone
from graftwork.data.dataset import Dataset
from graftwork.errors import ArtifactInvalid
from graftwork.registry.artifact import HEAD, Artifact
from graftwork.registry.manifest import FileEntry
from graftwork.serving.adapters import load_adapter
from graftwork.serving.delta import adaptable
from graftwork.serving.keys import AdapterKey
from graftwork.training.config import TrainingConfig
from graftwork.training.job import Trained, train
from graftwork.training.mlp import fit_mlp
from graftwork.training.probe import fit_head
from tests.cli.samples import draw_rows
from tests.registry.builders import make_artifact

Backbones = Callable[..., Backbone]
MLP = TrainingConfig.parse(strategy="feature-extraction", assignments=["feature_extraction.head=mlp"])


def test_it_learns_what_no_plane_separates() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(400, 4)).astype(np.float32) + 7.0
    labels = ((features[:, 0] > 7) ^ (features[:, 1] > 7)).astype(np.int64)
    mlp = fit_mlp(features, labels, classes=2, hidden=32, penalty=1e-4, seed=0)
    weight, bias = fit_head(features, labels, classes=2, penalty=1e-4)
    assert (mlp.logits(features).argmax(1) == labels).mean() > 0.9
    assert ((features @ weight.T + bias).argmax(1) == labels).mean() < 0.7
    again = fit_mlp(features, labels, classes=2, hidden=32, penalty=1e-4, seed=0)
    assert np.array_equal(mlp.logits(features), again.logits(features))


@pytest.mark.parametrize("classes", [2, 3])
def test_its_answers_are_those_of_the_library(classes: int) -> None:
    random = np.random.default_rng(1)
    features = random.normal(size=(90, 6))
    features = (features - features.mean(0)) / np.sqrt(((features - features.mean(0)) ** 2).mean())
    labels = random.integers(classes, size=90)
    mlp = fit_mlp(features, labels, classes=classes, hidden=8, penalty=0.1, seed=3)
    library = MLPClassifier((8,), alpha=0.1, batch_size=32, max_iter=100, random_state=3)
    with pytest.warns(ConvergenceWarning):  # it stops when it is told to, as ours does
        library.fit(features, labels)
    logits = mlp.logits(features)
    own = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(own / own.sum(1, keepdims=True), library.predict_proba(features), atol=1e-9)


@pytest.fixture
def trained(backbone_of: Backbones) -> Trained:
    rows = draw_rows(80)
    texts, labels = zip(*rows, strict=True)
    return train(backbone_of("bert"), Dataset.from_lists(texts, labels), config=MLP)


def test_what_is_published_answers_as_it_was_judged_and_as_it_is_served(
    backbone_of: Backbones, trained: Trained
) -> None:
    backbone, artifact = backbone_of("bert"), trained.artifact
    assert (artifact.manifest.strategy, artifact.manifest.hidden, artifact.manifest.tensors) == (
        "feature-extraction",
        64,
        (),
    )
    assert artifact.manifest.dataset.validation_rows > 0
    assert trained.evaluation is not None
    assert trained.evaluation.probe is not None
    vectors = backbone.embed(["the fox jumps over the appeal", "markets closed"])
    wanted = head_logits(artifact, vectors) / artifact.manifest.temperature
    loaded = load_adapter(AdapterKey(artifact.digest, backbone.fingerprint), artifact, backbone, adaptable(backbone))
    np.testing.assert_allclose(loaded.head.logits(vectors.numpy()), wanted, rtol=1e-5, atol=1e-5)
    one_by_one = [loaded.head.logits_of_each([vector])[0] for vector in vectors.numpy()]
    np.testing.assert_allclose(one_by_one, wanted, rtol=1e-5, atol=1e-5)
    assert loaded.head.nbytes == 8 * (64 * (backbone.width + 1) + 2 * 65)


def test_a_hidden_layer_that_is_missing_or_of_another_shape_is_refused(trained: Trained) -> None:
    tensors = load(trained.artifact.files[HEAD])

    def check(**changed: np.ndarray) -> str:
        content = save({name: value for name, value in (tensors | changed).items() if value.size})
        entry = FileEntry(path=HEAD, sha256="0" * 64, size=len(content))
        manifest = trained.artifact.manifest.model_copy(update={"files": (entry,)})
        with pytest.raises(ArtifactInvalid) as caught:
            Artifact(manifest, {HEAD: content}).check(hashed=True)
        return str(caught.value)

    nothing = np.zeros(0, np.float32)
    assert "hidden.bias: is missing" in check(**{"hidden.bias": nothing})
    assert "hidden.weight: has the shape [5, 32] instead of [64, 32]" in check(
        **{"hidden.weight": np.zeros((5, 32), np.float32)}
    )


def test_the_manifest_of_a_linear_head_is_what_it_was_before_there_were_others() -> None:
    assert b'"hidden"' not in make_artifact("0" * 64).manifest_bytes
