"""The sources of docs/diagrams, what they draw, and what their comments say of it."""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[1] / "docs" / "diagrams"
NAMES = sorted(path.stem for path in FOLDER.glob("*.tex") if path.stem != "style")


def load_renderer() -> ModuleType:
    specification = importlib.util.spec_from_file_location("diagrams_render", FOLDER / "render.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


render = load_renderer()


def source(name: str) -> Path:
    return FOLDER / f"{name}.tex"


def listed(name: str, key: str) -> list[str]:
    """The names that the lines `% key: a, b` of a source list."""
    return [each.strip() for line in render.comments(source(name), key) for each in line.split(",")]


def pairs(name: str, key: str) -> list[tuple[str, str]]:
    """What the lines `% key: left = right` of a source say."""
    return [(left, right) for line in render.comments(source(name), key) for left, right in [line.split(" = ", 1)]]


def drawn_text(name: str) -> str:
    """What a source draws, without its comments, and without the backslash that TeX wants before an underscore."""
    lines = source(name).read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("%")).replace("\\_", "_")
