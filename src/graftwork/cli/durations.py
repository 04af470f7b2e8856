"""Lengths of time as people write them."""

from __future__ import annotations

import re

from graftwork.errors import SettingsInvalid

_UNITS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_duration(text: str) -> float:
    """Seconds of a length of time such as `5m`, `90s`, `50ms`, `1.5h` or `90`.

    Raises:
        SettingsInvalid: if it is none, or is nought.

    Example:
        >>> parse_duration("5m"), parse_duration("50ms"), parse_duration("90")
        (300.0, 0.05, 90.0)
    """
    match = _DURATION.fullmatch(text)
    factor = _UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None or not float(match[1]):
        raise SettingsInvalid(f"{text!r} is no length of time", remedy="Write one such as 5m, 90s, 50ms or 1.5h.")
    return float(match[1]) * factor
