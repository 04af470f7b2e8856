"""Which files of a base model's folder are taken, and the pieces they are stored in.

Only safetensors, JSON and text are taken; pickles, code and hidden files never are. Links are followed only to where
the Hugging Face cache keeps a snapshot's files, and nothing but regular files is opened.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from graftwork.errors import ModelUnreadable, Problem
from graftwork.registry.safetensors_header import Header, HeaderInvalid, header_length, parse_header
from graftwork.registry.spans import FileSpan

WEIGHTS = ".safetensors"
_GRAPH = ".onnx"
_TAKEN = {WEIGHTS, ".json", ".txt", ".model", ".vocab", ".tiktoken", ".bpe", ".jinja", ".md", ".yaml", ".yml"}
_TAKEN_NAMES = {"LICENSE", "NOTICE", "README"}
_OTHER_WEIGHTS = {
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".pickle",
    ".h5",
    ".msgpack",
    ".onnx",
    ".gguf",
    ".npz",
    ".tflite",
}
_INDEX = ".safetensors.index.json"
_MAX_FILES = 10_000
_MAX_PATH = 255


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file to store.

    Attributes:
        path: relative to the folder, with forward slashes.
        pieces: its parts in order, which together are the whole file: of a safetensors file the header and each
            tensor, of any other the file itself.
    """

    path: str
    pieces: tuple[FileSpan, ...]


@dataclass(frozen=True, slots=True)
class FolderPlan:
    """What will be stored of a folder.

    Attributes:
        files: sorted by path.
        skipped: paths that are not needed, or not safe, and stay behind.
    """

    files: tuple[PlannedFile, ...]
    skipped: tuple[str, ...]


def plan_folder(folder: Path) -> FolderPlan:
    """Look at a base model's folder in Hugging Face layout.

    Raises:
        ModelUnreadable: with every problem found: no such folder, no safetensors weights, damaged headers, shards
            that are missing, links that lead outside, devices.
    """
    if not folder.is_dir():
        raise ModelUnreadable(f"there is no folder {folder}", remedy="Name the folder that holds config.json.")
    problems: list[Problem] = []
    found: dict[str, Path] = {}
    skipped: list[str] = []
    try:
        _walk(folder, found, skipped, problems)
    except OSError as error:
        raise ModelUnreadable(
            f"the folder {folder} cannot be read: {error}", remedy="Check its permissions."
        ) from error
    if not any(path.endswith(WEIGHTS) for path in found):
        graph = _graph_files(folder, skipped)
        found |= graph
        skipped = [path for path in skipped if path not in graph]
        if not graph:
            problems.append(_no_weights(skipped))
    files: list[PlannedFile] = []
    headers: dict[str, Header] = {}
    for path in sorted(found):
        try:
            files.append(_plan_file(path, found[path], headers))
        except HeaderInvalid as error:
            problems += [Problem(path, what) for what in error.problems]
        except OSError as error:
            problems.append(Problem(path, f"cannot be read: {error.strerror or error}"))
    for path in sorted(found):
        if path.endswith(_INDEX):
            problems += _check_index(path, found, headers)
    if problems:
        raise ModelUnreadable(
            f"the folder {folder} holds no sound base model",
            problems=problems,
            remedy="Download the model again; weights of another format are converted by "
            "AutoModel.from_pretrained(folder).save_pretrained(new_folder).",
        )
    return FolderPlan(tuple(files), tuple(sorted(skipped)))


def _graph_files(folder: Path, skipped: list[str]) -> dict[str, Path]:
    """An ONNX graph and its weights beside it, at the top of a folder without safetensors.

    Neither may be a link: `backbones.onnx_graph` has read what is stored.
    """
    graphs = [path for path in skipped if path.endswith(_GRAPH) and "/" not in path]
    names = {name for path in graphs for name in (path, f"{path}.data", f"{path}_data")}
    places = {name: folder / name for name in names & {*skipped}}
    return {name: place for name, place in places.items() if place.is_file() and not place.is_symlink()}


