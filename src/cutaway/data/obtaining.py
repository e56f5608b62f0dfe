"""Token shards of documents by name: where they are kept, and how they come to be there."""

from __future__ import annotations

from pathlib import Path

from cutaway import assets
from cutaway.data.document_shards import DocumentShards
from cutaway.data.document_sources import open_documents
from cutaway.data.document_writing import Progress, write_document_shards
from cutaway.tokenizers import NAMED_TOKENIZERS, Tokenizer, load_tokenizer, tokenizer_hash

__all__ = ["obtain_shards", "kept_in"]


def kept_in(source: str, tokenizer: str) -> Path:
    """Return the folder of the cache where shards of documents that have a name are kept; `tokenizer` is as `load_tokenizer` takes it.

    Raises as that does for a file, by whose content it is known.
    """
    name = tokenizer if tokenizer in NAMED_TOKENIZERS else f"{Path(tokenizer).stem}-{tokenizer_hash(load_tokenizer(tokenizer))[:8]}"
    return assets.cache_dir() / "shards" / f"{source}-{name}"


def obtain_shards(
    source: str,
    folder: str | Path,
    tokenizer: Tokenizer,
    *,
    n_tokens: int | None = None,
    cap_bytes: int | None = None,
    progress: Progress | None = None,
) -> DocumentShards:
    """Return the shards of documents, by path or name, that lie in a folder, after making those that are missing.

    As `write_document_shards`, which says what `n_tokens` and `cap_bytes` are. What a hub gives is of the commit that the folder was
    begun with, and the hub is not asked where all is there. Raises as that does, and AssetError where the hub does not answer.
    """
    begun = DocumentShards.open(folder) if DocumentShards.are_in(folder) else None
    revision = None
    if begun is not None and begun.name == source and source in assets.HUB_DOCUMENTS:
        is_same = begun.about["tokenizer"]["sha256"] == tokenizer_hash(tokenizer)
        if is_same and begun.has_all_of({"n_tokens": n_tokens, "cap_bytes": cap_bytes}):
            return begun
        revision = begun.about["source"]["revision"]
    documents = open_documents(source, revision=revision)
    return write_document_shards(documents, folder, tokenizer, n_tokens=n_tokens, cap_bytes=cap_bytes, progress=progress)
