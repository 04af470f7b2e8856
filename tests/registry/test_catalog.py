from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from graftwork.errors import (
    ArtifactInvalid,
    BaseMismatch,
    BlobDamaged,
    Conflict,
    InUse,
    NotFound,
    ReferenceMalformed,
    RequestInvalid,
)
from graftwork.registry.artifact import ArtifactLimits
from graftwork.registry.base_rows import BaseModel
from graftwork.registry.catalog import Catalog
from graftwork.registry.scope import Scope
from tests.registry.builders import Registry, make_artifact, sha256


def test_a_published_adapter_is_read_back_byte_for_byte(registry: Registry, base: BaseModel) -> None:
    artifact = make_artifact(base)
    version = registry.catalog.publish("acme/news", artifact, record={"seconds": 1.5})
    assert version.reference == "acme/news@1"
    assert version.digest == artifact.digest
    assert (version.base, version.base_reference, version.parent) == (base.fingerprint, "tiny/1/base", None)
    assert (version.strategy, version.labels, version.aliases) == ("lora", ("ham", "spam"), ())
    assert (version.size_bytes, version.base_size_bytes) == (artifact.size_bytes, base.size_bytes)
    assert version.record == {"seconds": 1.5}
    assert timedelta() <= datetime.now(UTC) - version.created_at < timedelta(minutes=1)
    assert version.manifest == artifact.manifest
    for handle in (version, version.digest):
        read = registry.catalog.read(handle)
        assert (read.manifest, dict(read.files), read.digest) == (artifact.manifest, artifact.files, artifact.digest)


def test_the_bare_name_means_the_newest_living_version_and_numbers_are_never_given_again(
    registry: Registry, base: BaseModel
) -> None:
    catalog = registry.catalog
    for seed in range(3):
        assert catalog.publish("acme/news", make_artifact(base, seed=seed)).version == seed + 1
    assert catalog.resolve("acme/news").version == catalog.resolve("acme/news:latest").version == 3
    assert catalog.remove("acme/news@3").version == 3
    assert catalog.resolve("acme/news").version == 2
    assert catalog.publish("acme/news", make_artifact(base, seed=9)).version == 4
    assert [v.version for v in catalog.versions("acme/news")] == [1, 2, 4]
    for number in (1, 2, 4):
        catalog.remove(f"acme/news@{number}")
    with pytest.raises(NotFound, match="no adapter 'acme/news'"):
        catalog.resolve("acme/news")
    assert catalog.list() == []
    assert catalog.publish("acme/news", make_artifact(base)).version == 5


def test_identical_content_is_a_new_version_that_shares_every_blob(registry: Registry, base: BaseModel) -> None:
    artifact = make_artifact(base)
    first = registry.catalog.publish("acme/news", artifact)
    blobs = {blob.digest for blob in registry.blobs.iterate()}
    second = registry.catalog.publish("acme/news", artifact)
    assert (second.version, second.digest) == (2, first.digest)
    assert {blob.digest for blob in registry.blobs.iterate()} == blobs


def test_expected_latest_is_a_compare_and_set(registry: Registry, base: BaseModel) -> None:
    catalog = registry.catalog
    catalog.publish("acme/news", make_artifact(base), expected_latest=0)
    with pytest.raises(Conflict, match="should have been at version 0, but its newest version is 1"):
        catalog.publish("acme/news", make_artifact(base, seed=1), expected_latest=0)
    with pytest.raises(Conflict, match="should have been at version 2, but it has no version"):
        catalog.publish("acme/mood", make_artifact(base), expected_latest=2)
    with pytest.raises(Conflict, match="should have been at version 0, but its newest version is 1"):
        catalog.expect_latest("acme/news", 0)
    catalog.expect_latest("acme/news", 1)
    catalog.expect_latest("acme/mood", 0)
    with pytest.raises(NotFound, match="no adapter 'acme/news'"):
        catalog.expect_latest("acme/news", 1, Scope.of("globex"))
    assert catalog.publish("acme/news", make_artifact(base, seed=1), expected_latest=1).version == 2
    catalog.remove("acme/news@2")
    assert catalog.publish("acme/news", make_artifact(base, seed=2), expected_latest=1).version == 3


