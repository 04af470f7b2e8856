"""Pictures through the whole house: trained, published, asked by the command line, over HTTP and in Python."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from graftwork import Client, ImageClassifier
from graftwork.adaptation.inference import adapted_features, head_logits, probabilities
from graftwork.api.app import create_app
from graftwork.data.media import Media
from graftwork.data.read import read_dataset
from graftwork.errors import DataRejected, ModalityMismatch
from graftwork.serving.request import Ask
from graftwork.settings import load_settings
from graftwork.wiring import Services, open_services
from tests.api.live import live
from tests.backbones.test_images import save_images_model
from tests.backbones.tiny import save_model
from tests.cli.running import Done, run_graft

COLOURS = {"blue": (40, 40, 200), "red": (200, 40, 40)}


def paint(folder: Path, count: int, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.clip(np.array(colour) + rng.integers(-60, 60, (20, 30, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


@dataclass
class House:
    """A home with two image bases, a text base and adapters: `acme/cnn` (partial), `acme/vit` (lora)."""

    home: Path
    pictures: Path
    fresh: list[Path]
    services: Services

    def graft(self, *line: str) -> Done:
        return run_graft(line)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("pictures")
    home = folder / "home"
    pictures = paint(folder / "train", 12, seed=0)
    fresh = sorted(paint(folder / "fresh", 2, seed=1).glob("*/*.png"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_HOME", str(home))
        patch.setenv("GRAFT_DTYPE", "float32")
        bases = {
            "cnn": save_images_model(folder / "m1", "efficientnet-lite"),
            "vit": save_images_model(folder / "m2", "vit"),
            "bert": save_model(folder / "m3", "bert"),
        }
        for name, saved in bases.items():
            assert run_graft(["base", "add", str(saved), "--name", name]).code == 0
        quick = ["--set", "fine_tuning.epochs=3", "--set", "fine_tuning.learning_rate=0.01", "--set", "test_share=0.2"]
        for base, strategy, store in (("cnn", "partial", "partial.store=lossless"), ("vit", "lora", "lora.rank=2")):
            line = ["train", str(pictures), "--base", base, "--name", f"acme/{base}", "--strategy", strategy]
            done = run_graft([*line, *quick, "--set", store])
            assert done.code == 0, done.told
        with open_services(load_settings(home=home, dtype="float32", device="cpu")) as services:
            yield House(home, pictures, fresh, services)


@pytest.fixture(autouse=True)
def _at_home(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_HOME", str(house.home))
    monkeypatch.setenv("GRAFT_DTYPE", "float32")


def naive(house: House, name: str, files: list[Path]) -> NDArray[np.float64]:
    """Probabilities by the adapter alone, attached the plain way."""
    version = house.services.catalog.resolve(name)
    artifact = house.services.catalog.read(version.digest)
    backbone = house.services.backbone(house.services.bases.resolve(version.base))
    features = adapted_features(backbone, artifact, [Media.of_file(path, "image") for path in files])
    return probabilities(head_logits(artifact, features), artifact.manifest.temperature)


@pytest.fixture(scope="module")
def url(house: House) -> Iterator[str]:
    engine = house.services.engine()
    with live(create_app(house.services, engine)) as address:
        yield address


def test_the_manifest_tells_what_the_adapter_reads(house: House) -> None:
    for name, tensors in (("acme/cnn", True), ("acme/vit", True)):
        manifest = house.services.catalog.resolve(name).manifest
        assert manifest.modality == "image"
        assert bool(manifest.tensors) == tensors


def test_predict_takes_files_and_answers_as_the_adapter_alone(house: House) -> None:
    for name in ("acme/cnn", "acme/vit"):
        answer = house.graft("predict", name, *map(str, house.fresh), "--json").json
        found = [{one["label"]: one["score"] for one in row["labels"]} for row in answer["results"]]
        wanted = naive(house, name, house.fresh)
        np.testing.assert_allclose([[row["blue"], row["red"]] for row in found], wanted, atol=1e-5)
        assert [path.parent.name for path in house.fresh] == [max(row, key=row.__getitem__) for row in found]


def test_http_takes_base64_and_files_of_a_form(house: House, url: str) -> None:
    wanted = naive(house, "acme/cnn", house.fresh)
    with Client(url) as client:
        answer = client.classify("acme/cnn", [path.read_bytes() for path in house.fresh])
        (each, vit) = client.classify_each(["acme/cnn", "acme/vit"], house.fresh[0].read_bytes())
    scores = [{one.label: one.score for one in row.scores} for row in answer.results]
    np.testing.assert_allclose([[row["blue"], row["red"]] for row in scores], wanted, atol=1e-5)
    assert not isinstance(each, Exception)
    assert not isinstance(vit, Exception)
    files = [("image", (path.name, path.read_bytes(), "image/png")) for path in house.fresh]
    form = httpx.post(f"{url}/v1/classify", data={"model": "acme/cnn", "top_k": "1"}, files=files)
    assert form.status_code == 200
    assert [row["labels"][0]["label"] for row in form.json()["results"]] == [path.parent.name for path in house.fresh]


def test_a_picture_that_comes_again_is_not_computed_again(house: House) -> None:
    engine = house.services.engine()
    version = house.services.catalog.resolve("acme/vit")
    one = Media.of_bytes(house.fresh[0].read_bytes(), "image")
    answers = []
    for _ in range(2):
        asked = engine.classify("acme", version.base, version.digest, [one])
        while not asked.done():
            engine.step(5.0)
        answers.append(asked.result())
    np.testing.assert_array_equal(answers[0].logits, answers[1].logits)
    assert engine.stats().computed_rows == 1
    assert engine.classify_known([Ask("acme", version.base, version.digest)], [[str.__str__(one)]]) != [None]
    engine.close()


@pytest.mark.parametrize(
    ("inputs", "status", "code"),
    [
        (["a text"], 422, "modality-mismatch"),
        ([{"image": base64.b64encode(b"no picture").decode()}], 422, "data-rejected"),
        ([{"image": "not base64!"}], 422, "request-invalid"),
        ([{"picture": ""}], 422, "request-invalid"),
        (["\x00image:" + "0" * 64], 422, "request-invalid"),
    ],
)
def test_what_is_no_picture_is_refused_over_http(url: str, inputs: object, status: int, code: str) -> None:
    response = httpx.post(f"{url}/v1/classify", json={"model": "acme/cnn", "inputs": inputs})
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_a_form_is_read_strictly(url: str) -> None:
    whole = {"content-type": "multipart/form-data; boundary=x"}
    model = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nacme/cnn\r\n'
    odd = b'--x\r\nContent-Disposition: form-data; name="odd"\r\n\r\n1\r\n'
    for body, told in (
        (model, "cut short"),
        (model + odd + b"--x--\r\n", "fields too many"),
        (model + b"--x--\r\n", "at least one"),
        (b"--x\r\n\r\nno name\r\n--x--\r\n", "has no name"),
    ):
        response = httpx.post(f"{url}/v1/classify", content=body, headers=whole)
        assert (response.status_code, response.json()["code"]) == (422, "request-invalid")
        assert told in response.json()["message"]


def test_the_wrong_kind_is_refused_by_every_command(house: House, tmp_path: Path) -> None:
    texts = tmp_path / "rows.csv"
    texts.write_text("text,label\n" + "".join(f"fox {i},a\ndog {i},b\n" for i in range(12)))
    wrong = (
        ("train", str(texts), "--base", "cnn", "--name", "acme/x"),
        ("train", str(house.pictures), "--base", "bert", "--name", "acme/x"),
        ("data", "check", str(house.pictures), "--base", "bert"),
        ("evaluate", "acme/cnn", "--data", str(texts)),
    )
    for line in wrong:
        done = house.graft(*line, "--json")
        assert (done.code, done.error["code"]) == (2, "modality-mismatch"), line


def test_strategies_that_need_attention_or_tokens_are_refused_with_a_reason(house: House) -> None:
    line = ["train", str(house.pictures), "--name", "acme/x", "--json"]
    lora = house.graft(*line, "--base", "cnn", "--strategy", "lora")
    assert "partial" in lora.error["remedy"]
    prefix = house.graft(*line, "--base", "vit", "--strategy", "prefix-tuning")
    assert prefix.error["code"] == "modality-mismatch"
    plan = house.graft(*line, "--base", "vit", "--dry-run")
    assert plan.error["code"] == "model-unsupported"


def test_bad_files_are_named_and_skipped_when_asked(house: House, tmp_path: Path) -> None:
    pictures = paint(tmp_path / "bad", 9, seed=2)
    (pictures / "red" / "broken.png").write_bytes(b"\x89PNG")
    line = ("train", str(pictures), "--base", "cnn", "--name", "acme/skip", "--strategy", "feature-extraction")
    refused = house.graft(*line)
    assert refused.code == 2
    assert "broken.png" in refused.told
    done = house.graft(*line, "--skip-bad")
    assert done.code == 0
    assert "broken.png" in done.told


def test_the_python_sibling_takes_paths_bytes_and_pictures(house: House, tmp_path: Path) -> None:
    rows = read_dataset(house.pictures)
    paths = [house.pictures / item.name for item in rows.texts if isinstance(item, Media)]
    classifier = ImageClassifier("cnn", strategy="feature-extraction", home=house.home).fit(paths, rows.labels)
    with Image.open(house.fresh[3]) as opened:
        given = [str(house.fresh[0]), house.fresh[1].read_bytes(), house.fresh[2], opened]
        assert classifier.predict(given).tolist() == ["blue", "blue", "red", "red"]
    (tmp_path / "no.png").write_bytes(b"no")
    with pytest.raises(DataRejected) as caught:
        classifier.predict([house.fresh[0], tmp_path / "no.png", 3, tmp_path / "gone.png"])
    assert [problem.where for problem in caught.value.problems] == ["X, row 2", "X, row 3", "X, row 4"]
    with pytest.raises(ModalityMismatch):
        ImageClassifier("bert", home=house.home).fit(paths, rows.labels)


def test_a_report_and_transfer_of_pictures(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graftwork.training.references._MOST_EPOCHS", 1)
    monkeypatch.setattr("graftwork.training.references.RATES", (1e-3,))
    monkeypatch.setattr("graftwork.training.references.CONVOLUTION_RATES", (1e-2,))
    line = ["evaluate", "acme/vit", "--transfer", str(house.pictures), "--draws", "0", "--json"]
    measured = house.graft(*line).json["transfer"]
    assert [one["name"] for one in measured["against"]] == ["scratch", "scratch until it stops", "probe"]
    cnn = house.graft("evaluate", "acme/cnn", *line[2:]).json["transfer"]
    assert [one["name"] for one in cnn["against"]] == ["scratch", "scratch until it stops", "probe"]
    report = house.graft("report", "acme/vit", "--format", "json").json
    found = {one["key"]: one for one in report["sections"]}
    assert [row[0] for row in found["transfer"]["tables"][0]["rows"][1:]] == [
        one["name"] for one in measured["against"]
    ]
    assert "are not told apart by length" in " ".join(found["slices"]["text"])
    strange = paint(tmp_path / "strange", 3, seed=2)
    (strange / "blue").rename(strange / "aside")
    (strange / "red").rename(strange / "blue")
    (strange / "aside").rename(strange / "red")
    page = tmp_path / "report.html"
    assert house.graft("report", "acme/vit", "--data", str(strange), "--out", str(page)).code == 0
    assert "blue/0.png" in page.read_text()  # the worst mistakes, by the names of their files
    assert house.graft("report", "acme/cnn", "--out", str(tmp_path / "cnn.md")).code == 0
