"""Adapting without labels of the target, on pictures and recordings; the models are tiny and random."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from graftwork import ImageClassifier
from graftwork.backbones.backbone import Backbone
from graftwork.data.clean import without_unreadable
from graftwork.data.dataset import Dataset
from graftwork.data.read import read_dataset
from graftwork.data.unlabelled import as_line, read_unlabelled, unlabelled, usable_rows
from graftwork.errors import DataRejected, ModalityMismatch, SettingsInvalid
from graftwork.training.config import TrainingConfig
from graftwork.training.domains.shift import compare_rows
from graftwork.training.job import train
from tests.backbones.conftest import open_backbone
from tests.backbones.test_images import png, save_images_model
from tests.cli.running import run_graft
from tests.test_images import paint
from tests.test_sounds import in_file, save_speech_model, tone

QUICK = ("fine_tuning.epochs=2", "fine_tuning.batch_size=16", "domains.permutations=20", "domains.confidence=0.51")


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return open_backbone(save_images_model(tmp_path_factory.mktemp("vit"), "vit"))


@pytest.fixture(scope="module")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return open_backbone(save_images_model(tmp_path_factory.mktemp("cnn"), "efficientnet-lite"))


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return open_backbone(save_speech_model(tmp_path_factory.mktemp("whisper")))


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("studio") / "labelled", 15, seed=0)


@pytest.fixture(scope="module")
def phones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Darker pictures of the same two classes in one folder, as a telephone keeps them."""
    folder = tmp_path_factory.mktemp("phones")
    for path in sorted(paint(folder / "bright", 12, seed=3).glob("*/*.png")):
        darker = (np.asarray(Image.open(path)) // 3).astype(np.uint8)
        Image.fromarray(darker).save(folder / f"{path.parent.name}-{path.name}")
        path.unlink()
    return folder


def config(adaptation: str | None, strategy: str, *assignments: str) -> TrainingConfig:
    return TrainingConfig.parse(
        strategy=strategy, adaptation=adaptation, assignments=[*QUICK, *assignments], test_share=0.0
    )


def sounds(count: int, seed: int, *, noise: float) -> Dataset:
    rng = np.random.default_rng(seed)
    items, labels = [], []
    for index in range(count):
        label, pitch = (("high", 2_000.0), ("low", 200.0))[index % 2]
        samples = tone(pitch * rng.uniform(0.8, 1.2), 0.5)
        items.append(in_file(samples + rng.normal(0, noise, len(samples)).astype(np.float32), name=f"{index}.wav"))
        labels.append(label)
    return Dataset.from_lists(items, labels, source="sounds")


@pytest.mark.parametrize(
    ("network", "strategy", "method"),
    [
        ("vit", "lora", "adversarial"),
        ("vit", "full", "gradual-unfreezing"),
        ("vit", "lora", "self-training"),
        ("cnn", "partial", "adversarial"),
        ("cnn", "auto", "gradual-unfreezing"),
        ("cnn", "full", "adversarial"),
        ("cnn", "feature-extraction", "self-training"),
    ],
)
def test_each_method_trains_what_the_network_has(
    request: pytest.FixtureRequest, studio: Path, phones: Path, network: str, strategy: str, method: str
) -> None:
    backbone: Backbone = request.getfixturevalue(network)
    rows, target = read_dataset(studio), read_unlabelled(phones)
    before = backbone.embed(rows.texts[:2])
    artifact = train(backbone, rows, adapt_to=target, config=config(method, strategy)).artifact
    record = artifact.manifest.adaptation
    assert record is not None
    assert (record.method, record.rows, record.digest) == (method, 24, target.digest)
    assert record.shift["domain_auc"]["low"] > 0.8
    assert record.shift["words"] is None
    assert artifact.manifest.strategy == {"auto": "partial"}.get(strategy, strategy)
    assert artifact.manifest.modality == "image"
    assert torch.equal(backbone.embed(rows.texts[:2]), before)


@pytest.mark.parametrize(("strategy", "method"), [("lora", "adversarial"), ("partial", "self-training")])
def test_recordings_adapt_too(whisper: Backbone, strategy: str, method: str) -> None:
    rows, noisy = sounds(24, 0, noise=0.01), unlabelled(sounds(22, 1, noise=0.2).texts)
    first, second = (
        train(whisper, rows, adapt_to=noisy, config=config(method, strategy)).artifact.digest for _ in range(2)
    )
    assert first == second


def test_auto_compares_what_a_probe_on_pictures_can_do(vit: Backbone, studio: Path, phones: Path) -> None:
    rows, target = read_dataset(studio), read_unlabelled(phones)
    told = train(vit, rows, adapt_to=target, config=config("auto", "feature-extraction")).artifact.manifest
    assert told.adaptation is not None
    assert [one["method"] for one in told.adaptation.considered] == ["none", "self-training"]


def test_the_shift_of_pictures_is_told_by_features_and_classes(vit: Backbone, studio: Path, phones: Path) -> None:
    rows, target = read_dataset(studio), read_unlabelled(phones)
    report, findings = compare_rows(vit, rows, target)
    assert findings == []
    assert report.words is None
    assert len(report.told) == 2
    assert not any("token" in sentence for sentence in report.told)
    assert report.source_labels == {"blue": 0.5, "red": 0.5}
    same, _ = compare_rows(vit, rows, unlabelled(read_dataset(paint(phones / "again", 15, seed=9)).texts))
    assert same.domain_auc.low < 0.5 < report.domain_auc.low


def test_what_media_cannot_do_is_refused_before_anything_is_read(vit: Backbone, studio: Path, phones: Path) -> None:
    rows = read_dataset(studio)
    with pytest.raises(SettingsInvalid) as caught:
        train(vit, rows, adapt_to=read_unlabelled(phones), config=config("continued-pretraining", "lora"))
    assert [one.what for one in caught.value.problems] == [
        "continued-pretraining guesses masked tokens, and images, which this base reads, have none"
    ]
    texts = unlabelled([f"text {number}" for number in range(30)], source="tweets.csv")
    with pytest.raises(ModalityMismatch, match=r"tweets\.csv holds texts, and .* images"):
        train(vit, rows, adapt_to=texts, config=config("none", "feature-extraction"))


def test_any_folder_and_any_list_of_paths_is_a_domain(phones: Path, studio: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in phones.glob("*.png"))
    nested = tmp_path / "nested"
    for number, name in enumerate(names):
        place = nested / "2023" / f"{number % 3}" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((phones / name).read_bytes())
    (nested / "2023" / "notes.md").write_text("how these were taken")
    (nested / ".hidden.png").write_bytes(b"")
    (phones / "paths.txt").write_text("\n".join(names))
    (phones / "paths.csv").write_text("text,taken\n" + "".join(f"{name},today\n" for name in names))
    read = [read_unlabelled(place) for place in (nested, phones / "paths.txt", phones / "paths.csv")]
    assert {frozenset(rows.texts) for rows in read} == {frozenset(read_unlabelled(phones / "paths.csv").texts)}
    assert all(set(rows.labels) == {""} and rows.modality == "image" for rows in read)
    assert [as_line(note) for note in read[0].notes] == [
        "info: 1 files are no images and were left out (2023/notes.md). "
        "Nothing to do, unless they were meant to be some."
    ]
    assert len(read_unlabelled(studio)) == 30


def test_what_says_nothing_of_the_target_is_dropped_by_content(tmp_path: Path) -> None:
    items = [png(seed) for seed in range(28)]
    rows = Dataset.from_lists(items[:4], ["a", "a", "b", "b"], source="labelled")
    test = Dataset.from_lists(items[4:6], ["a", "b"], source="judged")
    for place, item in enumerate([*items[2:], items[10], items[10]]):
        (tmp_path / f"copied-{place:02}.png").write_bytes(item.read())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    target = read_unlabelled(tmp_path)
    with pytest.raises(DataRejected) as caught:
        usable_rows(target, rows, test)
    assert sorted(problem.where for problem in caught.value.problems) == ["broken.png", "empty.png"]
    assert "--skip-bad" in str(caught.value.remedy)
    usable, found = usable_rows(without_unreadable(target), rows, test)
    assert usable.texts == tuple(items[6:])
    assert {one.code: one.count for one in found} == {
        "skipped-media": 2,
        "unlabelled-labelled": 2,
        "unlabelled-judged": 2,
        "unlabelled-repeated": 2,
    }
    assert "broken.png" in as_line(found[0])
    assert "by the bytes of their files" in found[1].message


def test_pictures_and_recordings_side_by_side_are_no_domain(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1).read())
    (tmp_path / "b.wav").write_bytes(in_file(tone(300.0, 0.2)).read())
    with pytest.raises(ModalityMismatch):
        read_unlabelled(tmp_path)


