"""The page of the diagrams, each with its title and its description."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from docs.site.docstrings import escaped
from docs.site.markdown import MissingTextError

__all__ = ["page"]

_SVG = "{http://www.w3.org/2000/svg}"
_ORDER = ("architecture", "forward_pass", "attention", "residual_stream", "kv_cache", "induction_circuit", "causal_cone")


def page(folder: Path) -> str:
    """Return the page as a document of that folder's own, or nothing where there are no diagrams.

    Raises MissingTextError for a diagram without a title or a description.
    """
    paths = sorted(
        folder.glob("*.svg"), key=lambda path: (_ORDER.index(path.stem) if path.stem in _ORDER else len(_ORDER), path.stem)
    )
    if not paths:
        return ""
    parts = [
        "# Diagrams",
        "Names and shapes in them are the code's own. Each is a picture of one TikZ source, to be had beside it.",
    ]
    for path in paths:
        title, description = _texts(path)
        source = f"[source]({path.stem}.tex)" if path.with_suffix(".tex").is_file() else ""
        parts += [f"## {escaped(title)}", f"![{escaped(description)}]({path.name})", source]
    return "\n\n".join(part for part in parts if part) + "\n"


def _texts(path: Path) -> tuple[str, str]:
    root = ElementTree.parse(path).getroot()
    title, description = (
        " ".join("".join(each.itertext()).split()) if (each := root.find(f"{_SVG}{tag}")) is not None else ""
        for tag in ("title", "desc")
    )
    if not (title and description):
        raise MissingTextError(f"{path.name} lacks a title or a description for those who cannot see it")
    return title, description
