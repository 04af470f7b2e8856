"""Checks of pictures: unreadable, tiny, and nearly the same as another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftwork.data.dataset import Dataset
from graftwork.data.findings import Finding
from graftwork.data.media import Media
from graftwork.data.pictures import open_picture
from graftwork.data.rowchecks import finding
from graftwork.errors import DataError

TINY = 16
"""Pixels of the shorter side below which a picture is told of: models look at patches as large as that."""

_SIDE = 16
_FEW_BITS = 10  # of 256: what resizing, another format and slight compression change; other pictures differ in ~100
_COLOUR = 12.0  # grey levels: flat pictures of any colour have one hash
_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Look:
    """What a picture looks like.

    Attributes:
        problem: why it cannot be used; everything else is empty then.
        shorter: pixels of its shorter side.
        bits: difference hash: whether each of 16 x 16 places is brighter than the one to its right, bool `[256]`.
        colour: mean of each channel, float32 `[3]`.
    """

    problem: str = ""
    shorter: int = 0
    bits: NDArray[np.bool_] | None = None
    colour: NDArray[np.float32] | None = None


def look_at(media: Media) -> Look:
    """Decode a picture once and keep what the checks need of it."""
    if "look" not in media.facts:
        media.facts["look"] = _look(media)
    found = media.facts["look"]
    assert isinstance(found, Look)
    return found


def what_is_wrong(media: Media) -> str:
    """Why a picture cannot be used; empty when it can."""
    return look_at(media).problem


def groups(items: Sequence[Media]) -> NDArray[np.int64]:
    """Number pictures so that those that nearly look the same share a number, int64 `[items]`.

    Two do when few bits of their difference hashes (Krawetz, 2013) and little of their mean colours differ. All pairs
    are compared, which is a matrix product.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    looks = [look_at(media) for media in items]
    sound = [index for index, look in enumerate(looks) if not look.problem]
    pairs = _alike([looks[index] for index in sound])
    same: dict[str, int] = {}
    left = [*(sound[i] for i in pairs[0]), *range(len(items))]
    right = [*(sound[j] for j in pairs[1]), *(same.setdefault(item, index) for index, item in enumerate(items))]
    graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(len(items), len(items)))
    labels = connected_components(graph, directed=False)[1] if len(items) else np.zeros(0, np.int64)
    number: dict[int, int] = {}
    return np.array([number.setdefault(int(label), len(number)) for label in labels], dtype=np.int64)


def check(usable: Dataset) -> list[Finding]:
    """Tell of tiny pictures."""
    looks = {i: look_at(item) for i, item in enumerate(usable.texts) if isinstance(item, Media)}
    tiny = [i for i, look in looks.items() if not look.problem and look.shorter < TINY]
    if not tiny:
        return []
    message = f"{len(tiny):,} pictures have a side of less than {TINY} pixels"
    remedy = "Little can be seen in them; give larger ones."
    return [finding("tiny-images", "warning", message, usable, tiny, remedy=remedy)]


def _look(media: Media) -> Look:
    try:
        picture = open_picture(media)
    except DataError as error:
        return Look(problem=error.message.removeprefix(f"{media.name}: "))
    # Through few pixels, so that the large ones cost little; the same for all, so that hashes can be compared.
    picture.draft("RGB", (256, 256))
    small = np.asarray(picture.resize((_SIDE + 1, _SIDE)), dtype=np.float32)
    grey = small @ np.array([0.299, 0.587, 0.114], np.float32)
    return Look(
        shorter=min(picture.size),
        bits=(grey[:, :-1] > grey[:, 1:]).ravel(),
        colour=small.mean(axis=(0, 1)),
    )


def _alike(looks: Sequence[Look]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of pictures that nearly look the same."""
    if not looks:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    signs = np.array([look.bits for look in looks], dtype=np.float32) * 2 - 1
    colours = np.array([look.colour for look in looks], dtype=np.float32)
    left, right = [], []
    for start in range(0, len(looks), _BLOCK):
        block = slice(start, start + _BLOCK)
        differing = (signs.shape[1] - signs[block] @ signs.T) / 2
        i, j = np.nonzero(differing <= _FEW_BITS)
        near = np.abs(colours[block][i] - colours[j]).max(axis=1, initial=0) <= _COLOUR
        left.append(i[near] + start)
        right.append(j[near])
    return np.concatenate(left), np.concatenate(right)