def test_from_the_command_line_and_in_python(
    studio: Path, phones: Path, tmp_path: Path, graft_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_DTYPE", "float32")
    folder = save_images_model(tmp_path / "vit", "vit")
    assert run_graft(["base", "add", str(folder), "--name", "vit"]).code == 0
    target = tmp_path / "target"
    target.mkdir()
    for path in phones.glob("*.png"):
        (target / path.name).write_bytes(path.read_bytes())
    (target / "broken.png").write_bytes(b"no picture")
    shift = ["data", "shift", str(studio), "--against", str(target), "--base", "vit"]
    refused = run_graft([*shift, "--json"]).error
    assert [problem["where"] for problem in refused["problems"]] == ["broken.png"]
    assert run_graft([*shift, "--skip-bad", "--json"]).json["words"] is None
    told = run_graft([*shift, "--skip-bad"]).told
    assert "broken.png" in told
    assert "AUC" in told
    line = ["train", str(studio), "--base", "vit", "--name", "acme/phones", "--strategy", "feature-extraction"]
    published = run_graft([*line, "--adapt-to", str(target), "--skip-bad", "--json"]).json["manifest"]
    assert published["adaptation"]["rows"] == 24
    assert "skipped-media" in [one["code"] for one in published["warnings"]]
    sure = {"domains.confidence": 0.51, "domains.permutations": 20}
    files = sorted(studio.glob("*/*.png"))
    classifier = ImageClassifier(base=folder, strategy="feature-extraction", settings=sure)
    classifier.fit(files, [path.parent.name for path in files], adapt_to=sorted(phones.glob("*.png")))
    adaptation = classifier.artifact_.manifest.adaptation
    assert adaptation is not None
    assert adaptation.rows == 24
    with pytest.raises(DataRejected) as caught:
        classifier.fit(files, [path.parent.name for path in files], adapt_to=[target / "broken.png"])
    assert caught.value.problems[0].where == "adapt_to, row 1"
