"""Packages made on the spot, so that no test needs a network."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from graftwork.demo.packages import Package

# A build backend that lives in the source distribution: pip needs nothing from an index to read its metadata.
BACKEND = """
from pathlib import Path

def prepare_metadata_for_build_wheel(directory, config_settings=None):
    folder = Path(directory) / "{name}-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n")
    (folder / "WHEEL").write_text("Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    return folder.name

def build_wheel(directory, config_settings=None, metadata_directory=None):
    raise NotImplementedError
"""
_CONTROL = "Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody\nDescription: files\n"
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def wheel(index: Path, name: str, files: Mapping[str, bytes], tag: str = "py3-none-any") -> Package:
    """Put a wheel of version 1.0 into the folder and say how to fetch it."""
    info = f"{name}-1.0.dist-info"
    path = index / f"{name}-1.0-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, content in files.items():
            archive.writestr(inside, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
    return Package(name, "1.0", digest(path.read_bytes()), path.stat().st_size)


def source(index: Path, name: str, files: Mapping[str, bytes]) -> Package:
    """Put a source distribution of version 1.0 into the folder and say how to fetch it."""
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    given = {"PKG-INFO": metadata.encode(), "pyproject.toml": PYPROJECT.encode()}
    content = {**given, "backend.py": BACKEND.format(name=name).encode(), **files}
    path = index / f"{name}-1.0.tar.gz"
    path.write_bytes(tarball({f"{name}-1.0/{inside}": data for inside, data in content.items()}))
    return Package(name, "1.0", digest(path.read_bytes()), path.stat().st_size, kind="source")


def debian(folder: Path, name: str, files: Mapping[str, bytes]) -> Path:
    """A package of Debian, version 1.0, in the folder."""
    root = folder / name
    for inside, content in {"DEBIAN/control": _CONTROL.format(name=name).encode(), **files}.items():
        target = root / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    archive = folder / f"{name}_1.0_all.deb"
    subprocess.run(["dpkg-deb", "--build", str(root), str(archive)], check=True, stdout=subprocess.DEVNULL)
    return archive


def tarball(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
