"""The table of docs/experiments.md, from what `cutaway reproduce` wrote: `python -m benchmarks.reproductions [FOLDER ...]`.

The folders are those under runs/experiments unless given. Every experiment that is listed must be there, on three seeds at least, at
the small scale; what is there of other settings is passed over and named.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cutaway import experiments
from cutaway.experiments.frame import sources_sha256
from cutaway.report import format_number
from cutaway.runtime import atomic_write

PAGE = Path(__file__).parent.parent / "docs/experiments.md"
BEGIN, END = "<!-- reproductions: written by python -m benchmarks.reproductions -->", "<!-- end of reproductions -->"
_LEAST_SEEDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproductions", description=__doc__)
    small = results_asked_for(parser)
    atomic_write(PAGE, filled(PAGE.read_text(), table(small.values())))
    print(f"{PAGE}: {len(small)} experiments")


def results_asked_for(parser: argparse.ArgumentParser) -> dict[Path, dict[str, Any]]:
    """Return the results at the small scale in the folders on the command line; others are named, and outdated ones an error."""
    parser.add_argument("folders", nargs="*", type=Path)
    folders = parser.parse_args().folders or sorted(Path("runs/experiments").iterdir())
    records = {folder: json.loads((folder / "result.json").read_text()) for folder in folders if (folder / "result.json").is_file()}
    small = {folder: record for folder, record in records.items() if is_small(record)}
    for folder in records.keys() - small.keys():
        print(f"passed over: {folder}, which is no experiment of the list at its small scale")
    if outdated := [folder for folder, record in small.items() if is_outdated(record)]:
        parser.error(f"measured or trained by other code than there is now: {', '.join(map(str, outdated))}; reproduce them anew")
    return small


def is_small(record: Mapping[str, Any]) -> bool:
    """Whether a result is of an experiment of the list, at the settings of its small scale."""
    if (name := record["experiment"]) not in experiments.NAMES:
        return False
    experiment = experiments.experiment(name)
    return bool(record["settings"] == experiment.settings(experiment.scale("small").config))


def is_outdated(record: Mapping[str, Any]) -> bool:
    """Whether the code of a result's experiment has changed since a seed was trained and measured."""
    sources = sources_sha256(experiments.experiment(record["experiment"]))
    made_by = [
        code
        for seed in record["seeds"].values()
        for code in (seed["made_with"].get("sources"), *(each["sources"] for each in seed.get("trainings", {}).values()))
    ]
    return any(code != sources for code in made_by)


def table(records: Iterable[Mapping[str, Any]]) -> str:
    """Return a table of Markdown, a row an experiment in the order of the list, of results at the small scale.

    Raises ValueError for an experiment that is not there, or there twice.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for record in filter(is_small, records):
        if (name := record["experiment"]) in found:
            raise ValueError(f"there are two results of {name} at its small scale: give the folder of one")
        found[name] = record
    rows = ["| experiment | what it shows | checks | the first of them |", "|---|---|---|---|"]
    for name in experiments.NAMES:
        if name not in found or len(found[name]["seeds"]) < _LEAST_SEEDS:
            raise ValueError(
                f"there is no result of {name} on {_LEAST_SEEDS} seeds: cutaway reproduce {name} --seeds {_LEAST_SEEDS}"
            )
        rows.append(_row(name, found[name]))
    made_with = [seed["made_with"] for name in experiments.NAMES for seed in found[name]["seeds"].values()]
    commits, devices, torches = (sorted({str(each[what]) for each in made_with}) for what in ("commit", "device", "torch"))
    said = f"commit {', '.join(commit[:7] for commit in commits)}; {', '.join(devices)}; torch {', '.join(torches)}"
    return "\n".join([*rows, "", f"Of the nulls of all seeds the one nearest to the bound is shown. Measured at {said}."])


def _row(name: str, record: Mapping[str, Any]) -> str:
    passed = [all(check["passed"][place] for check in record["checks"]) for place in range(len(record["seeds"]))]
    n_checks = len(record["checks"])
    verdict = (
        f"all {n_checks} on each of {len(passed)} seeds"
        if all(passed)
        else f"{sum(passed)} of {len(passed)} seeds pass all {n_checks}"
    )
    first = record["checks"][0]
    values = ", ".join(map(_written, first["values"]))
    null = _written(float(first["nearest_null"]))
    said = f"{first['name']}: {values} ({first['expected']}; {first['null_of']} {null})"
    cells = (f"`{name}`", experiments.experiment(name).title, verdict, said)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _written(value: float | None) -> str:
    return "not finite" if value is None else format_number(value)


def filled(page: str, rows: str) -> str:
    """Return a page with the table between its marks; raises ValueError for a page without them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page lacks {BEGIN!r} or {END!r}")
    return f"{before}{begin}\n{rows}\n{end}{after}"


if __name__ == "__main__":
    main()
