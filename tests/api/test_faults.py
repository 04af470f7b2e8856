"""The store or the database goes away under a real server, and comes back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from graftwork import Client
from graftwork.api.app import create_app
from graftwork.errors import BlobDamaged, StorageError
from graftwork.registry.artifact import Artifact
from graftwork.wiring import Services
from tests.api.builders import MOOD, NEWS, classifier, open_tiny
from tests.api.live import live


@dataclass
class House:
    """A served registry: `acme/news` with a LoRA, `globex/mood`, `initech/cold` that nobody has asked for."""

    services: Services
    client: Client
    home: Path
    artifacts: dict[str, Artifact]

    def answers(self, *names: str) -> None:
        for name in names:
            answer = self.client.classify(name, f"a text for {name}")
            assert answer.digest == self.artifacts[name].digest


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_tiny(tmp_path) as services:
        base = services.bases.resolve("tiny")
        artifacts = {
            "acme/news": classifier(base, NEWS, seed=1, lora=True),
            "globex/mood": classifier(base, MOOD, seed=2),
            "initech/cold": classifier(base, MOOD, seed=3),
        }
        for name, artifact in artifacts.items():
            services.catalog.publish(name, artifact)
        with live(create_app(services, services.engine())) as url, Client(url) as client:
            house = House(services, client, tmp_path, artifacts)
            house.answers("acme/news", "globex/mood")
            yield house


def test_adapters_in_memory_answer_while_the_blob_store_is_gone(house: House) -> None:
    blobs, aside = house.home / "blobs", house.home / "aside"
    blobs.rename(aside)
    house.answers("acme/news", "globex/mood")
    with pytest.raises(BlobDamaged, match="initech/cold@1 cannot be read"):
        house.client.classify("initech/cold", "a")
    with pytest.raises(StorageError):
        house.services.catalog.publish("acme/late", classifier(house.services.bases.resolve("tiny"), NEWS, seed=9))
    assert not blobs.exists()
    aside.rename(blobs)
    house.answers("acme/news", "globex/mood", "initech/cold")


def test_names_are_answered_as_last_seen_while_the_database_is_gone(house: House) -> None:
    database, aside = house.home / "registry.db", house.home / "aside.db"
    house.services.database.close()
    for name in ("registry.db-wal", "registry.db-shm"):
        (house.home / name).unlink(missing_ok=True)
    database.rename(aside)
    database.mkdir()  # nothing can be opened there
    house.answers("acme/news", "globex/mood", "acme/news")
    with pytest.raises(StorageError):
        house.client.classify("initech/cold", "a")
    with pytest.raises(StorageError):
        house.services.catalog.set_alias("acme/news", "production", 1)
    database.rmdir()
    aside.rename(database)
    house.services.database.close()
    until_back(house)
    house.answers("acme/news", "globex/mood")


def until_back(house: House) -> None:
    """The database is asked again once a second."""
    for _ in range(1_000_000):
        try:
            house.answers("initech/cold")
            return
        except StorageError:
            continue
    raise AssertionError("it never came back")
