"""The texts of a request, or of one request to several adapters: what is made of them is made once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, cast

from graftwork.errors import Problem, RequestInvalid
from graftwork.serving.cache import text_digest

if TYPE_CHECKING:
    from graftwork.backbones.backbone import Backbone


class Texts:
    """Texts with their digests and token ids.

    Args:
        texts: one or more texts.

    Example:
        >>> texts = Texts(["it works", "it does", "it works"])
        >>> len(texts), len(set(texts.digests))
        (3, 2)
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = tuple(texts)
        self._ids: dict[tuple[str, int | None], dict[str, tuple[int, ...]]] = {}

    @classmethod
    def of(cls, texts: Texts | Sequence[str]) -> Texts:
        """These texts; what has been made of them already is kept."""
        return texts if isinstance(texts, Texts) else cls(texts)

    @classmethod
    def checked(cls, texts: Texts | Sequence[str]) -> Texts:
        """The same for what comes from outside.

        Raises:
            RequestInvalid: no texts, or something that is no text.
        """
        if not isinstance(texts, Texts):
            _check(texts)
        return cls.of(texts)

    def __len__(self) -> int:
        return len(self._texts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    @cached_property
    def digests(self) -> tuple[bytes, ...]:
        """The digest of each text, from `cache.text_digest`."""
        return tuple(map(text_digest, self._texts))

    def ids(self, backbone: Backbone, max_length: int | None) -> list[tuple[int, ...]]:
        """The token ids of each text; each text is tokenised once for each backbone and length."""
        key = (backbone.fingerprint, max_length)
        known = self._ids.get(key)
        if known is None:
            unique = list(dict.fromkeys(self._texts))
            rows = backbone.encode(unique, max_length)
            # Media are tuples already, of a kind that has more to it.
            ids = map(tuple, rows) if backbone.modality == "text" else cast("Sequence[tuple[int, ...]]", rows)
            known = self._ids[key] = dict(zip(unique, ids, strict=True))
        return [known[text] for text in self._texts]


def _check(texts: Sequence[object]) -> None:
    if isinstance(texts, str) or not texts:
        raise RequestInvalid(
            "the request is one text, not a list of texts" if texts else "the request holds no texts",
            remedy="Send a list of one or more strings.",
        )
    if all(isinstance(text, str) for text in texts):
        return
    problems = [
        Problem(f"text {index + 1}", f"is {type(text).__name__}, not a string")
        for index, text in enumerate(texts)
        if not isinstance(text, str)
    ]
    raise RequestInvalid(
        f"{len(problems)} of {len(texts)} texts are no strings",
        problems=problems[:20],
        remedy="Send a list of one or more strings.",
    )
