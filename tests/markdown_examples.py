"""The `>>>` examples of a document of Markdown as one doctest: `python tests/markdown_examples.py FILE ...`."""

import doctest
import re
import sys
from collections.abc import Iterator
from pathlib import Path

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_FENCE = re.compile(r"^( *)```(\w*).*?\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


def code_blocks(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield line number, language and content of every fenced block."""
    for found in _FENCE.finditer(text):
        yield text.count("\n", 0, found.start(3)) + 1, found[2], found[3]


def example_of(path: Path) -> doctest.DocTest:
    """Return the examples of all blocks of Python as one session, with the lines of the file."""
    text = path.read_text(encoding="utf-8")
    lines = [""] * (text.count("\n") + 1)
    for number, language, content in code_blocks(text):
        if language == "python":
            block = content.splitlines()
            lines[number - 1 : number - 1 + len(block)] = block
    return doctest.DocTestParser().get_doctest("\n".join(lines) + "\n", {}, path.name, str(path), 0)


def run(path: Path) -> doctest.TestResults:
    """Run the examples of a document and print what differs."""
    return doctest.DocTestRunner(optionflags=OPTIONS).run(example_of(path))


if __name__ == "__main__":
    results = [run(Path(name)) for name in sys.argv[1:]]
    print(f"{sum(each.attempted for each in results)} examples, {sum(each.failed for each in results)} failed")
    sys.exit(any(each.failed for each in results))
