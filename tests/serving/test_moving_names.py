"""Names that are moved, replaced and deleted under traffic: an answer is wholly that of the version it was resolved to.

Names are resolved as the server resolves them, over a registry on disk, and the versions of a name differ in labels,
class counts, ranks and lengths, so that a mixture of two could not pass for either.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graftwork.api.memory import Memory
from graftwork.backbones.backbone import Backbone
from graftwork.backbones.inspect import inspect_model
from graftwork.errors import NotFound
from graftwork.registry.artifact import Artifact
from graftwork.registry.garbage import collect_garbage
from graftwork.registry.versions import AdapterVersion
from graftwork.serving.engine import Engine, EngineLimits
from graftwork.settings import load_settings
from graftwork.wiring import Services, open_services
from tests.backbones.conftest import open_backbone
from tests.backbones.tiny import save_model
from tests.serving.builders import TEXTS, Made, Spec, make

WAIT = 60.0
NAME, ALIAS = "acme/topics", "acme/topics:live"


@dataclass
class Shop:
    """A registry on disk and an engine over it."""

    services: Services
    engine: Engine
    made: dict[str, Made]
    memory: Memory
    reading: threading.Event = field(default_factory=threading.Event)
    may_read: threading.Event = field(default_factory=threading.Event)

    def resolve(self, reference: str) -> AdapterVersion:
        return self.memory.get(reference, lambda: self.services.catalog.resolve(reference))

    def ask(self, version: AdapterVersion, texts: tuple[str, ...] = TEXTS) -> Any:
        return self.engine.classify("acme", version.base, version.digest, texts)

    def check(self, version: AdapterVersion, answer: Any, texts: tuple[str, ...] = TEXTS) -> None:
        """The answer's digest, labels and numbers are all those of this version."""
        twin = self.made[version.digest]
        assert answer.digest == version.digest
        assert answer.labels == version.labels == twin.artifact.manifest.labels
        np.testing.assert_allclose(
            answer.probabilities, [twin.probabilities(text) for text in texts], rtol=1e-5, atol=1e-5
        )

    def publish(self, number: int) -> AdapterVersion:
        return self.services.catalog.publish(NAME, list(self.made.values())[number].artifact)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("moving") / "bert", "bert", seed=3)


@pytest.fixture(scope="module")
def versions(folder: Path) -> list[Made]:
    backbone: Backbone = open_backbone(folder)
    specs = (
        Spec(seed=1, rank=2, classes=2),
        Spec(seed=2, rank=12, classes=3, layers=(1, 2)),
        Spec(seed=3, targets=None, classes=5),
        Spec(seed=4, rank=2, classes=4, max_length=5),
    )
    made = [
        make(backbone, spec, labels=tuple(f"{spec.seed}: class {index}" for index in range(spec.classes)))
        for spec in specs
    ]
    for twin in made:
        for text in TEXTS:
            twin.probabilities(text)
    return made


@pytest.fixture
def shop(folder: Path, versions: list[Made], graft_home: Path) -> Iterator[Shop]:
    found = inspect_model(folder)
    with open_services(load_settings(home=graft_home, dtype="float32")) as services:
        services.bases.add(
            folder, fingerprint=found.fingerprint, tokenizer=found.tokenizer, metadata=found.metadata, name="tiny"
        )
        made = {twin.digest: twin for twin in versions}
        # Room for one adapter of a rank and for two in host memory: who comes back is loaded anew.
        room = EngineLimits(slots=1, host_bytes=2 * max(twin.loaded.nbytes for twin in versions), cache_bytes=20_000)

        def read(digest: str) -> Artifact:
            opened.reading.set()
            assert opened.may_read.wait(WAIT)
            return services.catalog.read(digest)

        engine = Engine(lambda key: services.backbone(services.bases.resolve(key)), read, room)
        opened = Shop(services, engine, made, Memory(services.database))
        opened.may_read.set()
        engine.start()
        yield opened
        opened.may_read.set()
        engine.close(drain=False)


