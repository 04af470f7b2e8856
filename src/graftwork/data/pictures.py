"""Files of pictures to pixels, whatever is in them; what cannot be trusted is refused from its header."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graftwork.data.media import Media, bytes_to_decode, refused
from graftwork.errors import DataRejected, DependencyMissing

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 50_000_000
"""Pixels a picture may have: more than any common camera gives. What is larger would take 150 MB to decode."""

_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")


def open_picture(media: Media) -> Image:
    """A picture as it is meant to be seen: RGB, 8 bits, turned as its EXIF data says, on white where it is transparent.

    Of an animation the first frame. Of 16 bits a channel the upper 8 are kept. Nothing is decoded before the header has
    told how large it is.

    Raises:
        DataRejected: if it is empty, damaged, of another format or too large.
        DataUnreadable: if its file has gone or changed.
        DependencyMissing: if Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise DependencyMissing(
            "pictures are read by Pillow, which is not installed", remedy="Install it: pip install 'graftwork[vision]'."
        ) from error
    data = bytes_to_decode(media, too_large="Make it smaller.")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                told = f"has {width:,} x {height:,} pixels; at most {MAX_PIXELS:,} are decoded"
                raise refused(media, told, "Make it smaller.")
            opened.load()
            return _rgb(ImageOps.exif_transpose(opened))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        told = f"is too large to be decoded: at most {MAX_PIXELS:,} pixels are"
        raise refused(media, told, "Make it smaller.") from error
    except UnidentifiedImageError as error:
        raise refused(media, f"is none of {', '.join(_FORMATS)}", "Save it in one of these formats.") from error
    except DataRejected:
        raise
    except Exception as error:
        # Decoders meet damaged bytes in many ways, and tell of them by as many types.
        raise refused(
            media, f"is damaged: {error or type(error).__name__}", "Save it again, or leave it out."
        ) from error


def _rgb(picture: Image) -> Image:
    from PIL import Image

    if picture.mode.startswith(("I", "F")):
        picture = Image.fromarray(_eight_bits(np.asarray(picture)))
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        seen = picture.convert("RGBA")
        white = Image.new("RGBA", seen.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, seen).convert("RGB")
    return picture.convert("RGB")


def _eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey values of 16 bits, of fractions of one, or of 8 in a wider type, as uint8."""
    largest = values.max(initial=0)
    if values.dtype.kind == "f":
        values = values * (255 if largest <= 1 else 1)
    elif largest > 255:
        values = values // 257
    eight: NDArray[np.uint8] = np.clip(values, 0, 255).astype(np.uint8)
    return eight
