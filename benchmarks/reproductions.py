"""The README's table of experiments, from what `cutaway reproduce` wrote: `python -m benchmarks.reproductions [FOLDER ...]`.

The folders are those under runs/experiments unless given. Every experiment that is listed must be there, on three seeds at least.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cutaway import experiments
from cutaway.report import format_number
from cutaway.runtime import atomic_write

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- reproductions: written by python -m benchmarks.reproductions -->", "<!-- end of reproductions -->"
_LEAST_SEEDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproductions", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path)
    folders = parser.parse_args().folders or sorted(Path("runs/experiments").iterdir())
    records = [json.loads((folder / "result.json").read_text()) for folder in folders if (folder / "result.json").is_file()]
    atomic_write(README, filled(README.read_text(), table(records)))
    print(f"{README}: {len(records)} experiments")


def table(records: Iterable[Mapping[str, Any]]) -> str:
    """Return a table of Markdown, a row an experiment in the order of the list; raises ValueError for one that is not there."""
    found = {record["experiment"]: record for record in records}
    rows = ["| experiment | what it shows | checks | the first of them |", "|---|---|---|---|"]
    for name in experiments.NAMES:
        if name not in found or len(found[name]["seeds"]) < _LEAST_SEEDS:
            raise ValueError(
                f"there is no result of {name} on {_LEAST_SEEDS} seeds: cutaway reproduce {name} --seeds {_LEAST_SEEDS}"
            )
        rows.append(_row(name, found[name]))
    return "\n".join(rows)


def _row(name: str, record: Mapping[str, Any]) -> str:
    passed = [all(check["passed"][place] for check in record["checks"]) for place in range(len(record["seeds"]))]
    n_checks = len(record["checks"])
    verdict = (
        f"all {n_checks} on each of {len(passed)} seeds"
        if all(passed)
        else f"{sum(passed)} of {len(passed)} seeds pass all {n_checks}"
    )
    first = record["checks"][0]
    values = ", ".join(map(format_number, first["values"]))
    null = format_number(sorted(first["nulls"])[len(first["nulls"]) // 2])
    said = f"{first['name']}: {values} ({first['expected']}; {first['null_of']} {null})"
    return f"| `{name}` | {experiments.experiment(name).title} | {verdict} | {said} |"


def filled(page: str, rows: str) -> str:
    """Return a page with the table between its marks; raises ValueError for a page without them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page lacks {BEGIN!r} or {END!r}")
    return f"{before}{begin}\n{rows}\n{end}{after}"


if __name__ == "__main__":
    main()
