"""Every example in a docstring of the library runs and prints what it says."""

import ast
import doctest
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from markdown_examples import OPTIONS

SOURCE = Path(__file__).parents[2] / "src"


def examples(path: Path) -> Iterator[doctest.DocTest]:
    """Yield the examples of each docstring of a file, from its source: what checks shapes in tests hides functions from doctest."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node, clean=True)):
            name, line = getattr(node, "name", path.stem), node.body[0].lineno - 1
            if (found := doctest.DocTestParser().get_doctest(text, {}, name, str(path), line)).examples:
                yield found


EXAMPLES = {
    f"{path.relative_to(SOURCE).with_suffix('').as_posix()}::{example.name}": example
    for path in sorted(SOURCE.rglob("*.py"))
    for example in examples(path)
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_what_it_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example = EXAMPLES[name]
    example.globs = dict(vars(import_module(name.split("::")[0].replace("/", "."))))  # as a reader of that module has them
    said: list[str] = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(example, out=said.append)
    assert not said, "".join(said)


def test_no_example_is_skipped() -> None:
    skipped = [name for name, test in EXAMPLES.items() for example in test.examples if doctest.SKIP in example.options]
    assert not skipped, f"examples that nobody runs: {', '.join(skipped)}"
