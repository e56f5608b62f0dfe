"""Links to headings lead to headings, and the glossary is in order."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
_LINK = re.compile(r"\]\(([\w./-]*\.md)?#([\w-]+)\)")


def headings(path: Path) -> list[str]:
    without_code = re.sub(r"^ *```.*?^ *```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^#+ (.+?)\s*$", without_code, re.MULTILINE)


def anchor(heading: str) -> str:
    """What GitHub and Sphinx make of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.stem)
def test_links_to_headings_lead_there(path: Path) -> None:
    for file, target in _LINK.findall(path.read_text(encoding="utf-8")):
        there = headings(path.parent / file) if file else headings(path)
        assert target in map(anchor, there), f"{file or path.name} has no heading #{target}"


def test_the_glossary_is_in_order() -> None:
    terms = [term.lower() for term in re.findall(r"^### (.+)$", (DOCS / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE)]
    assert terms == sorted(terms, key=lambda term: term.replace("-", " "))
    assert len(set(terms)) == len(terms)
