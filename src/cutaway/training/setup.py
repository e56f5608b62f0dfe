"""From a configuration to everything a run starts with: tokenizer, tokens, folder, manifest."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import count
from pathlib import Path

import torch

from cutaway.data import (
    Corpus,
    DocumentShards,
    Loader,
    ShardLoader,
    TokenArray,
    read_corpus,
    split_tokens,
    tokenize_corpus,
)
from cutaway.language_model import check_memory
from cutaway.runs import Run, is_run, runs_root
from cutaway.runtime import alone_in, atomic_write, describe_device, did_you_mean, pick_device, remove_path, this_rank
from cutaway.tokenizers import (
    NAMED_TOKENIZERS,
    BPETokenizer,
    BytePairTokenizer,
    CharTokenizer,
    Tokenizer,
    load_tokenizer,
    tokenizer_hash,
)
from cutaway.training.arriving import view_of
from cutaway.training.config import TrainConfig
from cutaway.weights import ModelSource, open_model, read_config

__all__ = ["Materials", "make_tokenizer", "prepare", "TRAINING_IN", "claimed_folder", "write_run", "write_config"]

TRAINING_IN = "is training in"
"""What a process does in the folder of its run."""
_BEGINNINGS = {"tokenizer.json", "manifest.json", "chat_template.jinja"}
"""What lies in the folder of a run that was stopped before `config.json`, which is written last."""


@dataclass(frozen=True)
class Materials:
    """What a run is made from; `config.model` has the tokenizer's vocabulary."""

    config: TrainConfig
    corpus: Corpus | DocumentShards
    tokenizer: Tokenizer
    train_tokens: TokenArray | DocumentShards
    """All ids of a text, or shards of documents, to which more may still come."""
    validation_tokens: TokenArray
    source: ModelSource | None = None
    """The model to go on from, where this is the beginning of a run that has one."""

    @property
    def prompt(self) -> str:
        """What samples go on from: a new line, or the first character of a text that has none."""
        if isinstance(self.corpus, DocumentShards) or "\n" in self.corpus.text:
            return "\n"
        return self.corpus.text[0]

    @property
    def n_train_tokens(self) -> int:
        """How many tokens there are to train on, of shards so far."""
        there = self.train_tokens
        return there.n_tokens("train") if isinstance(there, DocumentShards) else len(there)

    def loader(self, rows: slice = slice(None)) -> Loader | ShardLoader:
        """Return what draws the batches, or these rows of each."""
        there, config = self.train_tokens, self.config
        if isinstance(there, DocumentShards):
            return ShardLoader(
                there, batch_size=config.batch_size, n_ctx=config.window, seed=config.seed, rows=rows, view=view_of(config)
            )
        return Loader(there, batch_size=config.batch_size, n_ctx=config.window, seed=config.seed, rows=rows)


def prepare(config: TrainConfig, *, tokenizer: Tokenizer | None = None, shards: DocumentShards | None = None) -> Materials:
    """Read the text, make or load the tokenizer, encode and split; raises ValueError for a text too short to use.

    Where the data are documents their `shards` are given, and the first of those to validate with is validated with. A run that goes
    on gives the `tokenizer` that it has, and then its model has its shape too.
    """
    corpus, source = shards or read_corpus(config.data), None
    if tokenizer is None and config.from_model is not None:
        shape = None if config.from_config is None else read_config(Path(config.from_config))
        source = open_model(config.from_model, config=shape)
        tokenizer = _tokenizer_of(source, config, corpus)
        window = None if config.n_window is None else min(config.n_window, source.config.n_ctx)
        config = config.replace(model=source.config.replace(dropout=config.model.dropout), n_window=window)
    elif tokenizer is None:
        tokenizer = make_tokenizer(config.tokenizer, corpus)
        config = config.replace(model=config.model.replace(d_vocab=tokenizer.d_vocab))
    _check_memory(config, "the model" if source is None else str(source.path))
    train_tokens, validation_tokens = _tokens_of(corpus, tokenizer, config)
    made = Materials(config, corpus, tokenizer, train_tokens, validation_tokens, source)
    n_least = config.window + 1
    if min(made.n_train_tokens, len(validation_tokens)) < n_least:
        raise ValueError(
            f"{config.data} gives {made.n_train_tokens} tokens to train on and {len(validation_tokens)} to validate; "
            f"each needs at least {n_least} (a window of {config.window} and one): give more text or a smaller window"
        )
    return made


