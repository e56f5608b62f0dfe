"""README and every document under docs/ run, and their prose keeps what it promises."""

import doctest
import re
from pathlib import Path

import pytest
import torch

from markdown_examples import OPTIONS, code_blocks, example_of
from prose import dead_anchors, dead_links, unchecked_in_formulas, unchecked_numbers, unknown_names

ROOT = Path(__file__).resolve().parents[2]
DOCS, README = ROOT / "docs", ROOT / "README.md"
DOCUMENTS = sorted(DOCS.rglob("*.md"))
PAGES = [README, ROOT / "COURSE_ROADMAP.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"]


def each(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=[str(path.relative_to(ROOT)) for path in paths])


def code_of(path: Path) -> str:
    """Return all code of a document, with what it prints."""
    return "\n".join(content for _, _, content in code_blocks(path.read_text(encoding="utf-8")))


def failures(example: doctest.DocTest) -> str:
    """Run examples and return what differs from what they are said to print; nothing where none does."""
    said: list[str] = []
    doctest.DocTestRunner(optionflags=OPTIONS, verbose=False).run(example, out=said.append)
    return "".join(said)


@each([*DOCUMENTS, README])
def test_a_document_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.chdir(tmp_path)  # what examples write goes there
    example = example_of(path)
    if any("smollm2-135m" in each.source for each in example.examples):  # shell commands that name it are not run
        request.getfixturevalue("smollm2_fetched")
    n_threads = torch.get_num_threads()
    try:
        if said := failures(example):
            pytest.fail(said, pytrace=False)
    finally:
        torch.set_printoptions(profile="default")
        torch.set_num_threads(n_threads)


@each(DOCUMENTS)
def test_the_numbers_of_a_document_are_those_of_its_code(path: Path) -> None:
    assert unchecked_numbers(path.read_text(encoding="utf-8"), code_of(path)) == []


@each([*DOCUMENTS, *PAGES])
def test_the_links_and_names_of_a_document_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert dead_links(text, path.parent) == []
    assert dead_anchors(text, path) == []
    assert unknown_names(text) == []


def test_readme_begins_with_what_needs_no_fetching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands before the real model, which the test of the whole page needs, runs everywhere."""
    monkeypatch.chdir(tmp_path)
    begin = tmp_path / "begin.md"
    begin.write_text(README.read_text(encoding="utf-8").partition("## A real model")[0], encoding="utf-8")
    assert len(example_of(begin).examples) > 15
    assert not (said := failures(example_of(begin))), said


def test_every_number_of_the_worked_example_is_printed() -> None:
    path = DOCS / "worked_example.md"
    assert unchecked_in_formulas(path.read_text(encoding="utf-8"), code_of(path)) == []


def test_the_glossary_is_in_order() -> None:
    terms = [term.lower() for term in re.findall(r"^### (.+)$", (DOCS / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE)]
    assert terms == sorted(terms, key=lambda term: term.replace("-", " "))
    assert len(set(terms)) == len(terms)


def test_what_differs_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("# A page\n\n```python\n>>> x = 1\n>>> x + 1\n3\n```\n\n```python\n>>> x\n1\n\n```\n", encoding="utf-8")
    said = failures(example_of(path))
    assert re.search(r"page\.md\", line 5", said)
    assert re.search(r"Expected:\s+3\s+Got:\s+2\s", said)
    assert said.count("Failed example") == 1
