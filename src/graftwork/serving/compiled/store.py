"""Compiled networks on this machine's disk: made once, checked at each loading.

The folder holds native code. It never leaves the machine and is never read from a registry: only what this user's own
process compiled here, into a folder that nobody else can write to, is loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from graftwork.serving.compiled.native import NativeError, NativeNetwork
from graftwork.serving.compiled.process import CompileFailed, CompilerProcess
from graftwork.serving.compiled.variant import Variant, variant_key
from graftwork.serving.compiled.worker import EXPECTED, LIBRARY, REFERENCES
from graftwork.serving.teams import apart

LOWEST_PRIORITY = 19
"""Niceness of a compiler beside a server: everything else comes first."""

_META = "meta.json"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class Source:
    """The base model that networks are compiled from.

    Attributes:
        folder: its files.
        fingerprint: its identity.
        dtype: dtype of the weights, as manifests spell it.
        vocabulary: number of token ids.
        max_length: tokens a row may have.
    """

    folder: Path
    fingerprint: str
    dtype: str
    vocabulary: int
    max_length: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A compiled network in memory, and what it must compute.

    Attributes:
        network: the network.
        expected: hidden states for the check cases, `[rows, tokens, width]` each.
        activations: what a tail is given to compute them; empty for other parts.
    """

    network: NativeNetwork
    expected: tuple[Tensor, ...]
    activations: tuple[Tensor, ...]


class NetworkStore:
    """Compiles networks and keeps them; for one thread, except `close`.

    Args:
        folder: where they are kept; made when needed, for this user alone.
        niceness: of the process that compiles.
        threads: how many may run a network at once.
    """

    def __init__(self, folder: Path, niceness: int = LOWEST_PRIORITY, threads: int = 1) -> None:
        self._folder = folder
        self._threads = threads
        self._process = CompilerProcess(folder, niceness)

    def get(self, source: Source, variant: Variant, references: Sequence[Tensor]) -> Stored:
        """The compiled network, from disk or compiled now, which takes some ten seconds in a process of its own.

        Args:
            source: the base model.
            variant: what of it.
            references: what the serving network computes for the check cases.

        Raises:
            CompileFailed: it cannot be compiled here, or what was kept is not sound.
        """
        kept = self._folder / variant_key(source.fingerprint, source.dtype, variant)
        if not (kept / _META).is_file():
            self._compile(source, variant, references, kept)
        try:
            return apart(partial(_load, kept, self._threads))
        except (OSError, ValueError, KeyError, NativeError) as error:
            shutil.rmtree(kept, ignore_errors=True)
            raise CompileFailed(f"the compiled network in {kept} cannot be used: {error}") from error

    def rest(self) -> None:
        """Nothing is to be compiled for now: let go of what the compiler holds."""
        self._process.rest()

    def close(self) -> None:
        """End a compilation that is under way; there will be no other."""
        self._process.close()

    def _compile(self, source: Source, variant: Variant, references: Sequence[Tensor], kept: Path) -> None:
        from safetensors.torch import save_file

        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="made-", dir=self._folder) as name:
                work = Path(name)
                made = work / "made"
                made.mkdir(mode=0o700)
                save_file({str(i): hidden.contiguous() for i, hidden in enumerate(references)}, made / REFERENCES)
                (work / "job.json").write_text(json.dumps(_job(source, variant, made)))
                self._process.run(work / "job.json")
                _seal(made, source, variant)
                # Another process may have been quicker; what it made is as good.
                if not kept.exists():
                    made.rename(kept)
        except OSError as error:
            raise CompileFailed(f"a network could not be compiled in {self._folder}: {error}") from error


def _job(source: Source, variant: Variant, out: Path) -> dict[str, Any]:
    return {
        "base": str(source.folder.resolve()),
        "dtype": source.dtype,
        "vocabulary": source.vocabulary,
        "max_length": source.max_length,
        "part": variant.part,
        "split": variant.split,
        "sites": variant.sites,
        "out": str(out.resolve()),
    }


def _seal(made: Path, source: Source, variant: Variant) -> None:
    (made / REFERENCES).unlink()
    digests = {name: _sha256(made / name) for name in (LIBRARY, EXPECTED)}
    about = {"base": source.fingerprint, "dtype": source.dtype, "part": variant.part, "split": variant.split}
    (made / _META).write_text(json.dumps(about | {"sites": variant.sites, "sha256": digests}))


def _load(kept: Path, threads: int) -> Stored:
    from safetensors.torch import load_file

    for path in (kept, kept / LIBRARY, kept / EXPECTED, kept / _META):
        status = path.lstat()
        if status.st_uid != os.geteuid() or status.st_mode & _OTHERS_WRITE or stat.S_ISLNK(status.st_mode):
            raise ValueError(f"{path.name} could have been written by somebody else")
    digests = json.loads((kept / _META).read_text())["sha256"]
    for name in (LIBRARY, EXPECTED):
        if digests[name] != _sha256(kept / name):
            raise ValueError(f"{name} is damaged")
    checks = load_file(kept / EXPECTED)
    parts = [
        tuple(checks[name] for index in range(len(checks)) if (name := f"{kind}.{index}") in checks)
        for kind in ("hidden", "activations")
    ]
    return Stored(NativeNetwork(kept / LIBRARY, threads), *parts)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
