"""Heads of requests that were read before, known again by their bytes.

A client sends the same request line and headers again and again; only the length of the body differs. What the parser
and the checks said of the very same bytes, they would say again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from graftwork.api.instant import Request
from graftwork.api.middleware import REQUEST_ID, new_request_id

_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: (\d{1,9})\r\n")
_LONGEST = 1_024  # bytes of a head that is kept
_MOST = 1_024  # heads that are kept

Headers = Sequence[tuple[bytes, bytes]]


class KnownHeads:
    """Heads of requests that may be answered at once; for one thread.

    Args:
        line: with which these requests begin.
        most: bytes of a body.
    """

    def __init__(self, line: bytes, most: int) -> None:
        self._line = line
        self._most = most
        self._kept: dict[bytes, Headers] = {}  # by the bytes without the length

    def request(self, data: bytes) -> Request | None:
        """The request that `data` is from its first byte to its last; None if the head is not known."""
        parts = self._parts(data)
        headers = None if parts is None else self._kept.get(parts[0])
        if parts is None or headers is None:
            return None
        return Request(headers, parts[1], new_request_id(), time.perf_counter())

    def keep(self, data: bytes, headers: Headers) -> None:
        """Keep the head of a plain request that came as `data`: nothing before it, and nothing behind it.

        Heads with an id of their own do not come again.
        """
        parts = self._parts(data)
        if parts is None or len(parts[0]) > _LONGEST or not data.startswith(self._line):
            return
        fields = dict(headers)
        # Where a parser that is less strict saw the end elsewhere, this length is not the one that it read.
        if REQUEST_ID not in fields and fields.pop(b"content-length", b"").lstrip(b"0") == b"%d" % len(parts[1]):
            if len(self._kept) >= _MOST:
                del self._kept[next(iter(self._kept))]
            self._kept[parts[0]] = tuple(fields.items())

    def _parts(self, data: bytes) -> tuple[bytes, bytes] | None:
        """The head without the number of bytes in the body, and the body; None unless that is their number."""
        end = data.find(_END) + len(_END)
        length = _LENGTH.search(data, 0, end)
        if length is None or not int(length[1]) == len(data) - end <= self._most:
            return None
        begin, behind = length.span(1)
        return data[:begin] + data[behind:end], data[end:]
