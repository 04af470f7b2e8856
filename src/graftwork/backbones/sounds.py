"""Recordings to log-mel spectrograms of one length, as Whisper was pretrained on, by preprocessor_config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graftwork.backbones.media import MediaReader, Values
from graftwork.data.media import Media, Modality
from graftwork.data.recordings import open_recording
from graftwork.errors import ModelUnsupported, Problem

FILE = "preprocessor_config.json"
MAX_WINDOW = 30
"""Seconds that Whisper was pretrained on, at once."""
_REMEDY = "Write the preprocessor_config.json of Whisper; chunk_length is the window in seconds, 1 to 30."


class SoundReader(MediaReader):
    """Makes recordings ready for a network.

    All rows have one length: what is longer than the window is cut, silence is put behind what is shorter, as in
    Whisper's pretraining. Its encoder has no mask, and the places of the silence are pooled like all others.

    Args:
        extractor: transformers' `WhisperFeatureExtractor`; its `chunk_length` is the window in seconds.
        dtype: of the network.
    """

    modality: Modality = "audio"
    argument = "input_features"

    def __init__(self, extractor: Any, *, dtype: torch.dtype) -> None:
        super().__init__(shape=(extractor.feature_size, extractor.nb_max_frames), dtype=dtype)
        self.extractor = extractor

    def prepare(self, media: Media) -> Values:
        """Log-mel spectrogram, float32 `[mels, frames]`. Raises as `open_recording`."""
        rate = self.extractor.sampling_rate
        # A rate that differs gives a sample more or less.
        samples = open_recording(media, rate, seconds=self.extractor.chunk_length + 0.1)
        features: Values = self.extractor(samples, sampling_rate=rate, return_tensors="np")["input_features"][0]
        return features.astype(np.float32)

    def scale(self, prepared: Tensor) -> Tensor:
        """Spectrograms as they are, float32 `[rows, mels, frames]`."""
        return prepared


def open_sound_reader(folder: Path, *, dtype: torch.dtype) -> SoundReader:
    """The reader of a model folder.

    Raises:
        ModelUnsupported: if its preprocessing is not Whisper's.
    """
    from transformers import WhisperFeatureExtractor

    return SoundReader(WhisperFeatureExtractor(**read_settings(folder)), dtype=dtype)


def read_settings(folder: Path) -> dict[str, Any]:
    """What preprocessor_config.json asks for, checked.

    Raises:
        ModelUnsupported: if it is missing, is not Whisper's, or has another window than 1 to 30 whole seconds.
    """
    try:
        config = json.loads((folder / FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise ModelUnsupported(
            f"{folder} does not say how its recordings are made ready",
            problems=[Problem(FILE, str(error))],
            remedy=_REMEDY,
        ) from error
    problems = []
    if config.get("feature_extractor_type") != "WhisperFeatureExtractor":
        problems.append(Problem(f"{FILE}, feature_extractor_type", "is not WhisperFeatureExtractor"))
    window = config.get("chunk_length", MAX_WINDOW)
    if not isinstance(window, int) or not 1 <= window <= MAX_WINDOW:
        problems.append(Problem(f"{FILE}, chunk_length", f"is {window!r}, and no whole number from 1 to {MAX_WINDOW}"))
    if config.get("dither"):
        problems.append(Problem(f"{FILE}, dither", "adds noise, which would give other answers each time"))
    if problems:
        raise ModelUnsupported("recordings cannot be made ready for this model", problems=problems, remedy=_REMEDY)
    names = ("feature_size", "sampling_rate", "hop_length", "chunk_length", "n_fft", "padding_value")
    return {name: config[name] for name in names if name in config}


def cut_positions(encoder: Any, folder: Path) -> None:
    """Make a Whisper encoder read the window of its folder's preprocessing, by keeping its first positions alone.

    They are fixed sinusoids that begin at the window's start (arXiv 2212.04356, section 2.2): those that are kept mean
    what they did.

    Raises:
        ModelUnsupported: if the preprocessing is not Whisper's, or its window has more places than the encoder.
    """
    settings = read_settings(folder)
    window = settings.get("chunk_length", MAX_WINDOW)
    frames = window * settings.get("sampling_rate", 16_000) // settings.get("hop_length", 160)
    places = frames // 2  # the second convolution has a stride of two
    weight = encoder.embed_positions.weight
    if places > len(weight):
        raise ModelUnsupported(
            f"a window of {window} s has {places:,} places, the encoder has {len(weight):,}",
            problems=[Problem(f"{FILE}, chunk_length", f"is {window}")],
            remedy="Give a shorter window.",
        )
    if places == len(weight):
        return
    encoder.embed_positions = nn.Embedding(places, weight.shape[1], _weight=weight[:places].detach().clone())
    encoder.max_source_positions = encoder.config.max_source_positions = places
