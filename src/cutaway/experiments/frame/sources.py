"""The code that an experiment's numbers were made by, as a hash."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cutaway.experiments.frame.experiment import Experiment

__all__ = ["sources_sha256"]

_PACKAGE = Path(__file__).parents[1]
_BEGINNING = "cutaway.experiments."
_TRAINING = ("learning.py", "trial.py")
"""The files of the frame that weights and random numbers come from."""


def sources_sha256(experiment: Experiment[Any]) -> str | None:
    """Return one hash of an experiment's module, of the modules of `cutaway.experiments` that it imports, and of the training loop.

    What else of cutaway they use is told by the version and the commit that stand beside the hash.

    None for an experiment that was typed in and has no file, of which nobody knows whether it changed.
    """
    first = getattr(sys.modules.get(experiment.run.__module__), "__file__", None)
    if first is None:
        return None
    found: dict[Path, bytes] = {}
    waiting = [Path(first), *(_PACKAGE / "frame" / name for name in _TRAINING)]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found[file] = file.read_bytes()
            waiting += _imported(found[file])
    named = sorted((file.name, hashlib.sha256(content).hexdigest()) for file, content in found.items())
    return hashlib.sha256(repr(named).encode()).hexdigest()


def _imported(source: bytes) -> Iterator[Path]:
    """Yield the files of this package that a file imports anywhere."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.removeprefix(_BEGINNING).split(".")
            if name.startswith(_BEGINNING) and parts[0] != "frame":
                path = _PACKAGE.joinpath(*parts)
                yield from (each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file())
