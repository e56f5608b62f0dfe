"""Reading back what `Tokenizer.save` wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cutaway.tokenizers.absent import NoTokenizer
from cutaway.tokenizers.base import Tokenizer
from cutaway.tokenizers.bpe import BPETokenizer
from cutaway.tokenizers.byte_pair import BytePairTokenizer
from cutaway.tokenizers.char import CharTokenizer
from cutaway.tokenizers.word import WordTokenizer
from cutaway.values import read_object

__all__ = ["NAMED_TOKENIZERS", "load_tokenizer"]

_KINDS: dict[str, type[Tokenizer]] = {
    each.kind: each for each in (CharTokenizer, WordTokenizer, BPETokenizer, BytePairTokenizer, NoTokenizer)
}


_NAMED = {"gpt2": BytePairTokenizer.gpt2, "cl100k": BytePairTokenizer.cl100k}
NAMED_TOKENIZERS = tuple(_NAMED)
"""The tokenizers that have a name."""


def load_tokenizer(source: str | Path | Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer of a name (gpt2, cl100k), of a JSON file, or of a state as `state_dict` gives it.

    Raises FileNotFoundError when there is no such file, ValueError when it holds no tokenizer of cutaway's, and AssetError when a
    named one cannot be fetched.
    """
    if isinstance(source, str) and source in _NAMED:
        return _NAMED[source]()
    if isinstance(source, str) and not Path(source).exists() and Path(source).name == source and not Path(source).suffix:
        raise ValueError(f"there is no tokenizer {source!r}; give {', '.join(_NAMED)}, or a tokenizer.json")
    if isinstance(source, Mapping):
        name, state = "the state", source
    else:
        name, state = str(source), read_object(Path(source))
    kind = state.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"{name} is of kind {kind!r}; expected a tokenizer saved by cutaway, of kind {', '.join(_KINDS)}")
    try:
        return _KINDS[kind].from_state_dict(state)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{name} is no whole {kind} tokenizer ({type(error).__name__}: {error}); save it again") from error
