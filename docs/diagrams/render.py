#!/usr/bin/env python3
"""Draw the diagrams: each NAME.tex here, with style.tex, becomes NAME.svg, which records the hash of what it was drawn from."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).resolve().parent
STYLE = FOLDER / "style.tex"
PROGRAMS = ("latex", "dvisvgm")
INSTALL = "sudo apt-get install texlive-latex-base texlive-latex-recommended texlive-pictures texlive-fonts-recommended dvisvgm"
DVISVGM = ("--no-fonts", "--bbox=papersize", "--precision=2", "--verbosity=1")
WIDTH = 760
"""Pixels that a diagram is wide where a page does not say."""


def sources() -> list[Path]:
    """Return the diagrams' sources, in alphabetical order."""
    return sorted(path for path in FOLDER.glob("*.tex") if path != STYLE)


def source_sha256(source: Path) -> str:
    """Return the hash of what a diagram is drawn from: its own source, then the style."""
    return hashlib.sha256(source.read_bytes() + b"\0" + STYLE.read_bytes()).hexdigest()


def recorded_sha256(svg: Path) -> str | None:
    """Return the hash that a drawing records; None where there is no drawing, or it records none."""
    found = re.search(r'data-source-sha256="([0-9a-f]{64})"', svg.read_text(encoding="utf-8")) if svg.exists() else None
    return found[1] if found else None


def recorded_programs(svg: Path) -> str | None:
    """Return which versions of the programs a drawing records."""
    found = re.search(r'data-drawn-with="([^"]*)"', svg.read_text(encoding="utf-8"))
    return found[1] if found else None


@cache
def programs() -> str:
    """Return the versions of the programs on this machine: the same ones draw the same bytes."""
    said = (subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout for program in PROGRAMS)
    return escape(", ".join(each.splitlines()[0] for each in said), {'"': "'"})


def comments(source: Path, key: str) -> list[str]:
    """Return what the lines `% key: ...` of a source say."""
    return re.findall(rf"^% {re.escape(key)}: (.+)$", source.read_text(encoding="utf-8"), flags=re.MULTILINE)


def draw(source: Path) -> str:
    """Return a diagram as SVG, every letter a path; raises ValueError with TeX's own complaint where a source is wrong."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1", "TEXINPUTS": f"{FOLDER}:", "TZ": "UTC"}
    with tempfile.TemporaryDirectory() as folder:
        for command in (
            ["latex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", str(source)],
            ["dvisvgm", *DVISVGM, f"--output={source.stem}.svg", f"{source.stem}.dvi"],
        ):
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace")
            if done.returncode:
                said = done.stdout + done.stderr
                raise ValueError(f"{command[0]} could not draw {source.name}:\n{said[max(said.find('! '), 0) :][:1500]}")
        return described((Path(folder) / f"{source.stem}.svg").read_text(encoding="utf-8"), source)


def described(svg: str, source: Path) -> str:
    """Return a drawing with its title, its description for screen readers, its size on a page and the hash of its source."""
    found = re.search(r"<svg [^>]*viewBox='(\S+ \S+ (\S+) (\S+))'[^>]*>", svg)
    if found is None:
        raise ValueError(f"dvisvgm's drawing of {source.name} does not begin as expected: {svg[:300]}")
    view_box, width, height = found.groups()
    title, description = (" ".join(comments(source, key)) for key in ("title", "desc"))
    if not title or not description:
        raise ValueError(f"{source.name} needs a line '% title: ...' and a line '% desc: ...'")
    name = source.stem.replace("_", "-")
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" version="1.1" role="img" '
        f'aria-labelledby="{name}-title {name}-desc" width="{WIDTH}" height="{round(WIDTH * float(height) / float(width))}" '
        f'viewBox="{view_box}" data-source-sha256="{source_sha256(source)}" '
        f'data-drawn-with="{programs()}">\n'
        f'<title id="{name}-title">{escape(title)}</title>\n<desc id="{name}-desc">{escape(description)}</desc>'
    )
    body = svg[found.end() :]
    return head + re.sub(r"( id='|href='#|url\(#)", rf"\1{name}-", body)  # letters of two diagrams on one page do not meet


def main() -> int:
    """Draw what has changed, or what is named."""
    parser = argparse.ArgumentParser(description="Draw the diagrams of docs/diagrams from their TikZ sources.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which to draw (default: those whose source has changed)")
    parser.add_argument("--force", action="store_true", help="draw all, changed or not")
    arguments = parser.parse_args()
    known = {source.stem: source for source in sources()}
    unknown = sorted(set(arguments.names) - known.keys())
    if unknown:
        parser.error(f"there is no diagram {', '.join(unknown)}; there are {', '.join(known)}")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        print(f"{' and '.join(missing)} not found; on Debian or Ubuntu: {INSTALL}", file=sys.stderr)
        return 1
    n_drawn = 0
    for name, source in known.items():
        svg = source.with_suffix(".svg")
        is_changed = recorded_sha256(svg) != source_sha256(source)
        if name in arguments.names or arguments.force or (is_changed and not arguments.names):
            try:
                svg.write_text(draw(source), encoding="utf-8")
            except ValueError as error:
                print(error, file=sys.stderr)
                return 1
            print(f"{svg.name}: {svg.stat().st_size / 1000:.0f} kB")
            n_drawn += 1
    if not n_drawn:
        print(f"{len(known)} diagrams, each as its source has it: nothing to draw")
    return 0


if __name__ == "__main__":
    sys.exit(main())
