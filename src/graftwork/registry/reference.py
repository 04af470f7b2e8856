"""How adapters are named: `tenant/name`, `tenant/name@3`, `tenant/name:production`, `tenant/region~user`."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from graftwork.errors import NotFound, ReferenceMalformed

Found = TypeVar("Found")

_WORD = r"[a-z0-9][a-z0-9._-]{0,62}"
_NAME = rf"(?=[^@:]{{1,63}}(?:[@:]|$)){_WORD}(?:~{_WORD})*"
_REFERENCE = re.compile(rf"({_WORD})/({_NAME})(?:@([1-9][0-9]{{0,8}})|:({_WORD}))?")
BELOW = "~"
"""Stands between the parts of a name: `eu~user7` is user7 of eu."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A name somebody asks for.

    Without a version or an alias it means the newest version. A name of several parts, `acme/eu~user7`, says where
    whoever has no adapter of that name yet is to be answered from: see `nearest`.

    Example:
        >>> Reference.parse("acme/news@3")
        Reference(tenant='acme', name='news', version=3, alias=None)
        >>> str(Reference.parse("acme/news:production"))
        'acme/news:production'
    """

    tenant: str
    name: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a reference.

        Raises:
            ReferenceMalformed: if it is not of one of the three forms.
        """
        match = _REFERENCE.fullmatch(text)
        if match is None:
            shown = text if len(text) <= 80 else text[:77] + "..."
            raise ReferenceMalformed(
                f"{shown!r} is not a reference",
                remedy="Write tenant/name, tenant/name@3 or tenant/name:production, in lower-case letters, digits, "
                "'.', '_' and '-'; ~ stands between the parts of a name, such as acme/eu~user7.",
            )
        tenant, name, version, alias = match.groups()
        return cls(tenant, name, int(version) if version else None, alias)

    @classmethod
    def parse_bare(cls, text: str) -> Reference:
        """Read a reference to a name, without a version or an alias.

        Raises:
            ReferenceMalformed: if it is none, or names one version.
        """
        reference = cls.parse(text)
        if reference.version is not None or reference.alias is not None:
            raise ReferenceMalformed(f"{text!r} names one version", remedy=f"Write {reference.bare}.")
        return reference

    @property
    def bare(self) -> str:
        """The reference without version and alias."""
        return f"{self.tenant}/{self.name}"

    @property
    def nearest(self) -> tuple[Reference, ...]:
        """What answers instead, the nearest first, while there is no such adapter; the alias stays the same.

        None for a name of one part, and for a version: who asks for one wants that one and no other.

        Example:
            >>> [str(one) for one in Reference.parse("acme/eu~fr~user7").nearest]
            ['acme/eu~fr', 'acme/eu']
        """
        if self.version is not None:
            return ()
        parts = self.name.split(BELOW)
        return tuple(
            Reference(self.tenant, BELOW.join(parts[:length]), alias=self.alias)
            for length in range(len(parts) - 1, 0, -1)
        )

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.bare}@{self.version}"
        return f"{self.bare}:{self.alias}" if self.alias else self.bare


def check_word(kind: str, word: str) -> str:
    """Return `word` if it can be a tenant, a name or an alias.

    Raises:
        ReferenceMalformed: if it cannot.
    """
    if re.fullmatch(_WORD, word) is None:
        raise ReferenceMalformed(
            f"{word!r} cannot be {'an' if kind[0] in 'aeiou' else 'a'} {kind}",
            remedy="Use lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 63.",
        )
    return word


def resolve_nearest(resolve: Callable[[Reference], Found], reference: Reference) -> Found:
    """What a reference means, or the nearest of those that answer instead.

    Args:
        resolve: finds what one reference means, or raises `NotFound`.
        reference: what was asked for.

    Raises:
        NotFound: as `resolve` does for `reference` itself, if none of them is there.
    """
    try:
        return resolve(reference)
    except NotFound:
        for other in reference.nearest:
            with suppress(NotFound):
                return resolve(other)
        raise
