"""Tokens as people can read them: every space and line break visible, nothing that would move the text around it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from cutaway.report.numbers import format_fixed
from cutaway.report.terminal import table

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderResult

__all__ = ["token_label", "in_ascii", "shortened", "token_table"]

_SIGNS = {"\n": "⏎", "\t": "⇥"}
_ASCII = str.maketrans({"·": "_", "␣": "_", "⏎": "\\n", "⇥": "\\t", "∅": "''", "×": "x", "…": "..", "\N{MINUS SIGN}": "-"})
_MANY_SPACES = 4


def token_label(text: str) -> str:
    """Return a token's text with its outer spaces, line breaks and whatever else cannot be seen made visible.

    A label is its own label, and so are ordinary words: every view calls this on what it is given.

    >>> token_label(" the"), token_label("\\n"), token_label(" " * 8), token_label("\\x00"), token_label(""), token_label("layer 3")
    ('·the', '⏎', '␣×8', '\\\\x00', '∅', 'layer 3')
    """
    if not text:
        return "∅"
    word = text.strip(" ")
    n_before = len(text) - len(text.lstrip(" "))
    n_after = len(text) - n_before - len(word)
    if word and unicodedata.combining(word[0]):
        word = "◌" + word
    if not word:  # a dot alone would be taken for a full stop
        return _spaces("␣", n_before)
    return _spaces("·", n_before) + "".join(map(_visible, word)) + _spaces("·", n_after)


def _spaces(sign: str, n_spaces: int) -> str:
    return sign * n_spaces if n_spaces <= _MANY_SPACES else f"{sign}×{n_spaces}"


def _visible(char: str) -> str:
    """Return a character itself, or its escape where it is a control, a mark of direction, or a space that is not the usual one."""
    if char in _SIGNS:
        return _SIGNS[char]
    category = unicodedata.category(char)
    is_seen = char in {" ", "\N{REPLACEMENT CHARACTER}"} or category[0] in "LMNPS"
    return char if is_seen else char.encode("unicode_escape", "surrogatepass").decode("ascii")


def in_ascii(label: str) -> str:
    """Return a label for a console that has nothing but ASCII.

    >>> in_ascii("·café"), in_ascii("⏎")
    ('_caf\\\\xe9', '\\\\n')
    """
    return label.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")


def shortened(label: str, n_cells: int, *, ending: str = "…") -> str:
    """Return a label in at most so many cells of a terminal, its end cut off where it is longer.

    >>> shortened("·electricity", 6), shortened("·the", 6)
    ('·elec…', '·the')
    """
    if cell_len(label) <= n_cells:
        return label
    return set_cell_size(label, max(n_cells - cell_len(ending), 0)).rstrip() + ending[:n_cells]


def token_table(
    tokens: Sequence[str],
    values: Mapping[str, Sequence[float | str]],
    *,
    digits: int = 2,
    first: int = 0,
    title: str | None = None,
) -> ConsoleRenderable:
    """Return a table of one token a line: its position from `first` on, its label, and a column for each of `values`.

    Numbers are written with so many digits after the point; NaN stays empty. Raises ValueError when a column has another length.
    """
    for name, column in values.items():
        if len(column) != len(tokens):
            raise ValueError(f"the column {name!r} has {len(column)} values for {len(tokens)} tokens: give one for each token")
    return _TokenTable(tuple(tokens), {name: tuple(column) for name, column in values.items()}, digits, first, title)


@dataclass(frozen=True)
class _TokenTable:
    tokens: tuple[str, ...]
    values: Mapping[str, tuple[float | str, ...]]
    digits: int
    first: int
    title: str | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        def written(text: str) -> Text:
            return Text(in_ascii(text) if options.ascii_only else text)

        numeric = [name for name, column in self.values.items() if not any(isinstance(value, str) for value in column)]
        grid = table("pos", "token", *self.values, right=["pos", *numeric], title=self.title)
        for number, token in enumerate(self.tokens):
            cells: Iterable[float | str] = (column[number] for column in self.values.values())
            shown = [token_label(cell) if isinstance(cell, str) else format_fixed(cell, self.digits) for cell in cells]
            grid.add_row(str(self.first + number), *map(written, [token_label(token), *shown]))
        yield grid
