"""Recordings through the whole house: decoded, made ready, trained on, published, and asked for; random weights."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
import torch
import transformers
from numpy.typing import NDArray

from graftwork import AudioClassifier, Client
from graftwork.adaptation.inference import adapted_features, head_logits, probabilities
from graftwork.api.app import create_app
from graftwork.backbones.backbone import Backbone
from graftwork.backbones.inspect import inspect_model
from graftwork.backbones.sounds import SoundReader
from graftwork.backbones.targets import linear_targets
from graftwork.data.check import check_dataset
from graftwork.data.kinds import kind_of
from graftwork.data.media import Media
from graftwork.data.read import read_dataset
from graftwork.data.recordings import MAX_SECONDS, open_recording
from graftwork.errors import DataRejected, ModelUnsupported
from graftwork.settings import load_settings
from graftwork.wiring import Services, open_services
from tests.api.live import live
from tests.backbones.conftest import open_backbone
from tests.backbones.tiny import save_model
from tests.cli.running import Done, run_graft

RATE = 16_000
PITCHES = {"high": 2_000.0, "low": 200.0}


def tone(pitch: float, seconds: float, *, rate: int = RATE, loud: float = 0.4) -> NDArray[np.float32]:
    return (loud * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def in_file(samples: NDArray[Any], *, rate: int = RATE, form: str = "WAV", name: str = "sound") -> Media:
    data = io.BytesIO()
    soundfile.write(data, samples, rate, format=form)
    return Media.of_bytes(data.getvalue(), "audio", name=name)


def sing(folder: Path, count: int, seed: int) -> Path:
    """A folder a class: tones of about its pitch in noise, of different lengths."""
    rng = np.random.default_rng(seed)
    for name, pitch in PITCHES.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            sound = tone(pitch * rng.uniform(0.8, 1.2), rng.uniform(0.3, 1.4))
            sound += rng.normal(0, 0.01, len(sound)).astype(np.float32)
            soundfile.write(folder / name / f"{index}.wav", sound, RATE)
    return folder


def save_speech_model(folder: Path, *, seconds: int = 1, positions: int = 50, **settings: Any) -> Path:
    save_model(folder, "whisper", max_source_positions=positions, num_mel_bins=16)
    config = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 16, "chunk_length": seconds}
    (folder / "preprocessor_config.json").write_text(json.dumps(config | settings))
    return folder


@pytest.fixture(scope="module")
def two_seconds(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return open_backbone(save_speech_model(tmp_path_factory.mktemp("two"), seconds=2, positions=100))


def test_a_full_window_is_made_ready_as_transformers_does(two_seconds: Backbone) -> None:
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * RATE).astype(np.float32)
    extractor = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=2)
    wanted = extractor(sound, sampling_rate=RATE, return_tensors="pt")["input_features"]
    long = np.concatenate([sound, sound[:5000]])
    for given in (sound, long, np.stack([sound * 1.5, sound * 0.5], axis=1)):
        media = in_file(given, form="WAV")
        values = two_seconds.collate(two_seconds.encode([media])).arguments["input_features"]
        assert values.shape == (1, 16, 200)
        torch.testing.assert_close(values, wanted, atol=2e-3, rtol=0)  # 16 bits a sample


def test_silence_follows_a_short_recording(two_seconds: Backbone) -> None:
    sound = np.random.default_rng(1).uniform(-0.5, 0.5, RATE * 3 // 4).astype(np.float32)
    silence = np.zeros(2 * RATE - len(sound), np.float32)
    short, full = (
        two_seconds.collate(two_seconds.encode([in_file(given)])) for given in (sound, np.concatenate([sound, silence]))
    )
    assert torch.equal(short.arguments["input_features"], full.arguments["input_features"])


@pytest.mark.parametrize(("rate", "form"), [(44_100, "OGG"), (8_000, "FLAC"), (48_000, "MP3")])
def test_resampling_keeps_pitch_length_and_loudness(rate: int, form: str) -> None:
    media = in_file(tone(440.0, 1.0, rate=rate), rate=rate, form=form)
    samples = open_recording(media, RATE)
    assert samples.dtype == np.float32
    assert abs(len(samples) - RATE) < 0.15 * RATE  # MP3 is padded to whole blocks
    middle = samples[4_000:12_000]
    assert np.abs(np.fft.rfft(middle)).argmax() * RATE / len(middle) == 440
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.4 / np.sqrt(2), rel=0.02)
    assert len(open_recording(media, RATE, seconds=0.25)) == RATE // 4


def test_a_tail_over_its_trunk_is_the_whole_network(two_seconds: Backbone) -> None:
    sounds = [in_file(tone(300.0, 0.5)), in_file(tone(900.0, 2.5))]
    rows = two_seconds.encode(sounds)
    batch = two_seconds.collate(rows)
    whole = two_seconds.forward(batch)
    assert whole.shape == (2, 100, two_seconds.width)
    with torch.no_grad():
        wanted = two_seconds.model(**batch.arguments).last_hidden_state
    torch.testing.assert_close(whole, wanted)
    torch.testing.assert_close(two_seconds.embed(sounds), wanted.mean(dim=1), atol=1e-5, rtol=1e-5)
    for split in range(two_seconds.num_layers + 1):
        outline = two_seconds.outline(rows) if split else batch
        assert torch.equal(two_seconds.tail(two_seconds.trunk(batch, split), outline, split), whole)
    assert linear_targets(two_seconds)["attention"] == ("q_proj", "v_proj")


def test_a_shorter_window_keeps_the_first_positions(tmp_path: Path, two_seconds: Backbone) -> None:
    folder = save_speech_model(tmp_path / "one", seconds=1, positions=100)
    cut = open_backbone(folder)
    assert isinstance(cut.reader, SoundReader)
    assert (cut.reader.tokens, inspect_model(folder).metadata.max_length) == (50, 50)
    encoder: Any = two_seconds.model
    whole_positions = encoder.embed_positions.weight
    own: Any = cut.model
    torch.testing.assert_close(own.embed_positions.weight, whole_positions[:50])
    assert cut.embed([in_file(tone(300.0, 0.5))]).shape == (1, cut.width)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"seconds": 31}, "no whole number"),
        ({"chunk_length": 0.5}, "no whole number"),
        ({"seconds": 2}, "the encoder has 50"),
        ({"dither": 0.1}, "dither"),
        ({"feature_extractor_type": "SomeOther"}, "feature_extractor_type"),
    ],
)
def test_other_preprocessing_is_refused(tmp_path: Path, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelUnsupported) as caught:
        inspect_model(save_speech_model(tmp_path / "model", **settings))
    assert told in f"{caught.value.message} {caught.value.problems}"


def _with_frames(frames: int) -> bytes:
    """A FLAC file whose header says how many samples it has, whatever follows."""
    data = bytearray(in_file(tone(440.0, 0.5), form="FLAC").read())
    assert data[8:12] == (4096).to_bytes(2) * 2
    data[22:26] = frames.to_bytes(4)
    return bytes(data)


BAD = {
    "empty": (b"", "is empty"),
    "text": (b"no sound at all", "is damaged, or of a format that is not read"),
    "truncated": (in_file(tone(440.0, 0.5), form="FLAC").read()[:3000], "is damaged|is cut short"),
    "long": (_with_frames((MAX_SECONDS + 1) * RATE), "lasts 601 s"),
    "nothing": (in_file(np.zeros(0, np.float32)).read(), "holds no sound"),
    "silent": (in_file(np.full(RATE, 5e-5, np.float32)).read(), "is silent"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_told_by_name(name: str) -> None:
    data, told = BAD[name]
    media = Media.of_bytes(data, "audio", name=f"{name}.wav")
    wrong = kind_of("audio").what_is_wrong(media)
    assert any(part in wrong for part in told.split("|"))
    if name != "silent":
        with pytest.raises(DataRejected, match=f"^{name}.wav: .*({told})"):
            open_recording(media, RATE)


@dataclass
class House:
    """A home with a speech base, a text base and adapters `acme/lora`, `acme/partial`, `acme/frozen`."""

    home: Path
    folder: Path
    fresh: list[Path]
    services: Services

    def graft(self, *line: str) -> Done:
        return run_graft(line)


STRATEGIES = {"lora": ["lora.rank=2"], "partial": ["partial.store=lossless"], "frozen": []}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("sounds")
    home = folder / "home"
    sounds = sing(folder / "train", 12, seed=0)
    fresh = sorted(sing(folder / "fresh", 2, seed=1).glob("*/*.wav"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_HOME", str(home))
        patch.setenv("GRAFT_DTYPE", "float32")
        for name, saved in (("ear", save_speech_model(folder / "m1")), ("bert", save_model(folder / "m2", "bert"))):
            assert run_graft(["base", "add", str(saved), "--name", name]).code == 0
        quick = ["fine_tuning.epochs=2", "fine_tuning.learning_rate=0.003", "test_share=0.2"]
        for name, settings in STRATEGIES.items():
            strategy = "feature-extraction" if name == "frozen" else name
            line = ["train", str(sounds), "--base", "ear", "--name", f"acme/{name}", "--strategy", strategy]
            done = run_graft([*line, *(part for one in (*quick, *settings) for part in ("--set", one))])
            assert done.code == 0, done.told
        with open_services(load_settings(home=home, dtype="float32", device="cpu")) as services:
            yield House(home, sounds, fresh, services)


@pytest.fixture
def at_home(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_HOME", str(house.home))
    monkeypatch.setenv("GRAFT_DTYPE", "float32")


def naive(house: House, name: str, files: list[Path]) -> NDArray[np.float64]:
    """Probabilities by the adapter alone, attached the plain way, one recording at a time."""
    version = house.services.catalog.resolve(name)
    artifact = house.services.catalog.read(version.digest)
    backbone = house.services.backbone(house.services.bases.resolve(version.base))
    rows = [adapted_features(backbone, artifact, [Media.of_file(path, "audio")]) for path in files]
    return probabilities(head_logits(artifact, torch.cat(rows)), artifact.manifest.temperature)


@pytest.fixture(scope="module")
def url(house: House) -> Iterator[str]:
    with live(create_app(house.services, house.services.engine())) as address:
        yield address


@pytest.mark.usefixtures("at_home")
def test_a_report_of_recordings(house: House, tmp_path: Path) -> None:
    again = sing(tmp_path / "again", 3, seed=2)
    for name in STRATEGIES:
        report = house.graft("report", f"acme/{name}", "--data", str(again), "--format", "json").json
        found = {one["key"]: one for one in report["sections"]}
        assert found["figures"]["tables"][0]["rows"]
        assert "are not told apart by length" in " ".join(found["slices"]["text"])
        assert f"graft evaluate acme/{name}@1 --transfer" in " ".join(found["transfer"]["text"])
    page = tmp_path / "report.html"
    assert house.graft("report", "acme/frozen", "--out", str(page)).code == 0
    assert "<svg" in page.read_text()


@pytest.mark.usefixtures("at_home")
def test_predict_answers_as_the_adapter_alone(house: House) -> None:
    for name in STRATEGIES:
        assert house.services.catalog.resolve(f"acme/{name}").manifest.modality == "audio"
        answer = house.graft("predict", f"acme/{name}", *map(str, house.fresh), "--json").json
        found = [{one["label"]: one["score"] for one in row["labels"]} for row in answer["results"]]
        wanted = naive(house, f"acme/{name}", house.fresh)
        np.testing.assert_allclose([[row["high"], row["low"]] for row in found], wanted, atol=1e-5)
        assert [path.parent.name for path in house.fresh] == [max(row, key=row.__getitem__) for row in found]


def test_adapters_served_together_answer_as_alone(house: House, url: str) -> None:
    names = [f"acme/{name}" for name in STRATEGIES]
    with Client(url) as client:
        answers = client.classify_each(names, [path.read_bytes() for path in house.fresh])
    for name, answer in zip(names, answers, strict=True):
        assert not isinstance(answer, Exception)
        scores = [{one.label: one.score for one in row.scores} for row in answer.results]
        wanted = naive(house, name, house.fresh)
        np.testing.assert_allclose([[row["high"], row["low"]] for row in scores], wanted, atol=1e-5)
    files = [("audio", (path.name, path.read_bytes(), "audio/wav")) for path in house.fresh]
    form = httpx.post(f"{url}/v1/classify", data={"model": "acme/lora", "top_k": "1"}, files=files)
    assert [row["labels"][0]["label"] for row in form.json()["results"]] == [path.parent.name for path in house.fresh]


@pytest.mark.parametrize(
    ("inputs", "status", "code"),
    [
        (["a text"], 422, "modality-mismatch"),
        ([{"image": base64.b64encode(b"a picture").decode()}], 422, "modality-mismatch"),
        ([{"audio": base64.b64encode(b"no sound").decode()}], 422, "data-rejected"),
        ([{"audio": "not base64!"}], 422, "request-invalid"),
    ],
)
def test_what_is_no_recording_is_refused_over_http(url: str, inputs: object, status: int, code: str) -> None:
    response = httpx.post(f"{url}/v1/classify", json={"model": "acme/lora", "inputs": inputs})
    assert (response.status_code, response.json()["code"]) == (status, code)


@pytest.mark.usefixtures("at_home")
def test_the_wrong_kind_is_refused_by_the_commands(house: House, tmp_path: Path) -> None:
    texts = tmp_path / "rows.csv"
    texts.write_text("text,label\n" + "".join(f"fox {i},a\ndog {i},b\n" for i in range(12)))
    for line in (
        ("train", str(texts), "--base", "ear", "--name", "acme/x"),
        ("train", str(house.folder), "--base", "bert", "--name", "acme/x"),
        ("evaluate", "acme/lora", "--data", str(texts)),
    ):
        done = house.graft(*line, "--json")
        assert (done.code, done.error["code"]) == (2, "modality-mismatch"), line


def test_bad_recordings_are_errors_short_and_equal_ones_are_told(tmp_path: Path) -> None:
    folder = sing(tmp_path / "rows", 6, seed=3)
    (folder / "low" / "empty.wav").write_bytes(b"")
    soundfile.write(folder / "low" / "quiet.wav", np.zeros(RATE, np.float32), RATE)
    soundfile.write(folder / "low" / "short.wav", tone(200.0, 0.05), RATE)
    (folder / "low" / "again.wav").write_bytes((folder / "low" / "1.wav").read_bytes())
    report = check_dataset(read_dataset(folder))
    told = {finding.code: finding for finding in report.findings}
    assert told["short-recordings"].count == 1
    words = "\n".join(f"{finding.message} {finding.examples}" for finding in report.findings)
    assert "is silent" in words
    assert "is empty" in words
    same = kind_of("audio").groups([in_file(tone(p, 0.5), name=n) for p, n in ((1, "a"), (2, "b"), (1, "c"))])
    assert same.tolist() == [0, 1, 0]


@pytest.mark.usefixtures("at_home")
def test_the_python_sibling_takes_paths_and_bytes(house: House) -> None:
    rows = read_dataset(house.folder)
    classifier = AudioClassifier("ear", strategy="feature-extraction", home=house.home).fit(rows.texts, rows.labels)
    given = [str(house.fresh[0]), house.fresh[1].read_bytes(), *house.fresh[2:]]
    assert classifier.predict(given).tolist() == [path.parent.name for path in house.fresh]
    with pytest.raises(DataRejected) as caught:
        classifier.predict([house.fresh[0], b"no", 3])
    assert [problem.where for problem in caught.value.problems] == ["X, row 2", "X, row 3"]
