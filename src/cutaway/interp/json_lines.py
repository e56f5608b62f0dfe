"""Files of JSON lines: an object a line, whose words are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["JsonLine", "read_json_lines", "read_text_columns"]


class JsonLine(NamedTuple):
    """An object of a file, and where it stands."""

    where: str
    values: dict[str, Any]


def read_json_lines(path: Path | str, *, needed: Sequence[str] = (), optional: Sequence[str] = ()) -> list[JsonLine]:
    """Return the objects of a file, which have every word that is needed and no other than these and optional ones.

    An optional word stands in all lines or in none, and empty lines are passed over. Raises ValueError for what is no such file, with
    the line, and FileNotFoundError for none.
    """
    path, expected = Path(path), f"an object a line, with {_listed(needed, optional)}"
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: expected {expected}")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text: expected {expected}") from None
    found = [_read(f"{path}, line {n}", line, needed, optional) for n, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise ValueError(f"{path} holds no lines: give {expected}")
    for word in optional:
        without = [each.where for each in found if word not in each.values]
        if 0 < len(without) < len(found):
            raise ValueError(f"{without[0]} has no {word!r}, and others have: give it in every line or in none")
    return found


def read_text_columns(path: Path | str, *, needed: Sequence[str] = (), optional: Sequence[str] = ()) -> dict[str, list[str]]:
    """Return the texts of a file by word, in the order of its lines; raises as `read_json_lines` does, and for what is no text."""
    lines = read_json_lines(path, needed=needed, optional=optional)
    for where, values in lines:
        if wrong := [word for word, value in values.items() if not isinstance(value, str)]:
            raise ValueError(f"{where}: {wrong[0]!r} is {json.dumps(values[wrong[0]], ensure_ascii=False)}; expected a text")
    return {word: [values[word] for _, values in lines] for word in (*needed, *optional) if word in lines[0].values}


def _read(where: str, line: str, needed: Sequence[str], optional: Sequence[str]) -> JsonLine:
    expected = _listed(needed, optional)
    try:
        values: Any = json.loads(line)
    except json.JSONDecodeError:
        raise ValueError(f"{where} is no JSON: expected an object with {expected}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{where} is no object: expected one with {expected}")  # noqa: TRY004  # what a file holds, not what a caller gives
    if unknown := [word for word in values if word not in (*needed, *optional)]:
        raise ValueError(f"{where} has {unknown[0]!r}: expected {expected}")
    if lacking := [word for word in needed if word not in values]:
        raise ValueError(f"{where} has no {lacking[0]!r}: expected {expected}")
    return JsonLine(where, values)


def _listed(needed: Sequence[str], optional: Sequence[str]) -> str:
    perhaps = ("perhaps " if needed else "") + ", ".join(optional)
    return ", ".join([*needed, perhaps]) if optional else ", ".join(needed)