def _tokens_of(
    corpus: Corpus | DocumentShards, tokenizer: Tokenizer, config: TrainConfig
) -> tuple[TokenArray | DocumentShards, TokenArray]:
    """Return what to train on and what to validate with; raises ValueError for shards that were made otherwise than is asked."""
    if isinstance(corpus, Corpus):
        return split_tokens(tokenize_corpus(corpus, tokenizer), validation_fraction=config.validation_fraction)
    if tokenizer_hash(tokenizer) != corpus.about["tokenizer"]["sha256"]:
        raise ValueError(
            f"{corpus.folder} was encoded by another tokenizer than {config.tokenizer}, which the run has: give "
            f"--tokenizer {corpus.folder / 'tokenizer.json'}, or make shards with the run's"
        )
    if corpus.about["validation_fraction"] != config.validation_fraction:
        raise ValueError(
            f"validation_fraction is {config.validation_fraction:g}, and of {corpus.folder} "
            f"{corpus.about['validation_fraction']:g} is kept for validation: give that"
        )
    return corpus, corpus.read("validation", 0)


def _check_memory(config: TrainConfig, name: str) -> None:
    """Raise ValueError, before any is taken, for more memory than is free: what must be held at once, whatever is compiled.

    Processes on the CPU of one machine take theirs of the same memory.
    """
    device, rank = pick_device(config.device), this_rank()
    n_sharing = rank.n_local if device.type == "cpu" else 1
    n_logits = config.batch_size * n_sharing // rank.n_ranks * config.window * config.model.d_vocab_out
    what = "weights, gradients, AdamW's two averages and the logits of a batch"
    is_shared_out = rank.n_ranks > 1 and config.parallel == "fsdp2"
    n_copies = -(-4 * n_sharing // rank.n_ranks) if is_shared_out else 4 * n_sharing
    check_memory(
        config.model, device, name=name, n_copies=n_copies, n_more_bytes=2 * 2 * n_logits, what=what
    )  # in 16 bits at least


def _tokenizer_of(source: ModelSource, config: TrainConfig, corpus: Corpus | DocumentShards) -> Tokenizer:
    """Return the tokenizer that a model to go on from reads; raises ValueError where it has none, or not room for the one given."""
    tokenizer = source.tokenizer() if config.tokenizer == "own" else make_tokenizer(config.tokenizer, corpus)
    if tokenizer is None:
        raise ValueError(f"{source.path} came without a tokenizer: give the one that it was trained with, as --tokenizer gpt2")
    if tokenizer.d_vocab > source.config.d_vocab:
        raise ValueError(f"the tokenizer has {tokenizer.d_vocab} tokens and {source.path} d_vocab {source.config.d_vocab}")
    return tokenizer


def make_tokenizer(name: str, corpus: Corpus | DocumentShards) -> Tokenizer:
    """Return the tokenizer that `TrainConfig.tokenizer` names; raises ValueError for one that is not known."""
    if isinstance(corpus, DocumentShards) and (name == "char" or name.startswith("bpe-")):
        raise ValueError(
            f"tokenizer is {name!r}, which is made of a text, and {corpus.folder} holds tokens: give {corpus.folder}/tokenizer.json"
        )
    if isinstance(corpus, DocumentShards):
        return load_tokenizer(name)
    if name == "char":
        return CharTokenizer.fit(corpus.text)
    if name.startswith("bpe-") and name.removeprefix("bpe-").isdecimal():
        bpe = BPETokenizer.train(corpus.text, d_vocab=int(name.removeprefix("bpe-")))
        return BytePairTokenizer.from_bpe(bpe)
    if name in NAMED_TOKENIZERS or Path(name).is_file():
        return load_tokenizer(name)
    meant = did_you_mean(name, ("char", "bpe-4096", "gpt2", "cl100k"))
    raise ValueError(
        f"there is no tokenizer {name!r}; {meant}expected char, bpe-4096 (or another size), gpt2, cl100k, or a tokenizer.json"
    )


@contextmanager
def claimed_folder(name: str, out: str | None) -> Iterator[Path]:
    """Give the folder of a new run, `out` or the first free of runs/NAME, runs/NAME-2, ..., made here and so no one else's.

    If what is done with it fails before there is a checkpoint, what was written is removed, and a folder then empty. Raises ValueError
    when `out` is a file, or holds a run already or what is not a run's.
    """
    folder = _make_first_free(name) if out is None else Path(out)
    if is_run(folder):
        raise ValueError(f"{folder} holds a run already: go on with it by --resume {folder}, or give another --out")
    if folder.is_file():
        raise ValueError(f"{folder} is a file; expected a folder for the run")
    folder.mkdir(parents=True, exist_ok=True)
    if others := sorted(path.name for path in folder.iterdir() if path.name not in _BEGINNINGS and path.name[0] != "."):
        raise ValueError(f"{folder} holds {others[0]} and is no run: give a new or an empty folder with --out")
    found = set(folder.iterdir())
    with alone_in(folder, TRAINING_IN):
        try:
            yield folder
        except BaseException:
            if not (is_run(folder) and Run(folder).latest_checkpoint()):
                _remove_all(folder, but=found)
            raise


def _remove_all(folder: Path, *, but: Collection[Path]) -> None:
    for path in set(folder.iterdir()) - set(but):
        remove_path(path)
    with suppress(OSError):  # it holds what was there before
        folder.rmdir()


def _make_first_free(name: str) -> Path:
    runs_root().mkdir(parents=True, exist_ok=True)
    for number in count(1):
        folder = runs_root() / (f"{name}-{number}" if number > 1 else name)
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError("numbers do not end")


def write_run(folder: Path, materials: Materials, device: torch.device) -> None:
    """Write what a run is into its folder: configuration, tokenizer, and a manifest of where all of it came from."""
    config, corpus, tokenizer = materials.config, materials.corpus, materials.tokenizer
    manifest = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": sys.argv,
        "seed": config.seed,
        "device": describe_device(device),
        "n_threads": torch.get_num_threads(),
        "n_processes": this_rank().n_ranks,
        "versions": {"cutaway": version("cutaway"), "torch": torch.__version__, "python": platform.python_version()},
        "data": {
            "source": corpus.name,
            "sha256": corpus.sha256,
            "n_train_tokens": materials.n_train_tokens,
            "n_validation_tokens": len(materials.validation_tokens),
        },
        "tokenizer": {"kind": tokenizer.kind, "d_vocab": tokenizer.d_vocab, "sha256": tokenizer_hash(tokenizer)},
    }
    if source := materials.source:
        manifest["from_model"] = {"path": str(source.path.resolve()), "format": source.kind}
        if template := source.chat_template():
            atomic_write(folder / "chat_template.jinja", template)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder / "tokenizer.json")
    atomic_write(folder / "manifest.json", json.dumps(manifest, indent=2))
    write_config(folder, config)


def write_config(folder: Path, config: TrainConfig) -> None:
    """Write `config.json`, by which a folder is a run."""
    train = {name: value for name, value in config.to_dict().items() if name != "model"}
    atomic_write(folder / "config.json", json.dumps({"model": config.model.to_dict(), "train": train}, indent=2))
