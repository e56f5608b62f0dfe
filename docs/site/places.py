"""Where each file of the repository is on the site, and what a link from one to another becomes."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["DeadLinkError", "Places", "SHOWN", "find_places", "shown_page"]

SHOWN = "shown:"
"""What links to a page that shows a file begin with, until the extension knows the page they stand on."""

_PICTURES = {".svg", ".png", ".jpg", ".jpeg", ".gif", ".webp"}
_GUIDES = ("theory", "code_guide", "worked_example", "glossary", "faq", "from_transformerlens", "from_nanogpt", "experiments")
_PROJECT = {
    "README.md": "project/readme",
    "ARCHITECTURE.md": "project/architecture",
    "CHANGELOG.md": "project/changelog",
    "CONTRIBUTING.md": "project/contributing",
    "benchmarks/LOG.md": "project/log",
}


class DeadLinkError(ValueError):
    """A link points to nothing."""


@dataclass
class Places:
    """The pages of the site by the file they are made of, and the files that links ask to see."""

    root: Path
    pages: Mapping[str, str]
    """By the path of a document in the repository its page, both without a leading slash."""
    shown: set[str] = field(default_factory=set)
    """Paths of files and folders that are shown as they are."""
    pictures: set[str] = field(default_factory=set)
    """Paths of pictures that pages show."""

    @property
    def lessons(self) -> list[str]:
        """The paths of the lessons, in order."""
        return sorted(path for path in self.pages if path.startswith("course/"))

    @property
    def guides(self) -> list[str]:
        """The paths of the guides, in the order in which they are offered."""
        known = [f"docs/{name}.md" for name in _GUIDES]
        return sorted(
            (path for path in self.pages if path.startswith("docs/")),
            key=lambda path: (known.index(path) if path in known else len(known), path),
        )

    @property
    def project(self) -> list[str]:
        """The paths of the documents about the project itself."""
        return [path for path in _PROJECT if path in self.pages]

    def link(self, page: str, target: str) -> str:
        """Return what a link to `target`, as the document `page` writes it, is on the site.

        Raises DeadLinkError where there is no such file.
        """
        if target.startswith("#") or _has_scheme(target):
            return target
        path, hash_sign, anchor = target.partition("#")
        path = self._found(page, path)
        if path in self.pages:
            ending = ".ipynb" if path.endswith(".py") else ".md"
            return f"/{self.pages[path]}{ending}{hash_sign}{anchor}"
        self.shown.add(path)
        return f"{SHOWN}{path}{hash_sign}{anchor}"

    def picture(self, page: str, target: str) -> str:
        """Return where the site has a picture; raises DeadLinkError where there is none."""
        if _has_scheme(target):
            raise DeadLinkError(f"{page}: the picture {target} is not of this repository: the site asks nothing of other hosts")
        path = self._found(page, target)
        if Path(path).suffix.lower() not in _PICTURES:
            raise DeadLinkError(f"{page}: {target} is no picture")
        self.pictures.add(path)
        return f"/pictures/{path}"

    def _found(self, page: str, target: str) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
        if path.startswith("..") or not (self.root / path).exists():
            raise DeadLinkError(f"{page}: there is no {target}")
        return path


def find_places(root: Path) -> Places:
    """Return the places of all documents that are there."""
    pages = {path: page for path, page in _PROJECT.items() if (root / path).is_file()}
    if (root / "COURSE_ROADMAP.md").is_file():
        pages["COURSE_ROADMAP.md"] = "course/roadmap"
    pages |= {f"course/{path.name}": f"course/{path.stem}" for path in sorted((root / "course").glob("[0-9][0-9]_*.py"))}
    pages |= {f"docs/{path.name}": f"guides/{path.stem}" for path in sorted((root / "docs").glob("*.md"))}
    return Places(root, pages)


def shown_page(path: str) -> str:
    """Return the page that shows a file: those of the library are under source/, without the folders that all of them share."""
    inside = path.removeprefix("src/")
    if inside == path:
        return f"files/{path}"
    return "source/" + inside.removesuffix(".py")


def _has_scheme(target: str) -> bool:
    scheme = target.partition(":")[0]
    return ":" in target and scheme.isalpha()
