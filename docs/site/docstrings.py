"""Docstrings, plain English with `code` in single backticks, as Markdown in which nothing is markup by accident."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

__all__ = ["first_sentence", "to_markdown"]

_CODE = re.compile(r"(`[^`]+`)")
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>$#|~&^!])")
_ITEM = re.compile(r"- +(.*)")
_BEGINS_A_BLOCK = re.compile(r"(\d+)([.)])(?= |$)|([-+=:])")
_SENTENCE = re.compile(r"(?<=[a-z0-9`)\]\"'|])[.](?=\s+[A-Z`\"(]|\s*$)")


def to_markdown(docstring: str) -> str:
    """Return a docstring as Markdown: its prose escaped, its sessions, tables, lists and indented lines as what they are."""
    return "\n\n".join(_block(lines) for lines in _blocks(inspect.cleandoc(docstring)))


def first_sentence(docstring: str) -> str:
    """Return the first sentence of a docstring as Markdown of one line."""
    paragraph = " ".join(inspect.cleandoc(docstring).split("\n\n")[0].split())
    end = _SENTENCE.search(paragraph)
    return escaped(paragraph[: end.end()] if end else paragraph)


def escaped(prose: str) -> str:
    """Return prose in which only what stands in backticks is code."""
    text = "".join(part if place % 2 else _SPECIAL.sub(r"\\\1", part) for place, part in enumerate(_CODE.split(prose)))
    if match := _BEGINS_A_BLOCK.match(text):
        return f"{match[1]}\\{text[match.end(1) :]}" if match[1] else f"\\{text}"
    return text


def _blocks(text: str) -> Iterator[list[str]]:
    """Yield the lines of each block: what empty lines part, and a session or a list from the prose right before it."""
    block: list[str] = []
    for line in text.split("\n"):
        begins = line.startswith(">>>") and not (block and block[0].startswith(">>>"))
        begins = begins or bool(_ITEM.match(line) and block and not _ITEM.match(block[0]))
        if block and (begins or not line.strip()):
            yield block
            block = []
        if line.strip():
            block.append(line)
    if block:
        yield block


def _block(lines: list[str]) -> str:
    if lines[0].startswith(">>>"):
        return _fenced(lines, "pycon")
    if lines[0].startswith("|"):
        return "\n".join(_table_row(line) for line in lines)
    if lines[0].startswith("    "):
        return _fenced(inspect.cleandoc("\n".join(["", *lines])).split("\n"), "text")
    if _ITEM.match(lines[0]):
        return "\n".join(_items(lines))
    return escaped(" ".join(line.strip() for line in lines))


def _fenced(lines: list[str], language: str) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _table_row(line: str) -> str:
    cells = line.strip().strip("|").split("|")
    if all(set(cell.strip()) <= set("-:") for cell in cells):
        return line.strip()
    return "| " + " | ".join(escaped(cell.strip()) for cell in cells) + " |"


def _items(lines: list[str]) -> Iterator[str]:
    item: list[str] = []
    for line in lines:
        if (match := _ITEM.match(line)) and item:
            yield f"- {escaped(' '.join(item))}"
            item = []
        item.append(match[1] if match else line.strip())
    yield f"- {escaped(' '.join(item))}"
