"""Small models that come with the package: each a folder with its weights and a card that says how it was made."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from cutaway.values import read_object

__all__ = ["SHIPPED", "shipped_card", "shipped_example", "shipped_language_models", "shipped_models", "shipped_toys"]

SHIPPED = Path(str(files("cutaway.assets") / "shipped_models"))
"""Where they lie."""


@cache
def shipped_models() -> dict[str, Path]:
    """Return the folder of each by its name, in the order of the names."""
    return {card.parent.name: card.parent for card in sorted(SHIPPED.glob("*/card.json"))}


def shipped_language_models() -> dict[str, Path]:
    """Return those that have a tokenizer, which `cutaway.load` opens."""
    return {name: folder for name, folder in shipped_models().items() if (folder / "tokenizer.json").is_file()}


def shipped_toys() -> dict[str, Path]:
    """Return those that are toy models of superposition, which read no text."""
    language_models = shipped_language_models()
    return {name: folder for name, folder in shipped_models().items() if name not in language_models}


def shipped_card(name: str) -> dict[str, Any]:
    """Return how a model that comes with the package was made: experiment, command, seed, settings, metrics, hash of its weights."""
    return read_object(shipped_models()[name] / "card.json")


def shipped_example(name: str | None) -> dict[str, Any]:
    """Return a `prompt` that a model that comes with the package goes on from, and `max_new_tokens`; nothing for other models."""
    example: dict[str, Any] = shipped_card(name).get("example", {}) if name in shipped_models() else {}
    return example