def is_safe_path(path: str) -> bool:
    """Whether a stored path stays inside the folder it is put into, on any system."""
    pure = PurePosixPath(path)
    parts = path.split("/")
    return (
        0 < len(path) <= _MAX_PATH
        and not pure.is_absolute()
        and all(part not in ("", ".", "..") for part in parts)
        and "\\" not in path
        and ":" not in path
        and path.isprintable()
    )


def _walk(folder: Path, found: dict[str, Path], skipped: list[str], problems: list[Problem]) -> None:
    root = folder.resolve()
    allowed = [root]
    if root.parent.name == "snapshots":
        allowed.append(root.parent.parent / "blobs")  # the Hugging Face cache: snapshots are links into blobs
    for current, folders, names in os.walk(root, followlinks=False):
        here = Path(current)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in list(folders):
            if (here / name).is_symlink():
                folders.remove(name)
                problems.append(Problem(_relative(here / name, root), "is a link to a folder; copy the folder itself"))
        for name in sorted(names):
            path = here / name
            relative = _relative(path, root)
            if name.startswith(".") or (path.suffix not in _TAKEN and name not in _TAKEN_NAMES):
                skipped.append(relative)
            elif not is_safe_path(relative):
                problems.append(Problem(ascii(relative), "has a name that cannot be stored; rename it"))
            elif not any(path.resolve().is_relative_to(place) for place in allowed):
                problems.append(Problem(relative, "is a link that leads out of the folder; copy the file itself"))
            elif not path.exists():
                problems.append(Problem(relative, "is a link to a file that does not exist"))
            elif not stat.S_ISREG(path.stat().st_mode):
                problems.append(Problem(relative, "is no regular file"))
            else:
                found[relative] = path
        if len(found) + len(skipped) > _MAX_FILES:
            problems.append(Problem("", f"it has more than {_MAX_FILES} files: is it a model's folder?"))
            return


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _no_weights(skipped: list[str]) -> Problem:
    others = [path for path in skipped if Path(path).suffix in _OTHER_WEIGHTS]
    if others:
        shown = ", ".join(others[:3])
        return Problem(shown, "weights in a format that may run code or cannot be read; only safetensors are taken")
    return Problem("", "no weights: there is no file *.safetensors")


def _plan_file(path: str, place: Path, headers: dict[str, Header]) -> PlannedFile:
    whole = FileSpan.of(place)
    if not path.endswith(WEIGHTS):
        return PlannedFile(path, (whole,))
    with place.open("rb") as file:
        length = header_length(file.read(8), whole.length)
        header = parse_header(file.read(length), whole.length)
    headers[path] = header
    tensors = (FileSpan(place, t.begin, t.end - t.begin) for t in header.tensors.values() if t.end > t.begin)
    return PlannedFile(path, (FileSpan(place, 0, header.size), *tensors))


def _check_index(path: str, found: dict[str, Path], headers: dict[str, Header]) -> list[Problem]:
    """Every tensor of a sharded model must be in the shard that the index names."""
    try:
        content = json.loads(found[path].read_bytes())
        weight_map = content["weight_map"]
        pairs = [(str(tensor), str(shard)) for tensor, shard in weight_map.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return [Problem(path, f"is no index of shards: {error!r}")]
    folder = PurePosixPath(path).parent
    problems = []
    shards = {shard: (folder / shard).as_posix() for _, shard in pairs}
    for shard, place in sorted(shards.items()):
        if place not in found:
            problems.append(Problem(path, f"the shard {shard!r} is missing"))
    for tensor, shard in pairs:
        header = headers.get(shards[shard])
        if header is not None and tensor not in header.tensors:
            problems.append(Problem(path, f"tensor {tensor!r} is not in the shard {shard!r}"))
    return problems
