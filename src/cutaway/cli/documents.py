"""`cutaway download` for documents: token shards of what a hub or a folder has, as many as are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from cutaway.cli.errors import UsageError, report_warning
from cutaway.report import format_bytes, parse_bytes, parse_count, print_json, print_sentence, stdout_console
from cutaway.report.counting import count_progress
from cutaway.report.numbers import counted
from cutaway.runtime import did_you_mean

if TYPE_CHECKING:
    from cutaway.tokenizers import Tokenizer

__all__ = ["DocumentOptions", "named_documents", "download_documents", "shards_named", "verify_shards"]

_FEW_TOKENS = "50M"
"""What of a hub's documents is taken where nobody says how many: a few minutes' work, and no surprise on the disk."""


@dataclass(frozen=True, kw_only=True)
class DocumentOptions:
    """What a person says of the shards that are to be made of documents."""

    tokens: str | None
    cap: str | None
    tokenizer: str | None
    out: Path | None

    def refuse(self) -> None:
        """Raise UsageError for one that was given where there are no documents."""
        if given := next((name for name, value in vars(self).items() if value is not None), None):
            raise UsageError(f"--{given} is of documents: name fineweb-edu, or give --documents PATH")


def named_documents(names: Sequence[str]) -> str | None:
    """Return which of the names is one of documents; raises UsageError where others stand beside it, or it is misspelt."""
    from cutaway.assets import CATALOGUE, HUB_DOCUMENTS

    for name in names:
        if name not in {*CATALOGUE, *HUB_DOCUMENTS} and (meant := did_you_mean(name, HUB_DOCUMENTS)):
            raise UsageError(f"{name!r} is no asset; {meant}".rstrip())
    found = [name for name in names if name in HUB_DOCUMENTS]
    if found and len(names) > 1:
        raise UsageError(f"{found[0]} is many documents, made token shards: download it by itself")
    return found[0] if found else None


def download_documents(source: str, wanted: DocumentOptions, *, json: bool) -> None:
    """Make the token shards that are asked for, and say where they are."""
    from cutaway.assets import HUB_DOCUMENTS
    from cutaway.data import kept_in, obtain_shards
    from cutaway.tokenizers import load_tokenizer

    tokens, name = wanted.tokens, wanted.tokenizer or "gpt2"
    if source not in HUB_DOCUMENTS and wanted.out is None:
        raise UsageError("--documents needs --out FOLDER, where the shards go")
    if source in HUB_DOCUMENTS and tokens is None and wanted.cap is None:
        tokens = _FEW_TOKENS
    n_tokens = None if tokens is None else parse_count(tokens)
    cap_bytes = None if wanted.cap is None else parse_bytes(wanted.cap)
    folder = wanted.out or kept_in(source, name)
    limits = {"n_tokens": n_tokens, "cap_bytes": cap_bytes}
    try:
        with count_progress("tokens") as progress:
            shards = obtain_shards(source, folder, _separating(load_tokenizer(name)), **limits, progress=progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted: the shards that are whole stay in {folder}; the same command goes on") from None
    there = {
        "folder": str(folder),
        "documents": shards.n_documents(),
        "train_tokens": shards.n_tokens("train"),
        "validation_tokens": shards.n_tokens("validation"),
        "n_bytes": shards.n_bytes,
        "has_more": shards.state == "reached",
    }
    if json:
        return print_json(there)
    print(f"{counted(shards.n_documents(), 'document')} of {source}, {format_bytes(shards.n_bytes)} in {folder}")
    print(f"{there['train_tokens']:,} tokens to train on, {there['validation_tokens']:,} to validate")
    for side, what in (("train", "to train on"), ("validation", "to validate with")):
        if not there[f"{side}_tokens"]:
            report_warning(
                f"there is nothing {what}: a hash of its text says for which a document is, and these are few; give more"
            )
    if n_tokens is not None and shards.n_tokens() < n_tokens:
        why = "the source has no more" if shards.state == "exhausted" else "more would pass the cap"
        report_warning(f"these are fewer than the {n_tokens:,} tokens asked for: {why}")
    return None


def _separating(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer that can separate documents: one of byte pairs that could not has one id more, which is said."""
    from cutaway.tokenizers import END_OF_TEXT, BytePairTokenizer

    if tokenizer.eot is not None or not isinstance(tokenizer, BytePairTokenizer):
        return tokenizer
    said = f"the tokenizer has no {END_OF_TEXT} to separate documents: in the shards' own it has the id {tokenizer.d_vocab}"
    report_warning(said)
    return tokenizer.with_end_of_text()


def shards_named(names: Sequence[str], out: Path | None) -> Path | None:
    """Return the folder of shards that is meant by names, or by where they were to go; None where none is."""
    from cutaway.assets import HUB_DOCUMENTS
    from cutaway.data import DocumentShards, kept_in

    if out is not None:
        return out
    if len(names) == 1 and names[0] in HUB_DOCUMENTS:
        return kept_in(names[0], "gpt2")
    return Path(names[0]) if len(names) == 1 and DocumentShards.are_in(names[0]) else None


def verify_shards(folder: Path) -> None:
    """Read all shards in full; raises AssetError with a sentence for each that is not whole."""
    from cutaway.assets import AssetError
    from cutaway.data import DocumentShards

    shards = DocumentShards.open(folder)
    if problems := list(shards.verify()):
        raise AssetError("\n".join([*problems, "remove what is not whole; the command that made them makes it again"]))
    print_sentence(stdout_console(), Text(f"{folder}: {2 * len(shards.pairs)} shards, whole"))
