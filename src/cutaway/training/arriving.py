"""Token shards of documents while a run learns from them: those that are missing are made by a process beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from cutaway.assets import HUB_DOCUMENTS
from cutaway.data import DocumentShards, ShardsError, View, kept_in
from cutaway.data.document_writing import is_being_written
from cutaway.data.shard_loader import wait_for_pair
from cutaway.data.writer_process import running_writer
from cutaway.tokenizers import NAMED_TOKENIZERS
from cutaway.training.config import TrainConfig

__all__ = ["arriving_shards", "shards_folder", "view_of"]

_SPARE = 1.1
"""How much more is made than a run reads: documents fall to validation by chance."""
_SPARE_TOKENS = 10_000_000


def shards_folder(config: TrainConfig) -> Path | None:
    """Return the folder of the shards that a run learns from, there or not, and None for a run that learns from a text.

    Raises ValueError for a tokenizer that named documents cannot be encoded by.
    """
    if config.data not in HUB_DOCUMENTS:
        return Path(config.data) if config.data and DocumentShards.are_in(config.data) else None
    if config.tokenizer not in NAMED_TOKENIZERS and not Path(config.tokenizer).is_file():
        raise ValueError(f"tokenizer is {config.tokenizer!r}; {config.data} is encoded by gpt2, cl100k, or a tokenizer.json")
    return kept_in(config.data, config.tokenizer)


def view_of(config: TrainConfig) -> View:
    """Return what a run sees of the shards: of named documents those within its cap, whatever else other runs have made."""
    return partial(DocumentShards.within, cap_bytes=config.cap_bytes) if config.data in HUB_DOCUMENTS else _all


def _all(shards: DocumentShards) -> DocumentShards:
    return shards


@contextmanager
def arriving_shards(config: TrainConfig) -> Iterator[DocumentShards | None]:
    """Give the shards that a run learns from as soon as the first is there, and have the others made meanwhile; None for a text.

    The process that makes them makes as many as the run reads, and ends with it. Raises what that process ended with, and
    ShardsError for shards that nobody writes.
    """
    folder, view = shards_folder(config), view_of(config)
    if folder is None:
        yield None
        return
    if config.data not in HUB_DOCUMENTS:
        yield wait_for_pair(folder, view=view, is_coming=partial(is_being_written, folder))
        return
    n_read = config.n_steps * config.n_tokens_per_step / (1 - config.validation_fraction)
    limits = {"n_tokens": int(_SPARE * n_read) + _SPARE_TOKENS, "cap_bytes": config.cap_bytes}
    if DocumentShards.are_in(folder) and DocumentShards.open(folder).has_all_of(limits):
        yield view(DocumentShards.open(folder))
        return
    with running_writer(config.data, folder, config.tokenizer, **limits) as writer:
        try:
            yield wait_for_pair(folder, view=view, is_coming=lambda: writer.is_running or is_being_written(folder))
        except ShardsError as error:
            raise (writer.failure() or error) from None
