"""Text as it may be shown: what would drive a terminal or hide what is there is spelled out."""

from __future__ import annotations

import re

# Control characters drive a terminal, those that turn the writing direction hide what is there, and halves of a
# surrogate pair cannot be encoded.
_UNPRINTABLE = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_IN_LINES = re.compile(f"[{_UNPRINTABLE}]")
_IN_CELLS = re.compile(f"[\\t\\n{_UNPRINTABLE}]")


def printable(text: str, *, one_line: bool = False) -> str:
    r"""Text that cannot drive the terminal: control characters are spelled out.

    Args:
        text: whatever a user, a file or a model card said.
        one_line: spell out tabs and line ends too.

    Example:
        >>> print(printable("\x1b[2Jgone"))
        \x1b[2Jgone
    """
    pattern = _IN_CELLS if one_line else _IN_LINES
    return pattern.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