def test_an_idempotency_key_gives_the_same_version_again(registry: Registry, base: BaseModel) -> None:
    catalog = registry.catalog
    first = catalog.publish("acme/news", make_artifact(base), idempotency_key="job-1")
    again = catalog.publish("acme/news", make_artifact(base, seed=5), idempotency_key="job-1", expected_latest=0)
    assert again == first
    assert catalog.publish("acme/mood", make_artifact(base), idempotency_key="job-1").reference == "acme/mood@1"
    assert catalog.publish("acme/news", make_artifact(base), idempotency_key="job-2").version == 2
    catalog.remove("acme/news@1")
    with pytest.raises(Conflict, match="this key published acme/news@1, which was removed since"):
        catalog.publish("acme/news", make_artifact(base), idempotency_key="job-1")


@pytest.mark.parametrize("key", ["", "x" * 256, "a\x00b"])
def test_a_key_that_cannot_be_stored_is_refused(registry: Registry, base: BaseModel, key: str) -> None:
    with pytest.raises(RequestInvalid, match="1 to 255 printable"):
        registry.catalog.publish("acme/news", make_artifact(base), idempotency_key=key)


def test_base_tokenizer_and_parent_must_belong_together(registry: Registry, base: BaseModel) -> None:
    catalog = registry.catalog
    other = registry.add_base("other", seed=1).base
    with pytest.raises(NotFound, match=r"base model 0000000000000000 .* is not in the registry"):
        catalog.publish("acme/news", make_artifact("0" * 64))
    with pytest.raises(BaseMismatch, match="was made with tokenizer 1111111111111111"):
        catalog.publish("acme/news", make_artifact(base, tokenizer="1" * 64))
    with pytest.raises(NotFound, match="adapter 2222222222222222 that this one descends from"):
        catalog.publish("acme/news", make_artifact(base, parent="2" * 64))
    parent = catalog.publish("acme/news", make_artifact(base))
    with pytest.raises(BaseMismatch, match="made for another base model"):
        catalog.publish("acme/news", make_artifact(other, parent=parent.digest))
    child = catalog.publish("acme/news", make_artifact(base, seed=1, parent=parent.digest))
    assert (child.version, child.parent) == (2, parent.digest)
    assert [v.reference for v in catalog.list()] == ["acme/news@2"]


def test_a_refused_artifact_leaves_nothing_behind(registry: Registry, base: BaseModel) -> None:
    before = {blob.digest for blob in registry.blobs.iterate()}
    with pytest.raises(ArtifactInvalid):
        registry.catalog.publish("acme/news", make_artifact(base, width=4, files={"head.safetensors": b"no"}))
    with pytest.raises(ArtifactInvalid, match="the record beside the adapter is not JSON"):
        registry.catalog.publish("acme/news", make_artifact(base), record={"loss": float("nan")})
    assert {blob.digest for blob in registry.blobs.iterate()} == before
    assert registry.catalog.list() == []


def test_a_version_with_children_or_aliases_cannot_be_removed(registry: Registry, base: BaseModel) -> None:
    catalog = registry.catalog
    parent = catalog.publish("acme/news", make_artifact(base))
    catalog.publish("globex/mood", make_artifact(base, seed=1, parent=parent.digest))
    catalog.set_alias("acme/news", "production", 1)
    with pytest.raises(InUse) as refused:
        catalog.remove("acme/news@1")
    assert [str(p) for p in refused.value.problems] == [
        "globex/mood@1: descends from it",
        "acme/news:production: stands on it",
    ]
    with pytest.raises(InUse) as refused:
        catalog.remove("acme/news@1", scope=Scope.of("acme"))
    assert "globex" not in str(refused.value)
    assert "1 others descend from it" in str(refused.value)
    catalog.remove("globex/mood@1")
    catalog.remove_alias("acme/news", "production")
    assert catalog.remove("acme/news@1") == parent
    with pytest.raises(NotFound):
        catalog.read(parent)


@pytest.mark.parametrize("reference", ["acme/news", "acme/news:production"])
def test_removal_wants_a_version(registry: Registry, base: BaseModel, reference: str) -> None:
    registry.catalog.publish("acme/news", make_artifact(base))
    with pytest.raises(ReferenceMalformed, match="does not say which version"):
        registry.catalog.remove(reference)


