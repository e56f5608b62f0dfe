"""Prompts that a file holds, one object a line, as the options that they are given by otherwise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cutaway.cli.errors import UsageError

__all__ = ["PAIRS", "read_prompt_file"]

PAIRS = {"clean": "clean", "corrupted": "corrupted", "target": "correct", "wrong": "wrong"}
"""Which word of a line is which option, for a clean and a corrupted prompt."""


def read_prompt_file(path: Path, words: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the options that a file of JSON lines gives; `words` are the words of a line by option.

    An option may be left out in all lines, and not in some. Raises UsageError for what is no such file.
    """
    rows = [(n, line) for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if line.strip()]
    if not rows:
        raise UsageError(f"{path} holds no prompts: give one object a line, with {', '.join(words.values())}")
    objects = [_object(f"{path}, line {n}", line, words) for n, line in rows]
    found = {}
    for option, word in words.items():
        given = [each[word] for each in objects if word in each]
        if given and len(given) < len(objects):
            n = next(n for (n, _), each in zip(rows, objects, strict=True) if word not in each)
            raise UsageError(f"{path}, line {n} has no {word!r}, and others have: give it in every line or in none")
        found[option] = tuple(given)
    return found


def _object(where: str, line: str, words: Mapping[str, str]) -> dict[str, str]:
    try:
        found: Any = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where} is no JSON ({error})") from None
    expected = ", ".join(words.values())
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise UsageError(f"{where} is no object of texts: expected {expected}")
    if unknown := found.keys() - set(words.values()):
        raise UsageError(f"{where} has {sorted(unknown)[0]!r}; expected {expected}")
    return found
