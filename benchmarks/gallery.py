"""What the site's gallery shows of experiments, from what `cutaway reproduce` wrote: `python -m benchmarks.gallery [FOLDER ...]`.

The folders are those under runs/experiments unless given. Of each experiment of the list, at its small scale and measured by the code
as it is, docs/gallery gets its numbers (gallery.json) and the figures of its report, made small. What is there of experiments that no
folder holds stays.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.reproductions import results_asked_for
from cutaway import experiments
from cutaway.runtime import atomic_write

ROOT = Path(__file__).parent.parent
GALLERY = ROOT / "docs" / "gallery"
_SECTION = re.compile(r"<section[^>]*>(.*?)</section>", re.DOTALL)
_HEADING, _PARAGRAPH, _SVG = (re.compile(f"<{tag}[^>]*>(.*?)</{tag}>", re.DOTALL) for tag in ("h2", "p", "svg"))
_VARIABLE = re.compile(r"(--[a-z]+):\s*(#[0-9a-fA-F]+)")
_LABEL = re.compile(r'aria-label="([^"]*)"')
_DECIMAL, _PATH = re.compile(r"(?<![\w#.])-?\d+\.\d{2,}(?![\w.])"), re.compile(r'( d=)"([^"]*)"')
_FAMILIES = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,'DejaVu Sans',sans-serif"
_FONT = f"<style>text{{font-family:{_FAMILIES}!important}}</style>"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gallery", description=__doc__)
    small = results_asked_for(parser)
    kept = json.loads((GALLERY / "gallery.json").read_text()) if (GALLERY / "gallery.json").is_file() else []
    entries = {entry["id"]: entry for entry in kept} | {
        record["experiment"]: write(folder, record) for folder, record in small.items()
    }
    ordered = [entries[name] for name in experiments.NAMES if name in entries]
    atomic_write(GALLERY / "gallery.json", json.dumps(ordered, indent=1, allow_nan=False) + "\n")
    remove_others({figure["file"] for entry in ordered for figure in entry["figures"]})
    size = sum(path.stat().st_size for path in GALLERY.iterdir())
    print(f"{GALLERY}: {len(ordered)} experiments, {size / 1e6:.2f} MB")


def write(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Write the figures of a result's report, and return what else the gallery shows of it."""
    experiment = experiments.experiment(record["experiment"])
    figures = []
    for name, caption, alternative, svg in figures_of((folder / "report.html").read_text("utf-8")):
        file = f"{experiment.id}-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.svg"
        atomic_write(GALLERY / file, svg)
        figures.append({"name": name, "caption": caption, "alternative": alternative, "file": file})
    seeds = record["seeds"]
    return {
        "id": experiment.id,
        "title": experiment.title,
        "claim": record["claim"],
        "passed": record["passed"],
        "source": record["source"],
        "command": record["command"],
        "code": "src/" + experiment.run.__module__.replace(".", "/") + ".py",
        "settings": record["settings"],
        "seeds": list(seeds),
        "times_s": [round(seed["time_s"], 1) for seed in seeds.values()],
        "measured": measured(seeds.values()),
        "checks": [
            {name: check[name] for name in ("name", "expected", "unit", "null_of", "values", "nearest_null", "passed")}
            for check in record["checks"]
        ],
        "numbers": {name: each["values"] for name, each in record["numbers"].items()},
        "figures": figures,
    }


def measured(seeds: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return by what, where and when seeds were measured; the day is that of the commit."""
    made_with = [seed["made_with"] for seed in seeds]
    commits = sorted({made["commit"] for made in made_with if made.get("commit")})
    return {
        "commits": {commit[:7] + "+" * commit.endswith("+"): day_of(commit.rstrip("+")) for commit in commits},
        "device": ", ".join(sorted({made["device"] for made in made_with})),
        "torch": ", ".join(sorted({made["torch"] for made in made_with})),
        "python": ", ".join(sorted({made["python"] for made in made_with})),
    }


def day_of(commit: str) -> str | None:
    """Return the day of a commit of this repository, None where it has no such commit."""
    shown = subprocess.run(["git", "show", "-s", "--format=%cs", commit], cwd=ROOT, capture_output=True, text=True, check=False)
    return shown.stdout.strip() or None


def figures_of(report: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield the name, caption, text for those who cannot see it, and SVG of each figure of a report."""
    colours = dict(reversed(_VARIABLE.findall(report)))  # the first of each, which is the light one
    for section in _SECTION.findall(report):
        heading, svg = _HEADING.search(section), _SVG.search(section)
        if heading and svg:
            caption = " ".join(plain(match[1]) for match in _PARAGRAPH.finditer(section[: svg.start()]))
            label = _LABEL.search(svg[0])
            if label is None:
                raise ValueError(f"the figure {plain(heading[1])} has no label for those who cannot see it")
            yield plain(heading[1]), caption, html.unescape(label[1]), standing_alone(svg[0], colours)


def standing_alone(svg: str, colours: Mapping[str, str]) -> str:
    """Return the SVG of a page as a file: the light colours, a font, and no more digits than can be seen."""
    svg = re.sub(r"var\((--[a-z]+)\)", lambda match: colours[match[1]], svg)
    svg = _PATH.sub(lambda match: f'{match[1]}"{_rounded(match[2], 1)}"', svg)
    svg = _rounded(svg, 2)
    svg = re.sub(r"\n\s*", "\n", svg)
    return svg.replace(">", f">{_FONT}", 1) + "\n"


def _rounded(text: str, n_digits: int) -> str:
    """Return a text whose numbers have at most so many digits after the point."""
    return _DECIMAL.sub(lambda match: f"{float(match[0]):.{n_digits}f}".rstrip("0").rstrip("."), text)


def plain(markup: str) -> str:
    """Return the text of markup."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", markup)).split())


def remove_others(files: set[str]) -> None:
    """Remove figures that no experiment of the gallery has."""
    for path in GALLERY.glob("*.svg"):
        if path.name not in files:
            path.unlink()


if __name__ == "__main__":
    main()
