"""Labelled texts from a file: one JSON object a line."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutaway.interp.json_lines import JsonLine, read_json_lines
from cutaway.interp.probing.task import Label

__all__ = ["LabelledFile", "read_labelled"]


@dataclass(frozen=True)
class LabelledFile:
    """Texts with a label each, or a list of labels, one a token."""

    texts: tuple[str, ...]
    labels: tuple[Label, ...] | tuple[list[Label | None], ...]
    groups: tuple[Hashable, ...] | None = None
    """Which texts belong together, where the file says so."""

    @property
    def is_by_token(self) -> bool:
        """Whether there is a label for each token."""
        return isinstance(self.labels[0], list)


def read_labelled(path: Path | str) -> LabelledFile:
    """Read a JSON lines file of `{"text": ..., "label": ...}`, or with `"labels": [...]` one a token, null for those to leave out.

    A `"group"` names texts that belong together, as variants of one sentence. Raises ValueError, with the line, for anything else.
    """
    rows = [_checked(line) for line in read_json_lines(path, needed=("text",), optional=("label", "labels", "group"))]
    labels: Any = tuple(row["labels"] if "labels" in row else row["label"] for row in rows)
    groups = tuple(row["group"] for row in rows) if "group" in rows[0] else None
    return LabelledFile(tuple(row["text"] for row in rows), labels, groups)


def _checked(line: JsonLine) -> dict[str, Any]:
    where, row = line
    given = row.get("labels", [row.get("label", "")])
    problems = {
        "has a text that is none": not isinstance(row["text"], str),
        "has no label": "label" not in row and "labels" not in row,
        "has both label and labels": "label" in row and "labels" in row,
        "has labels that are no list, one for each token": not isinstance(given, list),
        "has a group that is neither a word nor a number": not isinstance(row.get("group", ""), str | int),
    }
    for problem, is_so in problems.items():
        if is_so:
            raise ValueError(f'{where} {problem}: expected {{"text": "...", "label": "..."}}')
    if wrong := [each for each in given if not isinstance(each, str | int | float) and not (each is None and "labels" in row)]:
        raise ValueError(f"{where}: a label is {wrong[0]!r}; expected a word or a number")
    return row
