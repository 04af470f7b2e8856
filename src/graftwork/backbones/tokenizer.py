"""Texts to token ids, with the base model's own tokenizer."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graftwork.backbones.quiet import quiet_transformers
from graftwork.data.media import Modality
from graftwork.data.tokens import TokenCounts
from graftwork.errors import DataRejected, ModelUnreadable, ModelUnsupported, Problem

if TYPE_CHECKING:
    import tokenizers
    import torch

    from graftwork.backbones.batch import TokenBatch

_VARIATION_SELECTORS = range(0xFE00, 0xFE10)


class Tokenizer:
    """A base model's tokenizer. Safe to use from several threads at once: no call changes its state.

    Attributes:
        modality: it reads texts.
        prompt: text put before every input, as the base wants it.
        pad_id: id that fills rows up to a batch's longest; never seen by the model, because it is masked.
        unknown_id: id of what it does not know; None when it knows everything.
        mask_id: id that hides a token from models that learned to guess it; None when there is none.
        special_ids: ids of what is put around texts and fills them up; the unknown token is not among them.
        model_max_length: tokens a text may have by the tokenizer's own settings, None when they do not say.

    Example:
        >>> tokenizer = load_tokenizer(folder)                          # doctest: +SKIP
        >>> tokenizer.encode(["a refund, please"], max_length=6)        # doctest: +SKIP
        [[101, 1037, 25416, 8630, 1010, 102]]
    """

    modality: Modality = "text"

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        prompt: str = "",
        pad_id: int = 0,
        fill_id: int = 0,
        unknown_id: int | None = None,
        mask_id: int | None = None,
        special_ids: frozenset[int] = frozenset(),
        model_max_length: int | None = None,
    ) -> None:
        # Both are kept inside tokenizer.json by many models and would cut or pad behind our back.
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._fill_id = fill_id
        self.unknown_id = unknown_id
        self.mask_id = mask_id
        self.special_ids = special_ids
        self._leading, self._trailing = _template(backend)
        self.prompt = prompt
        self.pad_id = pad_id
        self.model_max_length = model_max_length

    @property
    def size(self) -> int:
        """One more than the largest id it can give."""
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(self, texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
        """Token ids of each text, special tokens included, the prompt put before it.

        A text that gives no token at all (an empty one, where the tokenizer adds no special tokens) becomes one
        filler token, so that every text has a vector.

        Args:
            texts: the texts.
            max_length: tokens kept of each, special tokens included; the end of the text is cut off. None keeps all.

        Returns:
            One list of ids a text, of 1 to `max_length` ids.

        Raises:
            DataRejected: if a text holds lone surrogates, which no encoding can represent.
        """
        encodings = self._encode_batch(texts, offsets=False)
        return [self._truncated(encoding.ids, max_length) or [self._fill_id] for encoding in encodings]

    def pieces(self, text: str) -> list[int]:
        """Token ids of a piece of a longer text: nothing is put around it, and marks of special tokens become these.

        Raises:
            DataRejected: if it holds lone surrogates.
        """
        try:
            return self._backend.encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeEncodeError) as error:
            raise DataRejected("a text holds a lone surrogate", remedy="Read the source with its encoding.") from error

    def collate(self, rows: Sequence[Sequence[int]], device: torch.device) -> TokenBatch:
        """Pad rows of token ids on the right to the longest and put them on a device."""
        import torch

        from graftwork.backbones.batch import TokenBatch

        # In numpy and all rows at once: a tensor for each row would cost twenty times more.
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        real = np.arange(lengths.max(initial=0)) < lengths[:, np.newaxis]
        input_ids = np.full(real.shape, self.pad_id, np.int64)
        input_ids[real] = np.fromiter(chain.from_iterable(rows), np.int64, lengths.sum())
        attention_mask = real.astype(np.int64)
        return TokenBatch(torch.from_numpy(input_ids).to(device), torch.from_numpy(attention_mask).to(device))

    def outline(self, rows: Sequence[Sequence[int]], device: torch.device) -> TokenBatch:
        """The same: models may look at ids anywhere."""
        return self.collate(rows, device)

    def measure(self, texts: Sequence[str]) -> list[TokenCounts]:
        """What the tokenizer makes of each text: its length, what it does not know and what it drops.

        Raises:
            DataRejected: if a text holds lone surrogates.
        """
        encodings = self._encode_batch(texts, offsets=True)
        return [self._measured(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]

    def save(self, path: Path, *, max_length: int) -> None:
        """Write it as a tokenizer.json that cuts texts and pads batches by itself; the prompt is not part of it.

        Args:
            path: the file.
            max_length: tokens kept of each text, special tokens included.
        """
        import tokenizers

        own = tokenizers.Tokenizer.from_str(self._backend.to_str())
        own.enable_truncation(max_length)
        own.enable_padding(pad_id=self.pad_id, pad_token=self._backend.id_to_token(self.pad_id) or "[PAD]")
        own.save(str(path))

    def _encode_batch(self, texts: Sequence[str], *, offsets: bool) -> list[tokenizers.Encoding]:
        prompted = [self.prompt + text for text in texts] if self.prompt else list(texts)
        encode = self._backend.encode_batch if offsets else self._backend.encode_batch_fast
        try:
            return encode(prompted)
        except (TypeError, UnicodeEncodeError) as error:
            bad = [index for index, text in enumerate(prompted) if not _encodable(text)]
            if not bad:
                raise
            raise DataRejected(
                "some texts hold lone surrogates, which are not characters",
                problems=[Problem(f"text {index + 1}", "holds a lone surrogate") for index in bad],
                remedy="Read the source again with its right encoding.",
            ) from error

    def _truncated(self, ids: list[int], max_length: int | None) -> list[int]:
        if max_length is None or len(ids) <= max_length:
            return ids
        # The template's tokens stay even where nothing else fits: a model without its [CLS] and [SEP] answers noise.
        kept = max(max_length - self._trailing, self._leading)
        return ids[:kept] + (ids[-self._trailing :] if self._trailing else [])

    def _measured(self, text: str, encoding: tokenizers.Encoding) -> TokenCounts:
        start = len(self.prompt)
        length = len(encoding.ids)
        tokens = 0
        unknown: list[str] = []
        dropped: list[str] = []
        covered = 0
        body = slice(self._leading, length - self._trailing)
        for token, (begin, end) in zip(encoding.ids[body], encoding.offsets[body], strict=True):
            begin, end = begin - start, end - start  # noqa: PLW2901 - from the prompted text's offsets to the text's
            if end <= 0:
                continue
            tokens += 1
            if token == self.unknown_id:
                unknown.append(text[max(begin, 0) : end])
            if begin > covered:
                dropped += text[covered:begin]
            covered = max(covered, end)
        dropped += text[covered:]
        lost = "".join(character for character in dropped if _visible(character))
        return TokenCounts(max(length, 1), tokens, len(unknown), tuple(unknown), lost)


def load_tokenizer(folder: Path, *, prompt: str = "") -> Tokenizer:
    """Load the tokenizer of a model folder in Hugging Face layout.

    Args:
        folder: the folder.
        prompt: text to put before every input.

    Raises:
        ModelUnreadable: if there is none, or it is broken.
        ModelUnsupported: if it has no fast implementation.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        with quiet_transformers():
            loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelUnreadable(
            f"the tokenizer in {folder} cannot be read",
            problems=[Problem(type(error).__name__, str(error).strip().splitlines()[0] if str(error) else "")],
            remedy="Copy the model's tokenizer.json and tokenizer_config.json into the folder.",
        ) from error
    if not isinstance(loaded, PreTrainedTokenizerFast):
        raise ModelUnsupported(
            f"the tokenizer in {folder} ({type(loaded).__name__}) has no fast implementation",
            remedy="Convert it to a tokenizer.json with transformers and put that into the folder.",
        )
    ends = (loaded.eos_token_id, loaded.bos_token_id, loaded.pad_token_id)
    stated = loaded.model_max_length
    return Tokenizer(
        loaded.backend_tokenizer,
        prompt=prompt,
        pad_id=loaded.pad_token_id or 0,
        fill_id=next((token for token in ends if token is not None), 0),
        unknown_id=loaded.unk_token_id,
        mask_id=loaded.mask_token_id,
        special_ids=frozenset(loaded.all_special_ids) - {loaded.unk_token_id},
        # transformers writes 10^30 where nothing is known.
        model_max_length=stated if 0 < stated < 10**9 else None,
    )


def _template(backend: tokenizers.Tokenizer) -> tuple[int, int]:
    """How many special tokens the tokenizer puts before and after a text."""
    added = backend.encode("a").special_tokens_mask
    if 0 not in added:
        return len(added), 0
    return added.index(0), added[::-1].index(0)


def _visible(character: str) -> bool:
    """Whether its loss matters: neither white space, control or format character, nor a choice of glyph."""
    return unicodedata.category(character)[0] not in "ZC" and ord(character) not in _VARIATION_SELECTORS


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
