"""Windows of a corpus: some to learn from, and some that nothing has learned from."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from cutaway.data import read_corpus, split_tokens, tokenize_corpus
from cutaway.interp.training_data import HELD_OUT, TrainingData
from cutaway.language_model import LanguageModel

__all__ = ["corpus_data", "read_windows"]


def read_windows(lm: LanguageModel, corpus: str, *, n_pos: int, n_tokens: int, held_out: bool) -> Int[Tensor, "window pos"]:
    """Return windows spread evenly over a corpus's first nine tenths, or over the last, which is held out from training.

    Raises ValueError for a corpus that has not one window.
    """
    n_pos = min(n_pos, lm.config.n_ctx)
    ids = split_tokens(tokenize_corpus(read_corpus(corpus), lm.tokenizer), validation_fraction=HELD_OUT)[held_out]
    n_windows = len(ids) // n_pos
    if not n_windows:
        raise ValueError(f"{corpus} has {len(ids)} tokens in this part, fewer than one window of {n_pos}: give a longer text")
    chosen = np.linspace(0, n_windows - 1, min(n_windows, max(1, n_tokens // n_pos))).astype(np.int64)
    windows = np.stack([ids[place * n_pos : (place + 1) * n_pos] for place in chosen]).astype(np.int64)
    return torch.from_numpy(windows).to(lm.model.embed.W_E.device)


def corpus_data(lm: LanguageModel, corpus: str) -> TrainingData:
    """Return what is learned from by who learns from `read_windows` of a corpus that are not held out."""
    ids = tokenize_corpus(read_corpus(corpus), lm.tokenizer)
    digest = hashlib.sha256(np.asarray(ids).astype("<i4").data).hexdigest()
    return TrainingData(
        source=corpus, n_tokens=len(ids), n_learned=len(split_tokens(ids, validation_fraction=HELD_OUT)[0]), sha256=digest
    )
