"""What prose is held to: numbers that code has, links that lead somewhere, names that the library has."""

import re
from importlib import import_module
from pathlib import Path

_NOT_PROSE = re.compile(r"```.*?^ *```|\$\$.*?\$\$|<!--.*?-->", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`[^`\n]+`|(?<!\\)\$[^$]+\$|\]\([^)]*\)|https?://\S+")
_NUMBER = re.compile(r"(?<![\w.,\-])\d[\d,]*(?:\.\d+)?(?![\w]*[A-Za-z_])")
_PUBLISHED = re.compile(r"\b(?:19|20)\d\d\b|\b\d{4}\.\d{4,5}\b")  # years and numbers of arXiv
_IN_CODE = re.compile(r"\d[\d,_]*(?:\.\d+)?")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_NAME = re.compile(r"`(cutaway(?:\.\w+)+)")
_LEAST = 13  # smaller integers count things that the reader sees


def unchecked_numbers(prose: str, code: str) -> list[str]:
    """Return the decimal numbers, percentages and integers above 12 in prose that do not occur in code or its output."""
    known = {_value(number) for number in _IN_CODE.findall(code)}
    text = _PUBLISHED.sub(" ", _INLINE.sub(" ", _NOT_PROSE.sub(" ", prose)))
    return [
        found[0]
        for found in _NUMBER.finditer(text)
        if _is_measured(found[0], text[found.end() :])
        and _value(found[0]) not in known
        and _share(found[0], text[found.end() :]) not in known
    ]


def _is_measured(number: str, after: str) -> bool:
    return "." in number or after.lstrip().startswith("%") or _value(number) >= _LEAST


def _value(number: str) -> float:
    return float(number.replace(",", "").replace("_", ""))


def _share(number: str, after: str) -> float:
    """Return the number, or where a per cent sign follows the share that code has."""
    return round(_value(number) / 100, 6) if after.lstrip().startswith("%") else _value(number)


def dead_links(text: str, folder: Path) -> list[str]:
    """Return the targets of relative links that are no file."""
    targets = [target.split("#")[0] for target in _LINK.findall(_NOT_PROSE.sub(" ", text)) if not re.match(r"[a-z]+:", target)]
    return [target for target in targets if target and not (folder / target).exists()]


def unknown_names(text: str) -> list[str]:
    """Return the dotted names in backticks that begin with `cutaway.` and are nothing in the library."""
    return [name for name in _NAME.findall(text) if not _is_there(name)]


def _is_there(name: str) -> bool:
    parts = name.split(".")
    for n_parts in range(len(parts), 0, -1):
        try:
            thing = import_module(".".join(parts[:n_parts]))
        except ModuleNotFoundError:
            continue
        for part in parts[n_parts:]:
            if not hasattr(thing, part):
                return False
            thing = getattr(thing, part)
        return True
    return False
