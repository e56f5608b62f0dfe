"""One self-contained web page of results: text, figures as inline SVG, tables; no scripts, nothing from elsewhere."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cutaway.report.colours import FAINT, INK, MUTED
from cutaway.runtime import atomic_write

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

__all__ = ["HtmlReport"]

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_NUMBER = re.compile(r"[+\-\N{MINUS SIGN}]?[\d.,]+(e[+-]?\d+)?\s?%?|nan|[+-]?inf", re.IGNORECASE)
_PERCENT = re.compile(r"(?<=\d) %")
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_MANY_ROWS = 25  # more are folded away
_WIDEST = 12  # inches: figures up to this width shrink with the page, wider ones are scrolled
# What figures draw in these colours follows the page from light to dark. White strokes part cells; white text lies on dark ones.
_THEMED = {f": {colour}": f": var(--{name})" for colour, name in ((INK, "ink"), (MUTED, "muted"), (FAINT, "faint"))}
_THEMED["stroke: #ffffff"] = "stroke: var(--paper)"


class HtmlReport:
    """A page that is filled section by section and then written to one file.

    Everything given is text and is escaped, except what is `markupsafe.Markup`. The page reads well in light and dark, on paper, and
    without a network.
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title, self.subtitle = title, subtitle
        self._sections: list[_Section] = []
        self._n_figures = 0

    def add(
        self,
        heading: str,
        text: str = "",
        *,
        figure: Figure | None = None,
        table: tuple[Sequence[str], Sequence[Sequence[object]]] | None = None,
        body: Markup | None = None,
    ) -> None:
        """Add a section: its text (blank lines part paragraphs), markup of its own, a figure, a table as its header and rows.

        An empty heading goes on with the section before. Raises ValueError when a row has not one cell a column.
        """
        svg = ""
        if figure is not None:
            self._n_figures += 1
            svg = _inline_svg(
                figure, prefix=f"figure{self._n_figures}-", alternative=str(figure.get_label() or heading or self.title)
            )
        paragraphs = [_unbroken(part.strip()) for part in re.split(r"\n\s*\n", text) if part.strip()]
        self._sections.append(_Section(heading, f"section-{len(self._sections) + 1}", paragraphs, body or "", svg, _table(table)))

    def html(self) -> str:
        """Return the page."""
        from importlib.metadata import version
        from importlib.resources import files

        from jinja2 import Environment, StrictUndefined

        source = files("cutaway.report").joinpath("page.html.jinja").read_text(encoding="utf-8")
        environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        page = environment.from_string(source).render(
            title=self.title,
            subtitle=self.subtitle,
            sections=self._sections,
            contents=[section for section in self._sections if section.heading],
            version=version("cutaway"),
            colours={"ink": INK, "muted": MUTED, "faint": FAINT},
        )
        return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", page)

    def write(self, path: Path | str) -> Path:
        """Write the page to a file that ends in .html and return its path; the file is replaced only by a whole one.

        Raises ValueError for a name with another ending.
        """
        path = Path(path)
        if path.suffix.lower() not in {".html", ".htm"}:
            raise ValueError(f"{path} is not the name of a web page: give one that ends in .html")
        atomic_write(path, self.html())
        return path


@dataclass(frozen=True)
class _Table:
    headers: list[str]
    rows: list[list[str]]
    is_number: list[bool]  # of a column: aligned right
    is_long: bool


@dataclass(frozen=True)
class _Section:
    heading: str
    anchor: str
    paragraphs: list[str]
    body: str  # markup
    svg: str
    table: _Table | None


def _unbroken(text: str) -> str:
    """Return prose in which no line ends between a number and its sign of per cent."""
    return _PERCENT.sub("\N{NO-BREAK SPACE}%", text)


def _table(table: tuple[Sequence[str], Sequence[Sequence[object]]] | None) -> _Table | None:
    if table is None:
        return None
    headers, rows = list(table[0]), [[_cell(cell) for cell in row] for row in table[1]]
    for row in rows:
        if len(row) != len(headers):
            raise ValueError(
                f"a row of the table has {len(row)} cells: expected {len(headers)}, one for each of {', '.join(headers)}"
            )
    columns = list(zip(*rows, strict=True)) or [()] * len(headers)
    is_number = [bool(column) and all(not cell or _NUMBER.fullmatch(cell) for cell in column) for column in columns]
    return _Table(headers, rows, is_number, is_long=len(rows) > _MANY_ROWS)


def _cell(cell: object) -> str:
    """Return a cell's text; markup, such as a link, stays what it is."""
    from markupsafe import Markup

    return cell if isinstance(cell, Markup) else str(cell)


def _inline_svg(figure: Figure, *, prefix: str, alternative: str) -> str:
    """Return a figure as an SVG element for a page: its ids are its own, its text is text, its neutral colours are the page's."""
    from xml.etree import ElementTree

    from markupsafe import Markup
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "cutaway"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the browser has fonts of its own
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(_NOT_XML.sub("\N{REPLACEMENT CHARACTER}", file.getvalue()))
    for parent in root.iter():
        for child in [child for child in parent if child.tag in {f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"}]:
            parent.remove(child)  # its style would hold for the whole page
        for name, value in parent.attrib.items():
            parent.set(name, _renamed(name, value, prefix))
    is_narrow = figure.get_figwidth() <= _WIDEST
    root.attrib.update({"role": "img", "aria-label": alternative, "class": "narrow" if is_narrow else "wide"})
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # ElementTree has escaped it


def _renamed(name: str, value: str, prefix: str) -> str:
    """Return the value of an attribute with ids made unique in the page, and colours that follow its theme."""
    if name == "id":
        return prefix + value
    if name.endswith("href") and value.startswith("#"):
        return f"#{prefix}{value[1:]}"
    value = _REFERENCE.sub(rf"url(#{prefix}\1)", value)
    if name == "style":
        for colour, themed in _THEMED.items():
            value = value.replace(colour, themed)
    return value
