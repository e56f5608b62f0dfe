"""The gallery: a card an experiment, and a page with its whole report, from docs/gallery as `python -m benchmarks.gallery` wrote it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cutaway.report import format_duration, format_number
from docs.site.docstrings import escaped

__all__ = ["experiment_page", "index_page", "read_gallery"]

_TELLING = {
    "bigrams": "Loss while training",
    "attention-patterns": "Loss with average patterns",
    "greater-than": "Who passes the year on to whom",
    "copy-suppression": "What the suppressing head writes",
    "ioi-mini": "Who tells whom who gives",
    "modular-clock": "Clocks of the key frequencies",
}
"""The figure of a card where it is not the first: of those that tell most one whose labels are read at its size."""
_INTRODUCTION = """\
Each of these takes a published result, trains what it needs from nothing, and holds it against checks that can fail. Beside every
check stands its **null**: the same number where the claim should not hold. One command reproduces each on two cores."""


def read_gallery(folder: Path) -> list[dict[str, Any]]:
    """Return the experiments of the gallery, in order; none where it was not written."""
    path = folder / "gallery.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else []  # type: ignore[no-any-return]


def index_page(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return the page of cards."""
    tree = "```{toctree}\n:hidden:\n\n" + "\n".join(entry["id"] for entry in entries) + "\n```"
    cards = "\n\n".join(_card(entry) for entry in entries)
    return f"# Gallery of experiments\n\n{_INTRODUCTION}\n\n{tree}\n\n::::::{{container}} cards\n\n{cards}\n\n::::::\n"


def _card(entry: Mapping[str, Any]) -> str:
    figure = next((each for each in entry["figures"] if each["name"] == _TELLING.get(entry["id"])), entry["figures"][0])
    first = entry["checks"][0]
    check = f"{first['name']}: {_values(first)} ({first['expected']}; {first['null_of']} {_number(first['nearest_null'])})"
    return "\n\n".join(
        [
            ":::::{container} card",
            f"![{_prose(figure['alternative'])}](/pictures/docs/gallery/{figure['file']})",
            f"**[{_prose(entry['title'])}]({entry['id']}.md)**",
            _prose(entry["claim"]),
            f":::{{container}} facts\n{_verdict(entry)} The first: {_prose(check)}.\n\n{_prose(entry['source'])}\n:::",
            f"`{entry['command']}`",
            ":::::",
        ]
    )


def experiment_page(entry: Mapping[str, Any]) -> str:
    """Return the whole report of an experiment."""
    parts = [
        f"# {_prose(entry['title'])}",
        f"{_prose(entry['claim'])} {_verdict(entry)}",
        _facts(entry),
        f"```sh\n{entry['command']}\n```",
        "## Checks",
        "Each value stands beside its null: the same number where the claim should not hold. Of the nulls of all seeds the one "
        "nearest to the bound is shown.",
        _checks(entry),
    ]
    for figure in entry["figures"]:
        picture = f"![{_prose(figure['alternative'])}](/pictures/docs/gallery/{figure['file']})"
        parts += [f"## {_prose(figure['name'])}", _prose(figure["caption"]), picture]
    if entry["numbers"]:
        parts += ["## Other numbers", _numbers(entry)]
    parts += [
        "## Settings",
        _table(["setting", "value"], [[f"`{name}`", f"`{value}`"] for name, value in entry["settings"].items()]),
    ]
    return "\n\n".join(parts) + "\n"


def _verdict(entry: Mapping[str, Any]) -> str:
    n_checks, n_seeds = len(entry["checks"]), len(entry["seeds"])
    if entry["passed"]:
        return f"{ {1: 'The check', 2: 'Both checks'}.get(n_checks, f'All {n_checks} checks') } passed on each of {n_seeds} seeds."
    n_passed = sum(all(check["passed"]) for check in entry["checks"])
    return f"{n_passed} of {n_checks} checks passed on each of {n_seeds} seeds."


def _facts(entry: Mapping[str, Any]) -> str:
    measured, times = entry["measured"], entry["times_s"]
    commits = ", ".join(f"`{commit}`" + (f" of {day}" if day else "") for commit, day in measured["commits"].items())
    code = entry["code"]
    rows = [
        ["source", _prose(entry["source"])],
        ["code", f"[{_prose(code.rpartition('/')[2])}](shown:{code})"],
        ["measured", f"commit {commits}" if commits else "by a package without a commit"],
        ["on", _prose(f"{measured['device']}; torch {measured['torch']}, Python {measured['python']}")],
        ["time", _prose(f"{', '.join(map(format_duration, times))}: one a seed")],
    ]
    return "\n\n".join(f"{name}\n: {about}" for name, about in rows)


def _checks(entry: Mapping[str, Any]) -> str:
    rows = [
        [
            "passed" if all(check["passed"]) else "**failed**",
            _prose(check["name"]),
            _prose(check["expected"]),
            *(_number(value) + _prose(check["unit"]) for value in check["values"]),
            _prose(f"{_number(check['nearest_null'])}{check['unit']} ({check['null_of']})"),
        ]
        for check in entry["checks"]
    ]
    return _table(["result", "check", "expected", *(f"seed {seed}" for seed in entry["seeds"]), "null"], rows)


def _numbers(entry: Mapping[str, Any]) -> str:
    rows = [[_prose(name), *map(_number, values)] for name, values in entry["numbers"].items()]
    return _table(["number", *(f"seed {seed}" for seed in entry["seeds"])], rows)


def _prose(text: str) -> str:
    """Return a text as Markdown, with arrows that no line breaks in the middle of."""
    return escaped(text.replace("->", "→"))


def _values(check: Mapping[str, Any]) -> str:
    return ", ".join(_number(value) + check["unit"] for value in check["values"])


def _number(value: float | str | None) -> str:
    """Return a number as reports write it; results hold null for what is not finite, and a name where it matters which."""
    return "not finite" if value is None else format_number(float(value))


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
