"""Pictures to pixels as a model was pretrained on, by its preprocessor_config.json.

transformers' own processors want torchvision, or change their arithmetic between versions. What they do for
classifiers is four steps, which are here with Pillow alone: resize, cut the centre, rescale, normalise. The tests
compare the values with transformers' Pillow backend.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graftwork.backbones.media import MediaReader, Values
from graftwork.data.media import Media, Modality
from graftwork.data.pictures import open_picture
from graftwork.errors import ModelUnsupported, Problem

FILE = "preprocessor_config.json"
# Steps that some processors have and that are not done here.
_FOREIGN = ("do_pad", "do_reduce_labels", "do_thumbnail", "do_align_long_axis", "do_flip_channel_order")


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes what a model reads.

    Attributes:
        size: height and width to resize to; one number is the length of the shorter side, the other follows.
        crop: height and width of the centre that is kept; None keeps all.
        resample: Pillow's number of the filter.
        factor: pixels, 0 to 255, are multiplied by it.
        mean: subtracted of each channel after that.
        std: each channel is divided by it then.
    """

    size: tuple[int, int] | int | None
    crop: tuple[int, int] | None
    resample: int
    factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what comes out."""
        if self.crop is not None:
            return self.crop
        assert isinstance(self.size, tuple)
        return self.size


def read_preprocessing(folder: Path) -> Preprocessing:
    """Read preprocessor_config.json as transformers' image processors write it.

    Raises:
        ModelUnsupported: if it asks for what cannot be done here, or does not tell one size for all pictures.
    """
    try:
        config = json.loads((folder / FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise ModelUnsupported(
            f"{folder} does not say how its pictures are made ready",
            problems=[Problem(FILE, str(error))],
            remedy=_REMEDY,
        ) from error
    problems = [Problem(f"{FILE}, {name}", "is not supported") for name in _FOREIGN if config.get(name)]
    size = _size(config.get("size")) if config.get("do_resize", True) else None
    crop = _size(config.get("crop_size")) if config.get("do_center_crop", False) else None
    whole_crop = (crop, crop) if isinstance(crop, int) else crop
    if whole_crop is None and not isinstance(size, tuple):
        problems.append(Problem(f"{FILE}, size", "pictures would have different sizes; give height and width"))
    if problems:
        raise ModelUnsupported("pictures cannot be made ready for this model", problems=problems, remedy=_REMEDY)
    normalizes = config.get("do_normalize", True)
    return Preprocessing(
        size=size,
        crop=whole_crop,
        resample=int(config.get("resample", 2)),
        factor=float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0,
        mean=_channels(config.get("image_mean", 0.5)) if normalizes else (0.0, 0.0, 0.0),
        std=_channels(config.get("image_std", 0.5)) if normalizes else (1.0, 1.0, 1.0),
    )


class ImageReader(MediaReader):
    """Makes pictures ready for a network.

    Args:
        preprocessing: how.
        dtype: of the network.
    """

    modality: Modality = "image"
    argument = "pixel_values"

    def __init__(self, preprocessing: Preprocessing, *, dtype: torch.dtype) -> None:
        super().__init__(shape=(3, *preprocessing.shape), dtype=dtype)
        self.preprocessing = preprocessing

    def prepare(self, media: Media) -> Values:
        """Pixels, uint8 `[height, width, 3]`. Raises as `open_picture`."""
        from PIL import Image

        how = self.preprocessing
        picture = open_picture(media)
        if how.size is not None:
            picture = picture.resize(_width_and_height(how.size, picture.size), Image.Resampling(how.resample))
        pixels = np.asarray(picture, dtype=np.uint8)
        return pixels if how.crop is None else _centre(pixels, how.crop)

    def scale(self, prepared: Tensor) -> Tensor:
        """Float32 `[rows, 3, height, width]` of uint8 `[rows, height, width, 3]`."""
        how = self.preprocessing
        values = prepared.permute(0, 3, 1, 2).float() * how.factor
        mean = torch.tensor(how.mean, device=values.device).view(3, 1, 1)
        std = torch.tensor(how.std, device=values.device).view(3, 1, 1)
        return (values - mean) / std


def open_image_reader(folder: Path, *, dtype: torch.dtype) -> ImageReader:
    """The reader of a model folder.

    Raises:
        ModelUnsupported: if its preprocessing cannot be done here.
    """
    return ImageReader(read_preprocessing(folder), dtype=dtype)


_REMEDY = "Write a preprocessor_config.json with size, resample, rescale_factor, image_mean and image_std."


def _size(given: Any) -> tuple[int, int] | int | None:
    if isinstance(given, int):
        return given, given
    if isinstance(given, dict) and {"height", "width"} <= given.keys():
        return int(given["height"]), int(given["width"])
    if isinstance(given, dict) and "shortest_edge" in given and "longest_edge" not in given:
        return int(given["shortest_edge"])
    return None


def _channels(given: Any) -> tuple[float, ...]:
    values = given if isinstance(given, list) else [given] * 3
    return tuple(float(value) for value in values)


def _width_and_height(size: tuple[int, int] | int, old: tuple[int, int]) -> tuple[int, int]:
    """Pillow's order. One number is the shorter side; the longer is cut to a whole number, as transformers does."""
    if isinstance(size, tuple):
        return size[1], size[0]
    short, long = min(old), max(old)
    other = int(size * long / short)
    return (size, other) if old[0] <= old[1] else (other, size)


def _centre(pixels: Values, crop: tuple[int, int]) -> Values:
    """The middle of a picture; black where it is smaller, as transformers does."""
    height, width = pixels.shape[:2]
    down, across = max(crop[0], height), max(crop[1], width)
    padded = np.zeros((down, across, pixels.shape[2]), dtype=pixels.dtype)
    top, left = -(-(down - height) // 2), -(-(across - width) // 2)
    padded[top : top + height, left : left + width] = pixels
    top, left = (down - crop[0]) // 2, (across - crop[1]) // 2
    return padded[top : top + crop[0], left : left + crop[1]]
