"""Fetch one pinned package from an index and unpack it, without installing it.

The clients do the fetching (pip, npm, apt), so their configuration of indexes, proxies and certificates holds here too.
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
        kind: a Python wheel, a Python source distribution, a package of npm, or one of Debian.
        tags: pip's options for a wheel made for another Python or platform than this one.
    """

    name: str
    version: str
    sha256: str
    size: int
    kind: Literal["wheel", "source", "npm", "debian"] = "wheel"
    tags: tuple[str, ...] = ()


def fetch_package(package: Package, into: Path) -> Path:
    """Download and unpack a package.

    Args:
        package: what to fetch.
        into: a folder for it, which several packages may share.

    Returns:
        The folder with the package's files, `into / "files"`.

    Raises:
        DependencyMissing: pip, npm or apt is not installed.
        DownloadFailed: the index cannot be reached, has no such version, or gives another file than the pinned one.
        StorageFull: no space is left.
    """
    downloads, files = into / "download", into / "files"
    shutil.rmtree(downloads, ignore_errors=True)
    downloads.mkdir()
    if package.kind == "npm":
        _npm(package, downloads)
    elif package.kind == "debian":
        _apt(package, downloads)
    else:
        _pip(package, downloads)
    archives = [path for path in downloads.iterdir() if path.suffix in {".whl", ".gz", ".tgz", ".deb"}]
    if len(archives) != 1 or _sha256(archives[0]) != package.sha256:
        raise _not_the_pinned_one(package)
    unpack(archives[0], files)
    return files


def unpack(archive: Path, into: Path) -> None:
    """Write the regular files of a package; links and paths that lead outside are passed over."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(into)
    elif archive.suffix == ".deb":
        # The files of the package as a tar archive; dpkg-deb is where apt is.
        listing = ["dpkg-deb", "--fsys-tarfile", str(archive)]
        with (
            subprocess.Popen(listing, stdout=subprocess.PIPE) as process,
            tarfile.open(fileobj=process.stdout, mode="r|") as tar,
        ):
            _write_regular_files(tar, into)
    else:
        with tarfile.open(archive) as tar:
            _write_regular_files(tar, into)


def _write_regular_files(tar: tarfile.TarFile, into: Path) -> None:
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


def _apt(package: Package, into: Path) -> None:
    apt = shutil.which("apt-get")
    if apt is None or shutil.which("dpkg-deb") is None:
        raise DependencyMissing(
            f"{package.name} is a package of Debian, which apt-get fetches, and that is not installed",
            remedy="Fetch it on Debian or Ubuntu.",
        )
    _run([apt, "download", "--quiet", f"{package.name}={package.version}"], package, folder=into)


def _run(command: list[str], package: Package, *, folder: Path | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, cwd=folder)
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
    errors = [line.split(": ", 1)[1] for line in lines if line.startswith(("ERROR: ", "E: "))]
    raise DownloadFailed(
        f"{package.name} {package.version} could not be fetched",
        problems=[Problem("", line) for line in errors or lines[-3:]],
        remedy="Check the network, or let pip (PIP_INDEX_URL), npm or apt use an index that can be reached; try again.",
    )


def _not_the_pinned_one(package: Package) -> GraftworkError:
    return DownloadFailed(
        f"the index gave another file for {package.name} {package.version} than the pinned one",
        remedy="Nothing of it was used. Fetch it from the official index, or update Graftwork.",
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
