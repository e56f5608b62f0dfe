"""Prompts that a file holds, one object a line, as the options that they are given by otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["PAIRS", "read_prompt_file"]

PAIRS = {"clean": "clean", "corrupted": "corrupted", "target": "correct", "wrong": "wrong"}
"""Which word of a line is which option, for a clean and a corrupted prompt."""


def read_prompt_file(path: Path, words: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the options that a file of JSON lines gives; `words` are the words of a line by option.

    An option may be left out in all lines, and not in some. Raises ValueError for what is no such file.
    """
    from cutaway.interp.json_lines import read_text_columns

    columns = read_text_columns(path, optional=tuple(words.values()))
    return {option: tuple(columns.get(word, ())) for option, word in words.items()}