def test_an_alias_moves_forward_and_back_and_its_history_tells_so(registry: Registry, base: BaseModel) -> None:
    catalog = registry.catalog
    for seed in range(2):
        catalog.publish("acme/news", make_artifact(base, seed=seed))
    assert catalog.set_alias("acme/news", "production", 1, expected=0).aliases == ("production",)
    catalog.set_alias("acme/news", "production", 2, expected=1)
    assert catalog.resolve("acme/news:production").version == 2
    with pytest.raises(Conflict, match="stands on version 2, not on version 1 as expected"):
        catalog.set_alias("acme/news", "production", 1, expected=1)
    catalog.set_alias("acme/news", "production", 2)
    catalog.set_alias("acme/news", "production", 1)
    catalog.set_alias("acme/news", "canary", 2)
    assert catalog.resolve("acme/news:production").version == 1
    catalog.remove_alias("acme/news", "production")
    moves = [(change.alias, change.old, change.new) for change in catalog.alias_history("acme/news", "production")]
    assert moves == [
        ("production", None, 1),
        ("production", 1, 2),
        ("production", 2, 1),
        ("production", 1, None),
    ]
    assert [change.alias for change in catalog.alias_history("acme/news")][-2:] == ["canary", "production"]
    with pytest.raises(NotFound, match="has no alias 'production'"):
        catalog.remove_alias("acme/news", "production")
    with pytest.raises(Conflict, match="does not exist, not on version 7"):
        catalog.set_alias("acme/news", "production", 1, expected=7)


def test_latest_cannot_be_set(registry: Registry, base: BaseModel) -> None:
    registry.catalog.publish("acme/news", make_artifact(base))
    with pytest.raises(ReferenceMalformed, match="always means the newest version"):
        registry.catalog.set_alias("acme/news", "latest", 1)


def test_what_is_not_there_is_told_with_what_is(registry: Registry, base: BaseModel) -> None:
    catalog = registry.catalog
    catalog.publish("acme/news", make_artifact(base))
    catalog.set_alias("acme/news", "production", 1)
    for reference, message in {
        "acme/nws": "no adapter 'acme/nws'\nDid you mean 'acme/news'?",
        "acme/news@7": "adapter 'acme/news' has no version 7\nIts newest version is 1.",
        "acme/news:prodution": "has no alias 'prodution'\nDid you mean 'production'?",
        "acme/news:x": "has no alias 'x'\nIts aliases are production.",
    }.items():
        with pytest.raises(NotFound) as missing:
            catalog.resolve(reference)
        assert message in str(missing.value)


def test_what_is_out_of_scope_is_not_found_in_the_words_of_what_never_was(registry: Registry, base: BaseModel) -> None:
    catalog, acme = registry.catalog, Scope.of("acme")
    foreign = catalog.publish("globex/mood", make_artifact(base))
    catalog.set_alias("globex/mood", "production", 1)
    catalog.publish("acme/news", make_artifact(base, seed=1))

    def told(name: str, digest: str, parent: str) -> list[str]:
        calls = [
            lambda: catalog.resolve(f"globex/{name}", acme),
            lambda: catalog.resolve(f"globex/{name}@1", acme),
            lambda: catalog.resolve(f"globex/{name}:production", acme),
            lambda: catalog.versions(f"globex/{name}", acme),
            lambda: catalog.remove(f"globex/{name}@1", acme),
            lambda: catalog.set_alias(f"globex/{name}", "x", 1, scope=acme),
            lambda: catalog.remove_alias(f"globex/{name}", "production", acme),
            lambda: catalog.alias_history(f"globex/{name}", scope=acme),
            lambda: catalog.publish(f"globex/{name}", make_artifact(base), scope=acme),
            lambda: catalog.read(digest, acme),
            lambda: catalog.publish("acme/news", make_artifact(base, parent=parent), scope=acme),
        ]
        messages = []
        for call in calls:
            with pytest.raises(NotFound) as missing:
                call()
            messages.append(str(missing.value).replace(name, "NAME").replace(digest, "D").replace(digest[:16], "D"))
        return messages

    never = sha256(b"never")
    assert told("mood", foreign.digest, foreign.digest) == told("none", never, never)
    assert [v.reference for v in catalog.list(acme)] == ["acme/news@1"]
    assert catalog.list(acme, tenant="globex") == []
    assert [v.reference for v in catalog.list()] == ["acme/news@1", "globex/mood@1"]


