"""Documents in Markdown as the site takes them: links led to its pages, pictures with texts, sessions of Python marked as such."""

from __future__ import annotations

import re
from collections.abc import Callable

from docs.site.places import DeadLinkError, Places

__all__ = ["MissingTextError", "adapt", "outside_code", "title_of"]

_CODE = re.compile(
    r"(?P<fence>^(?P<indent> {0,12})(?P<ticks>`{3,}|~{3,})[^\n]*\n.*?^ *(?P=ticks)[`~]*[ \t]*$)"
    r"|(?P<span>(?<!`)(?P<tick>`+)(?!`).+?(?<!`)(?P=tick)(?!`))"
    r"|(?P<block>\$\$.+?\$\$)|(?P<formula>(?<![\\$\w])\$[^$\n]+?(?<!\\)\$(?!\d))"
    r"|(?P<comment><!--.*?-->)",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(
    r"(?P<sign>!?)\[(?P<text>(?:\\.|!?\[[^\]]*\](?:\([^)]*\))?|[^\[\]\\])*)\]\((?P<target>[^()\s]+)(?P<title>\s+\"[^\"]*\")?\)"
)
_HTML = re.compile(r"<(?:img|a)\b[^>]*>", re.IGNORECASE)
_SESSION = re.compile(r"^( *`{3,})(?:python|py)([ \t]*\n\s*>>>)", re.MULTILINE)
_PAPER = re.compile(r"\barXiv (\d{4}\.\d{4,5})\b")
_TITLE = re.compile(r"^# +(.+?) *#*$", re.MULTILINE)


class MissingTextError(ValueError):
    """A picture says nothing to those who cannot see it."""


def adapt(text: str, page: str, places: Places) -> str:
    """Return a document of the repository as a document of the site.

    Raises DeadLinkError for a link or picture that points to nothing and MissingTextError for a picture without a text.
    """
    text = outside_code(text, lambda part: _links(part, page, places))
    return _SESSION.sub(r"\1pycon\2", text)


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Return a text with everything changed but code, formulas and comments."""
    held: list[str] = []

    def hold(match: re.Match[str]) -> str:
        held.append(match[0])
        return f"\0{len(held) - 1}\0"

    changed = change(_CODE.sub(hold, text))
    return re.sub(r"\0(\d+)\0", lambda match: held[int(match[1])], changed)


def title_of(text: str, default: str) -> str:
    """Return the first heading of a document as plain text."""
    found: list[str] = []
    outside_code(text, lambda part: found.extend(match[1] for match in _TITLE.finditer(part)) or part)
    return found[0] if found else default


def _links(text: str, page: str, places: Places) -> str:
    for tag in _HTML.findall(text):
        raise DeadLinkError(f"{page}: write {tag} as Markdown, so that the site can follow it")

    def lead(match: re.Match[str]) -> str:
        inner, target, title = match["text"], match["target"], match["title"] or ""
        if match["sign"]:
            if not inner.strip():
                raise MissingTextError(f"{page}: the picture {target} has no text for those who cannot see it")
            return f"![{inner}]({places.picture(page, target)}{title})"
        if "](" in inner:  # a picture that is a link
            inner = _links(inner, page, places)
        return f"[{inner}]({places.link(page, target)}{title})"

    return _PAPER.sub(r"[\g<0>](https://arxiv.org/abs/\1)", _LINK.sub(lead, text))
