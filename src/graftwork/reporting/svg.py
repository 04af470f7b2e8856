"""Charts of Matplotlib made part of a page: in its colours and its type, named for who cannot see them."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as Xml

from graftwork.data.printable import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, ACCENT, SECOND, THIRD = "#000001", "#000002", "#000003", "#000004", "#000005"
"""Colours to draw with; the page says what they are, in its dark form too."""

_VARIABLES = {INK: "--ink", MUTED: "--muted", ACCENT: "--accent", SECOND: "--second", THIRD: "--third"}
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_COLOUR = re.compile("|".join(_VARIABLES))
_FAMILY = re.compile(r"font-family:[^;]*;?\s*")
_REFERENCE = re.compile(r"(?<=#)")
_STYLE: Mapping[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def page_style(key: str) -> AbstractContextManager[None]:
    """Within it Matplotlib draws for a page, the same bytes every time."""
    import matplotlib as mpl

    return mpl.rc_context({**_STYLE, "svg.hashsalt": key})


def as_svg(figure: Figure, *, key: str, told: str) -> str:
    """A figure as an `svg` element, without fonts, colours, dates and names that others on the page may have.

    Args:
        figure: drawn within `page_style`.
        key: names it on the page.
        told: what it shows, for who cannot see it.
    """
    written = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the reader's own fonts draw the text
        figure.savefig(written, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    root = Xml.fromstring(written.getvalue())
    for element in root.iter():
        _mend(element, key)
    for group in list(root.iter(f"{{{_SVG}}}defs")):
        for style in group.findall(f"{{{_SVG}}}style"):
            group.remove(style)  # it would hold for the whole page
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-label": printable(told, one_line=True)}
    Xml.register_namespace("", _SVG)
    Xml.register_namespace("xlink", _XLINK)
    return Xml.tostring(root, encoding="unicode")


def _mend(element: Xml.Element, key: str) -> None:
    """Its colours become the page's, its name one that no other chart has."""
    for name, value in list(element.attrib.items()):
        if name == "id":
            if element.tag == f"{{{_SVG}}}g":
                del element.attrib[name]
            else:
                element.attrib[name] = f"{key}-{value}"
        elif name in (f"{{{_XLINK}}}href", "clip-path"):
            element.attrib[name] = _REFERENCE.sub(f"{key}-", value)
        elif name == "style":
            coloured = _COLOUR.sub(lambda found: f"var({_VARIABLES[found[0]]})", value)
            element.attrib[name] = _FAMILY.sub("", coloured)
