"""Numbers of bytes as people write them."""

from __future__ import annotations

import re

from graftwork.errors import SettingsInvalid

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_size(text: str) -> int:
    """Bytes of a size such as `1MB`, `500 kB`, `64KiB` or `1000000`.

    Raises:
        SettingsInvalid: if it is none.

    Example:
        >>> parse_size("1.5MB"), parse_size("64KiB")
        (1500000, 65536)
    """
    match = _SIZE.fullmatch(text)
    factor = _UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise SettingsInvalid(f"{text!r} is no size", remedy="Write a number of bytes, or one such as 1MB or 500KB.")
    return int(float(match[1]) * factor)
