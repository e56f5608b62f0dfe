"""Help where it is written: in the docstring of a verb's function, and under the fields of a configuration."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap

__all__ = ["sections_of", "entries_of", "field_texts"]

_SECTION = re.compile(r"(Args|Examples|In Python):")
_ENTRY = re.compile(r"(\w+)(?: ([^:]+))?: (.*)")


def sections_of(text: str) -> dict[str, str]:
    """Return a docstring's sections by their heads; what stands before the first is under the empty head."""
    sections: dict[str, list[str]] = {"": []}
    head = ""
    for line in text.splitlines():
        if match := _SECTION.fullmatch(line):
            head = match[1]
            sections[head] = []
        else:
            sections[head].append(line)
    return {head: textwrap.dedent("\n".join(lines)).strip("\n") for head, lines in sections.items()}


def entries_of(text: str) -> dict[str, tuple[str, str]]:
    """Return the name of the value and the text of each entry of Args."""
    entries: dict[str, tuple[str, str]] = {}
    name = ""
    for line in text.splitlines():
        if match := _ENTRY.fullmatch(line):
            name, metavar, about = match[1], match[2] or "", match[3]
            entries[name] = metavar, about
        elif name:
            metavar, about = entries[name]
            entries[name] = metavar, f"{about} {line.strip()}".rstrip()
    return entries


def field_texts(config: type) -> dict[str, str]:
    """Return the text that stands under each field of a class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(config))).body[0]
    texts = {}
    for statement, after in zip(body.body, body.body[1:], strict=False):  # type: ignore[attr-defined]
        match statement, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                texts[name] = _begin_small(" ".join(text.split()).rstrip("."))
    return texts


def _begin_small(text: str) -> str:
    """Return a sentence as it stands within a line: beginning small, unless its first word is a name such as GPT-2."""
    first = text.partition(" ")[0]
    return text[:1].lower() + text[1:] if first == "A" or first[1:].islower() else text
