"""Which positions of two prompts belong together, so that an activation of one can take the place of the other's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from cutaway.report.tokens import token_label
from cutaway.tokenizers import Tokenizer

if TYPE_CHECKING:
    from rich.console import ConsoleRenderable

__all__ = ["Alignment", "align", "n_shared"]


@dataclass(frozen=True)
class Alignment:
    """Positions of a clean and of a corrupted prompt, in pairs; what stands in no pair has no partner."""

    clean: tuple[str, ...]
    """The text of each token."""
    corrupted: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    """(position in the clean prompt, position in the corrupted one), in order."""

    @property
    def skipped(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The positions of the clean and of the corrupted prompt that have no partner."""
        partnered = [{pair[side] for pair in self.pairs} for side in (0, 1)]
        clean, corrupted = (
            tuple(pos for pos in range(len(tokens)) if pos not in known)
            for tokens, known in zip((self.clean, self.corrupted), partnered, strict=True)
        )
        return clean, corrupted

    def sentence(self) -> str:
        """Return what is skipped; "" where nothing is."""
        sides = [
            f"{len(skipped)} of the {name} prompt ({', '.join(token_label(tokens[pos]) for pos in skipped)})"
            for name, tokens, skipped in zip(("clean", "corrupted"), (self.clean, self.corrupted), self.skipped, strict=True)
            if skipped
        ]
        return f"Positions without a partner are skipped: {' and '.join(sides)}." if sides else ""

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Return the two lists side by side, a line a position: its number and token, a sign, the partner's token and number.

        The sign is `=` between partners with the same text, `~` between others, and empty where there is no partner.
        """
        lines: list[tuple[str, str, str, str, str]] = []
        a = b = 0
        for clean, corrupted in (*self.pairs, (len(self.clean), len(self.corrupted))):
            for i in range(max(clean - a, corrupted - b)):
                (at, token), (other_at, other) = self._cell(self.clean, a + i, clean), self._cell(self.corrupted, b + i, corrupted)
                lines.append((at, token, "", other, other_at))
            if clean < len(self.clean):
                sign = "=" if self.clean[clean] == self.corrupted[corrupted] else "~"
                (at, token), (other_at, other) = self._cell(self.clean, clean), self._cell(self.corrupted, corrupted)
                lines.append((at, token, sign, other, other_at))
            a, b = clean + 1, corrupted + 1
        return lines

    def side_by_side(self) -> str:
        """Return both lists of tokens as lines of text, with the position of each."""
        lines = [("pos", "clean", "", "corrupted", "at"), *self.rows()]
        width, other_width = (max(cell_len(line[side]) for line in lines) for side in (1, 3))

        def filled(token: str, width: int) -> str:
            return token + " " * (width - cell_len(token))

        return "\n".join(
            f"  {pos:>3} {filled(token, width)} {sign or ' '} {filled(other, other_width)} {at:>3}".rstrip()
            for pos, token, sign, other, at in lines
        )

    def view(self, *, title: str) -> ConsoleRenderable:
        """Return both lists of tokens as a table for a terminal."""
        from cutaway.report.terminal import table

        shown = table("pos", "clean", "", "corrupted", "at", right=["pos", "at"], title=title)
        for row in self.rows():
            shown.add_row(*row)
        return shown

    def to_dict(self) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        return {"clean": list(self.clean), "corrupted": list(self.corrupted), "pairs": [list(pair) for pair in self.pairs]}

    @staticmethod
    def _cell(tokens: Sequence[str], pos: int, stop: int | None = None) -> tuple[str, str]:
        return ("", "") if stop is not None and pos >= stop else (str(pos), token_label(tokens[pos]))


def align(
    tokenizer: Tokenizer, clean: Sequence[int], corrupted: Sequence[int], *, pairs: Sequence[tuple[int, int]] | None = None
) -> Alignment:
    """Return which positions of two prompts, as ids, belong together.

    Prompts of as many tokens are paired position by position; others by their common beginning and their common end, and what is
    between has no partner. `pairs`, (clean, corrupted) positions in order, say it otherwise. Raises ValueError, with both lists of
    tokens side by side, for prompts that have no token in common there, and for pairs that are not in order or not there.
    """
    texts = [tuple(tokenizer.decode([int(token)]) for token in ids) for ids in (clean, corrupted)]
    if pairs is None:
        found = _common(list(map(int, clean)), list(map(int, corrupted)))
        if not found:
            raise ValueError(_nowhere(*texts))
        return Alignment(texts[0], texts[1], tuple(found))
    given = [(int(a), int(b)) for a, b in pairs]
    for (a, b), (next_a, next_b) in zip([(-1, -1), *given], [*given, (len(clean), len(corrupted))], strict=True):
        if not (a < next_a and b < next_b):
            raise ValueError(
                f"pairs are {given}; expected (clean, corrupted) positions, both rising, below {len(clean)} and {len(corrupted)}"
            )
    if not given:
        raise ValueError("pairs are empty: give at least one (clean, corrupted) position")
    return Alignment(texts[0], texts[1], tuple(given))


def _common(clean: list[int], corrupted: list[int]) -> list[tuple[int, int]]:
    """Return the pairs of positions; none where the prompts have no token in common."""
    n, m = len(clean), len(corrupted)
    if n == m:
        return [(pos, pos) for pos in range(n)] if any(a == b for a, b in zip(clean, corrupted, strict=True)) else []
    first = n_shared(clean, corrupted)
    last = min(n_shared(clean[::-1], corrupted[::-1]), min(n, m) - first)
    return [(pos, pos) for pos in range(first)] + [(n - i, m - i) for i in range(last, 0, -1)]


def n_shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many first tokens are the same."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _nowhere(clean: tuple[str, ...], corrupted: tuple[str, ...]) -> str:
    n, m = len(clean), len(corrupted)
    if n == m:
        each = f"{n} token{'s' * (n > 1)} each"
        why = f"they have {each}, and none is the same at its position; change as little as you can in one of them"
    else:
        why = (
            f"they have {n} and {m} tokens, and neither the first nor the last is the same; let them begin or end alike, or give as "
            "many tokens"
        )
    return f"the prompts do not align anywhere: {why}\n{Alignment(clean, corrupted, ()).side_by_side()}"
