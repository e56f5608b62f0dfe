"""The list of lessons, and copies of them to work in: `python -m course`, `python -m course start 3`, `python -m course start all`.

A copy has no solutions. It is a notebook, or with --format py the same cells as plain Python: `python course/mine/03_attention.py`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

try:
    import jupytext
except ModuleNotFoundError:
    sys.exit("lessons are read with jupytext, which is not installed: pip install -c constraints.txt '.[course]', or make course")
from rich.text import Text

from course.source import COURSE, lessons, read, readers_copy
from cutaway.cli.errors import report_error
from cutaway.report import filled_table, print_sentence, stdout_console
from cutaway.runtime import atomic_write

MINE = COURSE / "mine"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m course", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", metavar="{start}")
    start = verbs.add_parser("start", help="write copies of lessons to work in, never over one that is there")
    start.add_argument("lessons", nargs="+", metavar="NUMBER", help="numbers of lessons, or all")
    start.add_argument(
        "--format", choices=["ipynb", "py"], default="ipynb", help="a notebook, or plain Python (default: %(default)s)"
    )
    start.add_argument("--to", type=Path, default=MINE, metavar="FOLDER", help="where to (default: course/mine)")
    options = parser.parse_args()
    if options.verb is None:
        list_lessons()
        return 0
    known = {str(read(path).number): path for path in lessons()}
    wanted = (
        list(known)
        if "all" in options.lessons
        else [str(int(number)) if number.isdecimal() else number for number in options.lessons]
    )
    if unknown := [number for number in wanted if number not in known]:
        start.error(f"there is no lesson {unknown[0]!r}; expected all, or numbers from 1 to {len(known)}")
    try:
        for number in wanted:
            write_copy(known[number], options.to, options.format)
    except (OSError, KeyboardInterrupt) as error:
        return report_error(error)
    return 0


def list_lessons() -> None:
    rows = [(str(lesson.number), lesson.title, lesson.question) for lesson in map(read, lessons())]
    console = stdout_console()
    console.print(filled_table(["", "lesson", "question"], rows))
    print_sentence(
        console, Text("\nA copy to work in: `python -m course start 1`. COURSE_ROADMAP.md says in which order, and how long.")
    )


def write_copy(path: Path, folder: Path, ending: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / path.with_suffix(f".{ending}").name
    if copy.exists():
        print(f"{copy} is there already and stays as it is")
        return
    atomic_write(
        copy,
        jupytext.writes(readers_copy(read(path), folder=folder, ending=ending), fmt="ipynb" if ending == "ipynb" else "py:percent"),
    )
    print(copy)


if __name__ == "__main__":
    sys.exit(main())
