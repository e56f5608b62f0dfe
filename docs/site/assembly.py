"""The documents of the repository and the pages made of its code, brought together as the sources that Sphinx reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nbformat
from course.source import read

from docs.site import diagrams, front, gallery, reference
from docs.site.lessons import notebook_of
from docs.site.library import Library
from docs.site.markdown import adapt
from docs.site.places import Places, find_places

__all__ = ["assemble"]

HERE = Path(__file__).parent


def assemble(root: Path, target: Path) -> None:
    """Write the sources of the site of a repository to `target`, which is emptied first.

    Raises DeadLinkError, MissingTextError or LessonError for a document that is wrong.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    places = find_places(root)
    for path, page in places.pages.items():
        if path.endswith(".py"):
            _write_lesson(root, path, target, page, places)
        else:
            _write(target / f"{page}.md", adapt((root / path).read_text("utf-8"), path, places))
    if drawn := diagrams.page(root / "docs" / "diagrams"):
        _write(target / "guides" / "diagrams.md", adapt(drawn, "docs/diagrams/page.md", places))
    entries = gallery.read_gallery(root / "docs" / "gallery")
    _write_gallery(entries, target, places)
    _write_reference(root, target)
    _write_indexes(places, target, has_gallery=bool(entries), has_diagrams=bool(drawn))
    for path in sorted(places.pictures):
        _copy(root / path, target / "pictures" / path)
    (target / "shown.json").write_text(json.dumps(sorted(places.shown)), "utf-8")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def _copy(origin: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(origin, target)


def _write_lesson(root: Path, path: str, target: Path, page: str, places: Places) -> None:
    """Write a lesson as the site shows it."""
    places.shown.add(path)
    _write(target / f"{page}.ipynb", nbformat.writes(notebook_of(root / path, path, places)))


def _write_gallery(entries: list[dict[str, object]], target: Path, places: Places) -> None:
    if not entries:
        return
    _write(target / "gallery" / "index.md", gallery.index_page(entries))
    for entry in entries:
        _write(target / "gallery" / f"{entry['id']}.md", gallery.experiment_page(entry))
        places.shown.add(str(entry["code"]))
        places.pictures |= {f"docs/gallery/{figure['file']}" for figure in entry["figures"]}  # type: ignore[attr-defined]


def _write_reference(root: Path, target: Path) -> None:
    floors = reference.read_floors((root / "ARCHITECTURE.md").read_text("utf-8"))
    made = reference.Reference(Library(root / "src" / "cutaway"), floors)
    _write(target / "reference" / "index.md", reference.index_page(made))
    _write(target / "source" / "index.md", reference.source_page(made))
    for name in made.public:
        _write(target / "reference" / f"{name}.md", made.page(name))
    names = {
        "short": made.short_names,
        "elsewhere": made.elsewhere,
        "sources": made.sources(),
        "scopes": made.scopes,
        "public": made.public,
    }
    (target / "names.json").write_text(json.dumps(names), "utf-8")


def _entry(places: Places, path: str) -> str:
    """Return the line of a document in a tree, a lesson with its number; the first page of the repository has the name of the whole."""
    page = places.pages[path]
    if path in places.lessons:
        lesson = read(places.root / path)
        return f"{lesson.number}. {lesson.title} </{page}>"
    return f"Readme </{page}>" if path == "README.md" else f"/{page}"


def _write_indexes(places: Places, target: Path, *, has_gallery: bool, has_diagrams: bool) -> None:
    """Write the front page and those that gather the lessons, the guides and the documents of the project."""
    sections = []
    if course := [path for path in ("COURSE_ROADMAP.md", *places.lessons) if path in places.pages]:
        sections.append(("Course", [_entry(places, path) for path in course]))
    if guides := [_entry(places, path) for path in places.guides] + ["/guides/diagrams"] * has_diagrams:
        sections.append(("Guides", guides))
    looking = ["/gallery/index"] * has_gallery + ["/reference/index", "/source/index"]
    sections.append(("Look up", looking))
    sections.append(("The project", [_entry(places, path) for path in places.project]))
    trees = [f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```" for caption, pages in sections]
    text = adapt((HERE / "front.md").read_text("utf-8"), "docs/site/front.md", places)
    doors = front.doors(places, has_gallery=has_gallery, has_diagrams=has_diagrams)
    _write(target / "index.md", "\n\n".join([text.replace("{{doors}}", doors), *trees]) + "\n")
