"""The whole server: real engine, real registry, and the clients people have."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from graftwork import Client
from graftwork.api.app import create_app
from graftwork.api.limits import ServerLimits
from graftwork.client import Classifications
from graftwork.errors import BlobDamaged, NotFound
from graftwork.registry.artifact import Artifact
from graftwork.wiring import Services
from tests.api.builders import MOOD, NEWS, TEXTS, classifier, expected, open_tiny
from tests.api.live import live


@dataclass
class House:
    """A served registry: `acme/news` (two versions), `globex/mood` and `initech/lora`."""

    url: str
    services: Services
    news: list[Artifact]
    mood: Artifact


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_tiny(tmp_path_factory.mktemp("home")) as services:
        base = services.bases.resolve("tiny")
        news = [classifier(base, NEWS, seed=seed) for seed in (1, 2)]
        mood = classifier(base, MOOD, seed=3)
        for artifact in news:
            services.catalog.publish("acme/news", artifact)
        services.catalog.publish("globex/mood", mood)
        services.catalog.publish("initech/lora", classifier(base, NEWS, seed=4, lora=True))
        services.catalog.set_alias("acme/news", "production", 1)
        with live(create_app(services, services.engine(), ServerLimits(lookup_seconds=0))) as url:
            yield House(url, services, news, mood)


@pytest.fixture
def client(house: House) -> Iterator[Client]:
    with Client(house.url) as client:
        yield client


@pytest.fixture
def hugging_face(house: House, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes Hugging Face's client for a reference; it reaches nothing at all in offline mode, not even this machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return lambda reference: InferenceClient(model=f"{house.url}/predict/{reference}", timeout=30)


def scores_of(house: House, artifact: Artifact, text: str) -> dict[str, float]:
    backbone = house.services.backbone(house.services.bases.resolve("tiny"))
    return dict(zip(artifact.manifest.labels, expected(backbone, artifact, [text])[0].tolist(), strict=True))


def test_inference_client_works_unchanged(house: House, hugging_face: Any) -> None:
    for reference, artifact in (
        ("acme/news", house.news[1]),
        ("acme/news@1", house.news[0]),
        ("acme/news:production", house.news[0]),
        ("globex/mood", house.mood),
    ):
        answer = hugging_face(reference).text_classification(TEXTS[1])
        assert {item.label: item.score for item in answer} == pytest.approx(scores_of(house, artifact, TEXTS[1]))
        assert [item.score for item in answer] == sorted((item.score for item in answer), reverse=True)
    two = hugging_face("acme/news").text_classification(TEXTS[1], top_k=2)
    assert two == hugging_face("acme/news").text_classification(TEXTS[1])[:2]
    plain = hugging_face("acme/news").text_classification(TEXTS[1], function_to_apply="softmax")
    logits = hugging_face("acme/news").text_classification(TEXTS[1], function_to_apply="none")
    powers = np.exp([item.score for item in logits])
    assert [item.label for item in logits] == [item.label for item in plain]
    assert (powers / powers.sum()).tolist() == pytest.approx([item.score for item in plain], rel=1e-5)


def test_inference_client_tells_what_was_wrong(hugging_face: Any) -> None:
    with pytest.raises(HfHubHTTPError, match="no adapter 'acme/nothing'") as missing:
        hugging_face("acme/nothing").text_classification("a")
    assert missing.value.response.status_code == 404
    with pytest.raises(HfHubHTTPError, match="'Acme/News' is not a reference"):
        hugging_face("Acme/News").text_classification("a")


@pytest.fixture
def openai_client(house: House) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{house.url}/v1", api_key="x", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_openai_embeddings_work_unchanged(house: House, openai_client: openai.OpenAI, options: dict[str, Any]) -> None:
    base = house.services.bases.resolve("tiny")
    answer = openai_client.embeddings.create(model="tiny", input=list(TEXTS), **options)
    vectors: list[Any] = [item.embedding for item in answer.data]
    if options.get("encoding_format") == "base64":
        import base64

        vectors = [np.frombuffer(base64.b64decode(vector), "<f4") for vector in vectors]
    wanted = house.services.backbone(base).embed(list(TEXTS)).numpy()
    np.testing.assert_allclose(np.array(vectors, np.float32), wanted, rtol=1e-4, atol=1e-6)
    assert [item.index for item in answer.data] == [0, 1, 2, 3]
    assert answer.model == base.reference
    assert answer.usage.total_tokens == answer.usage.prompt_tokens > len(TEXTS)
    one = openai_client.embeddings.create(model=base.reference, input=TEXTS[0], dimensions=32)
    np.testing.assert_allclose(one.data[0].embedding, wanted[0], rtol=1e-4, atol=1e-6)


def test_openai_embeddings_of_an_adapter_are_its_own(openai_client: openai.OpenAI) -> None:
    plain, head, lora = (
        np.array(openai_client.embeddings.create(model=model, input=TEXTS[0]).data[0].embedding)
        for model in ("tiny", "acme/news", "initech/lora")
    )
    np.testing.assert_allclose(head, plain, rtol=1e-4, atol=1e-6)  # a head does not change the vector under it
    assert np.abs(lora - plain).max() > 1e-3


def test_openai_errors_carry_the_code(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="should be 32, or left out") as width:
        openai_client.embeddings.create(model="tiny", input="a", dimensions=8)
    assert width.value.code == "request-invalid"
    assert width.value.request_id
    with pytest.raises(openai.NotFoundError) as missing:
        openai_client.embeddings.create(model="nothing", input="a")
    assert missing.value.code == "not-found"
    with pytest.raises(openai.UnprocessableEntityError):
        openai_client.embeddings.create(model="tiny", input=[[1, 2, 3]])


def test_openai_lists_and_shows_models(house: House, openai_client: openai.OpenAI) -> None:
    listed = {model.id: model for model in openai_client.models.list()}
    assert list(listed) == ["acme/news", "globex/mood", "initech/lora", house.services.bases.resolve("tiny").reference]
    assert (listed["acme/news"].owned_by, listed["acme/news"].object) == ("acme", "model")
    shown = openai_client.models.retrieve("globex/mood").to_dict()
    assert (shown["version"], shown["digest"], shown["labels"]) == (1, house.mood.digest, list(MOOD))


def test_curl_works(house: House) -> None:
    command = ["curl", "-sS", f"{house.url}/v1/classify", "-H", "Content-Type: application/json"]
    body = json.dumps({"model": "acme/news", "inputs": list(TEXTS), "top_k": 1})
    done = subprocess.run([*command, "-d", body], capture_output=True, check=True)
    answer = json.loads(done.stdout)
    assert (answer["model"], answer["digest"]) == ("acme/news@2", house.news[1].digest)
    for text, result in zip(TEXTS, answer["results"], strict=True):
        label, score = max(scores_of(house, house.news[1], text).items(), key=lambda item: item[1])
        assert result["labels"] == [{"label": label, "score": pytest.approx(score, rel=1e-4)}]


def test_tenants_at_once_get_their_own_answers(house: House, client: Client) -> None:
    mistakes: list[str] = []

    def ask(reference: str, artifact: Artifact, text: str) -> None:
        for _ in range(5):
            answers = client.classify(reference, [text, TEXTS[0]])
            wanted = scores_of(house, artifact, text)
            found = {score.label: score.score for score in answers[0].scores}
            if answers.digest != artifact.digest or found != pytest.approx(wanted, rel=1e-4):
                mistakes.append(f"{reference}: {found} instead of {wanted}")

    asked = [("acme/news@1", house.news[0]), ("acme/news@2", house.news[1]), ("globex/mood", house.mood)]
    threads = [threading.Thread(target=ask, args=(*pair, text)) for pair in asked for text in TEXTS[:3]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert mistakes == []


def test_an_alias_that_moves_is_followed_by_the_very_next_request(house: House, client: Client) -> None:
    catalog = house.services.catalog
    for version in (2, 1, 2, 1):
        catalog.set_alias("acme/news", "production", version)
        answer = client.classify("acme/news:production", "a")
        assert (answer.model, answer.digest) == (f"acme/news@{version}", house.news[version - 1].digest)
    catalog.publish("acme/fresh", house.mood)
    assert client.classify("acme/fresh", "a").model == "acme/fresh@1"
    catalog.remove("acme/fresh@1")
    with pytest.raises(NotFound):
        client.classify("acme/fresh", "a")


def test_the_same_texts_for_several_models_in_one_request(house: House, client: Client) -> None:
    news, missing, mood, lora = client.classify_each(
        ["acme/news@1", "acme/nothing", "globex/mood", "initech/lora"], list(TEXTS), top_k=1
    )
    assert isinstance(missing, NotFound)
    assert "no adapter 'acme/nothing'" in str(missing)
    for answers, artifact in ((news, house.news[0]), (mood, house.mood)):
        assert isinstance(answers, Classifications)
        assert answers.digest == artifact.digest
        for text, answer in zip(TEXTS, answers, strict=True):
            label, score = max(scores_of(house, artifact, text).items(), key=lambda item: item[1])
            assert answer.label == label
            assert answer.score == pytest.approx(score, rel=1e-4)
    assert isinstance(lora, Classifications)
    assert list(lora) == list(client.classify("initech/lora", list(TEXTS), top_k=1))
    with pytest.raises(NotFound):
        client.classify_each(["acme/nothing"], "a")


def test_a_damaged_adapter_is_refused_and_the_others_answer(house: House, client: Client, tmp_path: Path) -> None:
    base = house.services.bases.resolve("tiny")
    damaged = classifier(base, NEWS, seed=9)
    house.services.catalog.publish("acme/damaged", damaged)
    home = house.services.settings.home
    digest = damaged.manifest.files[0].sha256
    blob = next(path for path in (home / "blobs").rglob("*") if path.name in (digest, digest[2:]))
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(content)
    with pytest.raises(BlobDamaged) as refused:
        client.classify("acme/damaged", "a")
    assert str(home) not in str(refused.value)
    assert client.classify("acme/news", "a").digest == house.news[1].digest
    house.services.catalog.remove("acme/damaged@1")


def test_readiness_and_metrics_come_from_the_engine(house: House, client: Client) -> None:
    client.classify("acme/news", "a")
    assert httpx.get(f"{house.url}/readyz").json() == {"status": "ready"}
    text = httpx.get(f"{house.url}/metrics").text
    numbers = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(numbers["graftwork_engine_answers_total"]) >= 1
    assert float(numbers["graftwork_engine_bases"]) == 1
    assert client.healthy()


CHILD = """
import sys
from pathlib import Path
from graftwork.api.server import run_server
from tests.api.builders import open_tiny
with open_tiny(Path(sys.argv[1])) as services:
    run_server(services, port=0, preload=["tiny"], on_ready=lambda url: print(url, flush=True))
"""


def test_a_process_of_its_own_finishes_real_work_after_sigterm(house: House) -> None:
    command = [sys.executable, "-c", CHILD, str(house.services.settings.home)]
    plain = os.environ | {"GRAFT_COMPILE": "0"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=plain)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    texts = [f"{TEXTS[1]} {i}" for i in range(300)]
    found: list[httpx.Response] = []

    def ask(model: str) -> None:
        found.append(httpx.post(f"{url}/v1/classify", json={"model": model, "inputs": texts}, timeout=60))

    threads = [threading.Thread(target=ask, args=(model,)) for model in ("acme/news", "globex/mood", "initech/lora")]
    for thread in threads:
        thread.start()
    while "graftwork_engine_requests_total 3.0" not in httpx.get(f"{url}/metrics").text:
        pass
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(60)
    assert [(answer.status_code, len(answer.json()["results"])) for answer in found] == [(200, 300)] * 3
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")
