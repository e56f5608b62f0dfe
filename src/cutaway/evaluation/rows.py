"""Rows to be evaluated on: a JSONL file, or one that has a name, read with the line's number at hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutaway import assets
from cutaway.runtime import did_you_mean
from cutaway.values import shortened

__all__ = ["DATASETS", "Row", "read_rows"]

DATASETS = tuple(asset.name for asset in assets.CATALOGUE.values() if asset.kind == "dataset")
"""The files that are fetched by name."""


@dataclass(frozen=True)
class Row:
    """One JSON object of a file, and where it stands. Its methods raise ValueError naming the line and the field."""

    source: str
    line: int
    values: dict[str, Any]

    def has(self, *fields: str) -> bool:
        """Whether all of these fields are there."""
        return self.values.keys() >= set(fields)

    def text(self, field: str) -> str:
        """Return a field that is a string."""
        value = self._value(field)
        if not isinstance(value, str):
            raise ValueError(f"{self}: {field} is {shortened(value)}; expected a string")  # noqa: TRY004 (data, not code)
        return value

    def texts(self, field: str) -> tuple[str, ...]:
        """Return a field that is a list of at least two strings."""
        value = self._value(field)
        if not isinstance(value, list) or len(value) < 2 or not all(isinstance(text, str) for text in value):
            raise ValueError(f"{self}: {field} is {shortened(value)}; expected a list of at least two strings")
        return tuple(value)

    def choice(self, field: str, n_choices: int) -> int:
        """Return a field that is a number from 0 to below `n_choices`; some files write it as a string."""
        value = self._value(field)
        number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < n_choices:
            raise ValueError(f"{self}: {field} is {shortened(value)}; expected a whole number from 0 to {n_choices - 1}")
        return number

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Put the row's place before the sentence of a ValueError."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self}: {error}") from None

    def __str__(self) -> str:
        return f"{self.source}, line {self.line}"

    def _value(self, field: str) -> Any:
        if field not in self.values:
            raise ValueError(f"{self}: the field {field!r} is missing; the row has {', '.join(self.values) or 'none'}")
        return self.values[field]


def read_rows(source: str | Path, *, limit: int | None = None) -> list[Row]:
    """Read the rows of a JSONL file, or of one of DATASETS, at most the first `limit`; empty lines are passed over.

    Raises ValueError for a file that is missing, empty or not UTF-8, a line that is no JSON object, and a limit below 1; AssetError
    when a named file cannot be fetched.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"the limit is {limit}; expected at least 1 row")
    rows: list[Row] = []
    with _path(source).open("rb") as file:
        for line, content in enumerate(file, start=1):
            if len(rows) == limit:
                break
            if content.strip():
                rows.append(Row(str(source), line, _object(content, f"{source}, line {line}")))
    if not rows:
        raise ValueError(f"{source} holds no rows: expected a JSON object on each line")
    return rows


def _object(content: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError(f"{where} is not UTF-8 text: expected a JSON object on each line") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON ({error}): expected an object on each line") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where} holds {shortened(value)}: expected a JSON object on each line")  # noqa: TRY004
    return value


def _path(source: str | Path) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    if str(source) not in DATASETS:
        meant = did_you_mean(str(source), DATASETS)
        raise ValueError(f"there is no file {str(source)!r}; {meant}datasets with a name are {', '.join(DATASETS)}")
    try:
        (file,) = assets.fetch(str(source)).values()
    except assets.AssetError as error:
        raise assets.AssetError(f"{error}\n  a file of your own will do: one JSON object on each line, by --data FILE") from None
    return file