def test_an_alias_moved_and_versions_published_and_deleted_under_traffic(shop: Shop) -> None:
    """Whoever resolves the alias gets a version it stood on meanwhile, and that version's own answer."""
    shop.publish(0)
    stood = [1]
    shop.services.catalog.set_alias(NAME, "live", 1)
    moved, gone = [0], set[int]()
    over = threading.Event()
    seen: list[set[int]] = [set() for _ in range(6)]

    def move() -> None:
        """Publish the next version, move the alias to it, delete the one it stood on before, now and then go back."""
        try:
            for turn in range(1, 24):
                version = shop.publish(turn % 4).version
                stood.append(version)
                shop.services.catalog.set_alias(NAME, "live", version)
                moved[0] = len(stood) - 1
                if turn % 3 == 0:
                    stood.append(version - 1)
                    shop.services.catalog.set_alias(NAME, "live", version - 1)
                    moved[0] = len(stood) - 1
                elif version > 2 and version - 2 not in gone:
                    gone.add(version - 2)
                    shop.services.catalog.remove(f"{NAME}@{version - 2}")
        finally:
            over.set()

    def ask(number: int) -> int:
        asked = 0
        while not over.is_set() or asked < 20:
            texts = TEXTS[asked % 6 :][:2]
            before = moved[0]
            version = shop.resolve(ALIAS)
            assert version.version in stood[before:], "an alias was followed to where it no longer stood"
            try:
                answer = shop.ask(version, texts).result(timeout=WAIT)
            except NotFound:
                # It was deleted after it was resolved, and was not in memory any more: no answer, and never another's.
                assert version.version in gone
            else:
                shop.check(version, answer, texts)
                seen[number].add(version.version)
            asked += 1
        return asked

    with ThreadPoolExecutor(7) as pool:
        mover = pool.submit(move)
        asked = sum(pool.map(ask, range(6)))
        mover.result(timeout=WAIT)
    assert asked >= 120
    assert len(set.union(*seen)) > 3
    assert shop.engine.stats().reruns == 0


def test_a_request_under_way_keeps_its_version_when_the_alias_moves(shop: Shop) -> None:
    first, second = shop.publish(0), shop.publish(1)
    shop.services.catalog.set_alias(NAME, "live", 1)
    shop.may_read.clear()
    resolved = shop.resolve(ALIAS)
    early = shop.ask(resolved)
    assert shop.reading.wait(WAIT)
    shop.services.catalog.set_alias(NAME, "live", 2)
    later = shop.resolve(ALIAS)
    late = shop.ask(later)
    assert not early.done()
    shop.may_read.set()
    assert (resolved.digest, later.digest) == (first.digest, second.digest)
    shop.check(resolved, early.result(timeout=WAIT))
    shop.check(later, late.result(timeout=WAIT))


def test_a_deleted_version_is_not_found_though_its_bytes_are_still_there(shop: Shop) -> None:
    version = shop.publish(0)
    shop.publish(1)
    shop.may_read.clear()
    waiting = shop.ask(version)
    assert shop.reading.wait(WAIT)
    shop.services.catalog.remove(version.reference)
    shop.may_read.set()
    with pytest.raises(NotFound):
        waiting.result(timeout=WAIT)
    with pytest.raises(NotFound):
        shop.resolve(version.reference)
    shop.check(shop.resolve(NAME), shop.ask(shop.resolve(NAME)).result(timeout=WAIT))


def test_what_was_resolved_is_answered_from_memory_after_its_version_and_bytes_are_gone(shop: Shop) -> None:
    version = shop.publish(1)
    shop.check(version, shop.ask(version).result(timeout=WAIT))
    shop.services.catalog.remove(version.reference)
    assert collect_garbage(shop.services.database, shop.services.blobs, grace=timedelta(0)).blobs > 0
    shop.check(version, shop.ask(version).result(timeout=WAIT))


def test_a_name_deleted_and_published_anew_answers_with_what_it_holds_now(shop: Shop) -> None:
    old = shop.publish(0)
    shop.check(old, shop.ask(shop.resolve(NAME)).result(timeout=WAIT))
    shop.services.catalog.remove(old.reference)
    with pytest.raises(NotFound):
        shop.resolve(NAME)
    new = shop.publish(3)
    assert new.version == old.version + 1
    shop.check(new, shop.ask(shop.resolve(NAME)).result(timeout=WAIT))
