"""Over HTTP, with texts that are known and texts that are new: an answer is wholly one version's while names move."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np

from graftwork import Client
from graftwork.api.app import create_app
from graftwork.errors import NotFound
from tests.api.builders import MOOD, NEWS, TEXTS, classifier, expected, open_tiny
from tests.api.live import live


def test_every_answer_is_one_versions_while_an_alias_moves_and_versions_come_and_go(graft_home: Path) -> None:
    with open_tiny(graft_home) as services:
        base, catalog = services.bases.resolve("tiny"), services.catalog
        artifacts = [
            classifier(base, labels, seed=seed, lora=lora)
            for seed, labels, lora in ((1, NEWS, False), (2, MOOD, False), (3, ("a", "b", "c", "d"), True))
        ]
        labels_of = {artifact.digest: artifact.manifest.labels for artifact in artifacts}
        twins = {
            artifact.digest: expected(services.backbone(base), artifact, TEXTS) for artifact in artifacts[:2]
        }  # the third has a delta, which this twin does not run
        digest_of = {f"acme/topics@{catalog.publish('acme/topics', artifacts[0]).version}": artifacts[0].digest}
        catalog.set_alias("acme/topics", "live", 1)
        over = threading.Event()

        def move() -> None:
            try:
                for turn in range(1, 25):
                    version = catalog.publish("acme/topics", artifacts[turn % 3])
                    digest_of[version.reference] = version.digest
                    catalog.set_alias("acme/topics", "live", version.version)
                    if version.version > 3:
                        catalog.remove(f"acme/topics@{version.version - 2}")
            finally:
                over.set()

        def ask(number: int) -> set[tuple[str, str]]:
            """Models and digests that answered."""
            seen: set[tuple[str, str]] = set()
            with Client(url) as client, httpx.Client(base_url=url) as plain:
                while not over.is_set() or len(seen) < 1:
                    texts = [*TEXTS, f"{number} the brown fox {len(seen)}"]
                    try:
                        answers = client.classify(("acme/topics:live", "acme/topics")[number % 2], texts)
                    except NotFound:
                        continue  # deleted between its name and its bytes; never another's answer
                    labels = labels_of[answers.digest]
                    got = [[{s.label: s.score for s in row.scores}[label] for label in labels] for row in answers]
                    assert {len(row.scores) for row in answers} == {len(labels)}
                    if answers.digest in twins:
                        np.testing.assert_allclose(got[: len(TEXTS)], twins[answers.digest], rtol=1e-4, atol=1e-5)
                    seen.add((answers.model, answers.digest))
                    told = plain.post("/predict/acme/topics:live", json={"inputs": [TEXTS[0]]})
                    if told.status_code == 200:
                        digest = told.headers["X-Graftwork-Digest"]
                        assert {entry["label"] for entry in told.json()[0]} <= set(labels_of[digest])
                        seen.add((told.headers["X-Graftwork-Model"], digest))
            return seen

        with live(create_app(services, services.engine())) as url, ThreadPoolExecutor(5) as pool:
            mover = pool.submit(move)
            seen = set.union(*pool.map(ask, range(4)))
            mover.result(60)
        assert len(seen) > 3
        assert {digest_of[model] == digest for model, digest in seen} == {True}
