"""The files of a model folder, checked without running anything of the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftwork.backbones.fingerprint import PROCESSOR_FILES, TOKENIZER_FILES, TOKENIZER_VOCABULARIES
from graftwork.backbones.sentence import SENTENCE_FILES, SentenceSettings, read_sentence_settings
from graftwork.backbones.weights import (
    FLOAT_DTYPES,
    StoredTensor,
    TensorSum,
    main_dtype,
    read_tensors,
    sum_tensors,
)
from graftwork.errors import ModelUnreadable, ModelUnsupported, Problem
from graftwork.registry.manifest import DTypeName

_JSON_FILES = ("config.json", *(name for name in TOKENIZER_FILES if name.endswith(".json")), *SENTENCE_FILES)
_CAN_RUN_CODE = ("config.json", "tokenizer_config.json")


@dataclass(frozen=True)
class ModelFiles:
    """A folder whose files are sound.

    Attributes:
        folder: where they are.
        tensors: its tensors, sorted by name.
        sums: the digest of each tensor by name.
        dtype: dtype that most of the weights are stored in.
        sentence: what sentence-transformers' files say.
    """

    folder: Path
    tensors: tuple[StoredTensor, ...]
    sums: Mapping[str, TensorSum]
    dtype: DTypeName
    sentence: SentenceSettings


def read_model_files(folder: Path, *, pooling_given: bool = False) -> ModelFiles:
    """Read and check the files of a model folder.

    Args:
        folder: the folder.
        pooling_given: the pooling was given by hand, so that what the folder says of it does not matter.

    Raises:
        ModelUnreadable: if anything is missing, damaged or unsafe; all problems are listed.
        ModelUnsupported: if all is sound, but of a kind that cannot be used.
    """
    if not folder.is_dir():
        raise ModelUnreadable(f"there is no model folder {folder}", remedy="Give the folder that holds config.json.")
    contents, damaged = _read_json_files(folder)
    damaged += _missing_files(folder, contents)
    tensors, wrong_weights = read_tensors(folder)
    sums = {} if wrong_weights else sum_tensors(tensors)
    damaged += wrong_weights
    damaged += [Problem(name, "holds NaN or infinity") for name, total in sums.items() if not total.finite]
    sentence = read_sentence_settings(folder)
    unusable = _unusable(contents, tensors)
    unusable += () if pooling_given else sentence.pooling_problems
    if damaged:
        raise ModelUnreadable(
            f"{folder} is not a sound model folder",
            problems=[*damaged, *unusable],
            remedy="A model folder holds config.json, tokenizer.json, tokenizer_config.json and model.safetensors, as "
            "save_pretrained of transformers writes them.",
        )
    if unusable:
        raise ModelUnsupported(
            f"the model in {folder} cannot be used",
            problems=unusable,
            remedy="Choose another model, or mend what is listed.",
        )
    return ModelFiles(folder, tuple(tensors), sums, FLOAT_DTYPES[main_dtype(tensors)], sentence)


def _read_json_files(folder: Path) -> tuple[dict[str, Any], list[Problem]]:
    contents: dict[str, Any] = {}
    problems = []
    for name in _JSON_FILES:
        try:
            contents[name] = json.loads((folder / name).read_bytes())
        except FileNotFoundError:
            continue
        except ValueError as error:
            problems.append(Problem(name, f"is not JSON: {error}"))
        except OSError as error:
            problems.append(Problem(name, f"cannot be read: {error.strerror}"))
    return contents, problems


def _missing_files(folder: Path, contents: Mapping[str, Any]) -> list[Problem]:
    problems = []
    config = contents.get("config.json")
    if not (folder / "config.json").is_file():
        problems.append(Problem("config.json", "is missing"))
    elif config is not None and not (isinstance(config, dict) and isinstance(config.get("model_type"), str)):
        problems.append(Problem("config.json", "names no model_type"))
    if not any((folder / name).is_file() for name in (*TOKENIZER_VOCABULARIES, *PROCESSOR_FILES)):
        problems.append(
            Problem("tokenizer.json", "is missing, and so is every other file a tokenizer could be read from")
        )
    return problems


def _unusable(contents: Mapping[str, Any], tensors: Sequence[StoredTensor]) -> list[Problem]:
    problems = [
        Problem(
            name,
            "asks for code that comes with the model (auto_map), which is never run; remove the entry only if the "
            "model is exactly what transformers has built in",
        )
        for name in _CAN_RUN_CODE
        if isinstance(contents.get(name), dict) and contents[name].get("auto_map")
    ]
    config = contents.get("config.json")
    if isinstance(config, dict) and config.get("quantization_config"):
        problems.append(Problem("config.json", "the weights are quantised; use the original in float32 or bfloat16"))
    dtype = main_dtype(tensors)
    if tensors and dtype not in FLOAT_DTYPES:
        known = ", ".join(FLOAT_DTYPES)
        problems.append(Problem("weights", f"are stored as {dtype or 'whole numbers'}; they must be one of {known}"))
    return problems
