"""Checks of recordings: unreadable, silent and very short."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftwork.data.dataset import Dataset
from graftwork.data.findings import Finding
from graftwork.data.media import Media
from graftwork.data.recordings import read_recording
from graftwork.data.rowchecks import finding
from graftwork.errors import DataError

SHORT = 0.1
"""Seconds below which a recording is told of: hardly a syllable."""
_SILENT = 1e-4  # of full scale, -80 dB: below the noise of a quiet room


@dataclass(frozen=True, slots=True)
class Heard:
    """What a recording sounds like.

    Attributes:
        problem: why it cannot be used; the rest is 0 then.
        seconds: how long it lasts.
    """

    problem: str = ""
    seconds: float = 0.0


def listen_to(media: Media) -> Heard:
    """Decode a recording once and keep what the checks need of it."""
    if "heard" not in media.facts:
        media.facts["heard"] = _heard(media)
    found = media.facts["heard"]
    assert isinstance(found, Heard)
    return found


def what_is_wrong(media: Media) -> str:
    """Why a recording cannot be used; empty when it can."""
    return listen_to(media).problem


def groups(items: Sequence[Media]) -> NDArray[np.int64]:
    """Number recordings so that those of the same bytes share a number, int64 `[items]`."""
    number: dict[str, int] = {}
    return np.array([number.setdefault(item, len(number)) for item in items], dtype=np.int64)


def check(usable: Dataset) -> list[Finding]:
    """Tell of very short recordings."""
    lasting = [listen_to(item).seconds if isinstance(item, Media) else 0 for item in usable.texts]
    short = [i for i, seconds in enumerate(lasting) if 0 < seconds < SHORT]
    if not short:
        return []
    message = f"{len(short):,} recordings last less than {SHORT:g} s"
    remedy = "Little can be heard in them; give longer ones."
    return [finding("short-recordings", "warning", message, usable, short, remedy=remedy)]


def _heard(media: Media) -> Heard:
    try:
        samples, rate = read_recording(media)
    except DataError as error:
        return Heard(problem=error.message.removeprefix(f"{media.name}: "))
    if float(np.abs(samples).max()) < _SILENT:
        return Heard(problem="is silent")
    return Heard(seconds=len(samples) / rate)
