"""Labelled pictures and sounds, as folders of files with a metadata.csv (file_name, label)."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from graftwork.demo.folders import write_sums

_TEST_TENTHS = 3
# The other languages have fewer than thirty recordings.
_LANGUAGES = ("be", "bg", "ca", "da", "el", "es", "fr", "nl", "ro", "ru")


def emoji(files: Path, made: Path) -> None:
    """Emoji of 64 pixels by category, drawn by two vendors; a picture is on the same side of the split for both."""
    root = files / "package"
    items = json.loads((root / "emoji.json").read_text("utf-8"))
    for vendor in ("google", "twitter"):
        pictures = ((root / "img" / vendor / "64" / item["image"], item) for item in items)
        write_media(
            made / vendor,
            (
                (path, path.name, _side(path.name), item["category"])
                for path, item in pictures
                if item["category"] != "Component" and path.is_file()
            ),
        )
    write_sums(made)


def speech(files: Path, made: Path) -> None:
    """Captions read aloud, by language; a caption is on the same side of the split in every language.

    A recording that occurs twice is kept once, and not at all where its captions are on different sides.
    """
    root = files / "usr" / "share" / "tuxpaint" / "stamps"
    sides: dict[str, set[str]] = defaultdict(set)
    first: dict[str, Path] = {}
    for path in sorted(root.rglob("*_desc_*.ogg")):
        caption = path.with_name(path.name.partition("_desc_")[0] + ".txt")
        if _language(path) in _LANGUAGES and caption.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            first.setdefault(digest, path)
            sides[digest].add(_side(caption.read_text("utf-8").split("\n", 1)[0].strip().casefold()))
    write_media(
        made,
        (
            # Pictures in different folders have the same name.
            (path, f"{path.stem}-{digest[:8]}.ogg", next(iter(sides[digest])), _language(path))
            for digest, path in first.items()
            if len(sides[digest]) == 1
        ),
    )
    write_sums(made)


def _language(path: Path) -> str:
    return path.stem.partition("_desc_")[2]


def _side(key: str) -> str:
    """Train or test, 7 to 3, by the key alone."""
    return "test" if int(hashlib.sha256(key.encode()).hexdigest(), 16) % 10 < _TEST_TENTHS else "train"


def write_media(folder: Path, items: Iterable[tuple[Path, str, str, str]]) -> None:
    """Copy files into the folders of their splits and write each split's metadata.csv.

    Args:
        folder: where the splits' folders are made.
        items: file, name it gets, split, label.
    """
    rows: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for path, name, split, label in items:
        target = folder / split / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        rows[split].append((name, label))
    for split, labelled in rows.items():
        with (folder / split / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("file_name", "label"))
            writer.writerows(sorted(labelled))
