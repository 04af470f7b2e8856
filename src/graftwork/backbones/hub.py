"""From what a user names, a folder or a hub id, to a folder on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from graftwork.errors import ModelUnreadable, NotFound, Problem

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
_TAKEN = ("*.safetensors", "*.json", "*.txt", "*.model", "README.md")
# Copies of the same weights for other runtimes, several times the size of the model itself.
_LEFT = ("onnx/*", "openvino/*", "coreml/*", "gguf/*", "tf/*", "flax/*", "checkpoint-*/*", "runs/*")


def resolve_source(path_or_hub_id: str, *, revision: str | None = None) -> Path:
    """The local folder of a model: the folder itself, or a snapshot of a Hugging Face hub repository.

    From the hub only safetensors, JSON and text files are taken; what is already in the hub's cache is not fetched
    again, and with `HF_HUB_OFFLINE=1` nothing else is looked at.

    Args:
        path_or_hub_id: a folder in Hugging Face layout, an ONNX file that lies beside its tokenizer, or an id such as
            `sentence-transformers/all-MiniLM-L6-v2`.
        revision: branch, tag or commit on the hub; the newest by default.

    Raises:
        NotFound: if there is no such folder, repository or revision.
        ModelUnreadable: if it is a file, or the hub cannot be reached and the model is not in its cache.
    """
    path = Path(path_or_hub_id).expanduser()
    if path_or_hub_id and path.is_dir():
        return path
    if path_or_hub_id and path.suffix == ".onnx" and path.is_file():
        return path.parent
    if path_or_hub_id and path.exists():
        raise ModelUnreadable(
            f"{path_or_hub_id} is a file, not a model folder",
            remedy="Give the folder that holds config.json, the tokenizer and model.safetensors.",
        )
    if path_or_hub_id.startswith((".", "/", "~")) or _HUB_ID.fullmatch(path_or_hub_id) is None:
        raise NotFound(
            f"there is no folder {path_or_hub_id!r}",
            remedy="Give an existing model folder, or a hub id such as sentence-transformers/all-MiniLM-L6-v2.",
        )
    return _snapshot(path_or_hub_id, revision)


def _snapshot(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    at = f" at revision {revision}" if revision else ""
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=_TAKEN, ignore_patterns=_LEFT))
    except GatedRepoError as error:
        raise NotFound(
            f"the hub does not let you read {hub_id}",
            remedy=f"Accept its terms at https://huggingface.co/{hub_id} and set HF_TOKEN.",
        ) from error
    except RevisionNotFoundError as error:
        raise NotFound(f"{hub_id} on the hub has no revision {revision}", remedy="Leave the revision out.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise NotFound(
            f"there is no folder {hub_id} here and no model {hub_id} on the hub",
            remedy="Check the spelling; for a private model set HF_TOKEN.",
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelUnreadable(
            f"{hub_id} is not a folder here, and the hub could not give it{at}",
            problems=[Problem("hub", first.strip())],
            remedy="Check the connection, or download the model elsewhere and give the path of its folder.",
        ) from error
