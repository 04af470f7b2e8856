"""Files of recordings to samples, whatever is in them; what cannot be trusted is refused from its header."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.data.media import Media, bytes_to_decode, refused
from graftwork.errors import DependencyMissing

MAX_SECONDS = 600
"""Seconds a recording may last."""
MAX_SAMPLES = MAX_SECONDS * 48_000 * 2
"""Samples of all channels: ten minutes in stereo at 48 kHz, 230 MB decoded."""

_RATES = (4_000, 384_000)  # the filter that resamples is as long as the rate in the worst case
Samples = NDArray[np.float32]


def read_recording(media: Media, *, seconds: float = MAX_SECONDS) -> tuple[Samples, int]:
    """The beginning of a recording in one channel, and its samples a second.

    Nothing is decoded before the header has told how long it is.

    Args:
        media: what to read.
        seconds: how much of it.

    Returns:
        Float32 `[samples]`, the mean of its channels, full scale 1; and its rate in hertz.

    Raises:
        DataRejected: if it is empty, damaged, of another format or too long.
        DataUnreadable: if its file has gone or changed.
        DependencyMissing: if soundfile is not installed.
    """
    try:
        import soundfile
    except ImportError as error:
        raise DependencyMissing(
            "recordings are read by soundfile, which is not installed",
            remedy="Install it: pip install 'graftwork[speech]'.",
        ) from error
    data = bytes_to_decode(media, too_large="Cut it into pieces.")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as opened:
            rate = int(opened.samplerate)
            _check_header(media, opened)
            wanted = min(opened.frames, math.ceil(seconds * rate))
            samples: Samples = opened.read(wanted, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        told = f"is damaged, or of a format that is not read: {error}"
        raise refused(media, told, "Save it as WAV, FLAC, Ogg or MP3, or leave it out.") from error
    if len(samples) < wanted:
        raise refused(media, f"is cut short: {len(samples):,} of {wanted:,} samples are there", "Save it again.")
    if not np.isfinite(samples).all():
        raise refused(media, "holds values that are no numbers", "Save it again, or leave it out.")
    return samples.mean(axis=1), rate


def open_recording(media: Media, rate: int, *, seconds: float = MAX_SECONDS) -> Samples:
    """The beginning of a recording in one channel at another rate, float32 `[samples]`.

    Resampled by a polyphase filter (`scipy.signal.resample_poly`).

    Args:
        media: what to read.
        rate: samples a second of what comes out.
        seconds: how much of it.

    Raises:
        DataError: as `read_recording`.
    """
    from scipy.signal import resample_poly

    samples, own = read_recording(media, seconds=seconds)
    if own == rate:
        return samples
    common = math.gcd(own, rate)
    resampled: Samples = resample_poly(samples, rate // common, own // common).astype(np.float32)
    return resampled


def _check_header(media: Media, opened: Any) -> None:
    """Refuse what is too much, or nothing, before it is decoded."""
    rate, frames = opened.samplerate, opened.frames
    if frames <= 0:
        raise refused(media, "holds no sound", "Leave it out.")
    if not _RATES[0] <= rate <= _RATES[1]:
        told = f"has {rate:,} samples a second; {_RATES[0]:,} to {_RATES[1]:,} are read"
        raise refused(media, told, "Save it at 16,000.")
    if frames > MAX_SECONDS * rate or frames * opened.channels > MAX_SAMPLES:
        told = f"lasts {frames / rate:,.0f} s in {opened.channels} channels; at most {MAX_SECONDS} s in stereo are read"
        raise refused(media, told, "Cut it into pieces.")