def test_listing_filters_by_tenant_base_and_text(registry: Registry, base: BaseModel) -> None:
    catalog = registry.catalog
    other = registry.add_base("other", seed=1).base
    catalog.publish("acme/news", make_artifact(base, labels=("Spört", "100%")))
    catalog.publish("acme/mood", make_artifact(other, delta=False))
    catalog.publish("globex/news", make_artifact(base, seed=1))

    def names(**filters: str) -> list[str]:
        return [f"{v.tenant}/{v.name}" for v in catalog.list(**filters)]  # type: ignore[arg-type]

    assert names(tenant="acme") == ["acme/mood", "acme/news"]
    assert names(base="tiny") == ["acme/news", "globex/news"]
    assert names(search="E/NEWS") == ["acme/news"]
    assert names(search="feature") == ["acme/mood"]
    assert names(search="spört") == ["acme/news"]
    assert names(search="0%") == ["acme/news"]
    assert names(search="%") == ["acme/news"]
    with pytest.raises(NotFound, match="no base model 'tinny'\nDid you mean 'tiny'"):
        names(base="tinny")


def test_listing_takes_two_queries_and_no_blob(
    registry: Registry, base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(5):
        registry.catalog.publish(f"acme/a{seed}", make_artifact(base, seed=seed))
        registry.catalog.set_alias(f"acme/a{seed}", "production", 1)
    statements: list[str] = []

    @event.listens_for(sa.Engine, "before_cursor_execute")
    def note(connection: sa.Connection, cursor: object, statement: str, *rest: object) -> None:
        statements.append(statement)

    monkeypatch.setattr(registry.blobs, "get", None)
    try:
        listed = registry.catalog.list()
    finally:
        event.remove(sa.Engine, "before_cursor_execute", note)
    assert [v.aliases for v in listed] == [("production",)] * 5
    assert len([s for s in statements if s.startswith("SELECT")]) == 2


def test_a_damaged_adapter_is_refused_alone_and_healed_by_publishing_again(registry: Registry, base: BaseModel) -> None:
    catalog = registry.catalog
    artifact = make_artifact(base)
    hurt = catalog.publish("acme/news", artifact)
    sound = catalog.publish("acme/mood", make_artifact(base, seed=1))
    path = registry.blob_path(sha256(artifact.files["head.safetensors"]))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BlobDamaged, match=r"adapter acme/news@1 cannot be read: blob .* is damaged"):
        catalog.read(hurt)
    with pytest.raises(BlobDamaged, match=r"adapter acme/news@1 cannot be read: blob .* is missing"):
        catalog.read(hurt.digest)
    assert catalog.read(sound).digest == sound.digest
    catalog.publish("acme/news", artifact)
    assert catalog.read(hurt).files == artifact.files


def test_only_bare_names_are_published(registry: Registry, base: BaseModel) -> None:
    for name in ("acme/news@1", "acme/news:x"):
        with pytest.raises(ReferenceMalformed, match="Write acme/news"):
            registry.catalog.publish(name, make_artifact(base))
    with pytest.raises(ReferenceMalformed, match="is not a reference"):
        registry.catalog.publish("news", make_artifact(base))


def test_what_is_over_the_limits_is_refused_before_it_is_read(registry: Registry, base: BaseModel) -> None:
    version = registry.catalog.publish("acme/news", make_artifact(base, rank=6))
    for limits, message in {
        ArtifactLimits(manifest_bytes=100): "100 are allowed",
        ArtifactLimits(total_bytes=1000): "1000 are allowed",
        ArtifactLimits(rank=5): "has the rank 6; 5 is allowed",
    }.items():
        with pytest.raises(ArtifactInvalid, match=message):
            Catalog(registry.database, registry.blobs, limits).read(version)


def test_a_manifest_of_a_newer_format_is_told(registry: Registry) -> None:
    digest = registry.blobs.put(b'{"format": 3}').digest
    with pytest.raises(ArtifactInvalid, match=r"(?s)cannot be understood.*format.*upgrade this installation"):
        registry.catalog.manifest(digest)
