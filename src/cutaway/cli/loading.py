"""A language model as the command line names it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cutaway.language_model import LanguageModel

__all__ = ["load_named"]


def load_named(
    source: str, *, tokenizer: str | None = None, config: Path | None = None, device: str | None = None
) -> LanguageModel:
    """Load what `cutaway.load` takes; `tokenizer` is a name or a file, `config` the file of a shape, for what came without."""
    from cutaway.language_model import load
    from cutaway.tokenizers import load_tokenizer
    from cutaway.weights import read_config

    given = None if tokenizer is None else load_tokenizer(tokenizer)
    return load(source, config=None if config is None else read_config(config), tokenizer=given, device=device)
