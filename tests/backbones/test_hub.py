"""Folders, hub ids and what is neither."""

from __future__ import annotations

from pathlib import Path

import httpx
import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from graftwork.backbones.hub import resolve_source
from graftwork.errors import ModelUnreadable, NotFound

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache that holds one model, without a hub."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--acme--tiny"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return snapshot


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert resolve_source(str(tmp_path)) == tmp_path


def test_a_model_in_the_hubs_cache_is_found_without_a_network(cache: Path) -> None:
    assert resolve_source("acme/tiny") == cache
    assert resolve_source("acme/tiny", revision=COMMIT) == cache


def test_a_model_that_cannot_be_reached_is_told_with_the_remedy(cache: Path) -> None:
    with pytest.raises(
        ModelUnreadable, match="acme/other is not a folder here, and the hub could not give it"
    ) as caught:
        resolve_source("acme/other")
    assert "give the path of its folder" in caught.value.remedy
    with pytest.raises(ModelUnreadable, match="at revision v2"):
        resolve_source("acme/tiny", revision="v2")


@pytest.mark.parametrize("source", ["./nowhere", "/no/such/folder", "../up", "a/b/c", "", "no spaces here"])
def test_a_path_that_does_not_exist_is_not_looked_up(cache: Path, source: str) -> None:
    with pytest.raises(NotFound, match="there is no folder"):
        resolve_source(source)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (errors.RepositoryNotFoundError, "there is no folder acme/tiny here and no model acme/tiny on the hub"),
        (errors.RevisionNotFoundError, "acme/tiny on the hub has no revision v9"),
        (errors.GatedRepoError, "the hub does not let you read acme/tiny"),
    ],
)
def test_what_the_hub_refuses_is_told(
    monkeypatch: pytest.MonkeyPatch, error: type[errors.HfHubHTTPError], told: str
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise error("refused", response=httpx.Response(404, request=httpx.Request("GET", "https://hub.invalid")))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(NotFound, match=told):
        resolve_source("acme/tiny", revision="v9")


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ModelUnreadable, match="is a file, not a model folder"):
        resolve_source(str(file))
