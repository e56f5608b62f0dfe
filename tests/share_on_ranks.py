"""Evaluate, store and sweep into a folder, alone or as one process of several: run by test_ranks.py.

With a second argument, `evaluation` or `store`, the last process ends by SIGKILL in the midst of that. With `different` it asks for a
sweep in another order than the others; with `once` only the first asks for one.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from cutaway import ModelConfig, Transformer, edits, evaluation, metrics, shared_work, store, sweep
from cutaway.language_model import LanguageModel
from cutaway.tokenizers import CharTokenizer
from tiny_training import WORDS

TEXT = " ".join(WORDS * 6)
N_VARIANTS = 7  # a number that two and three processes do not share evenly


def model():
    tokenizer = CharTokenizer.fit(TEXT)
    shape = ModelConfig(d_vocab=tokenizer.d_vocab, n_ctx=16, n_layers=2, n_heads=4, d_model=16)
    generator = torch.Generator().manual_seed(0)
    return LanguageModel(Transformer(shape, generator=generator).double().eval(), tokenizer)


def killer(ranks, after):
    """Return a progress that ends the last process after so much."""

    def progress(n_done, n_total):
        assert n_done <= n_total
        if ranks.rank.index == ranks.n - 1 and n_done >= after:
            os.kill(os.getpid(), signal.SIGKILL)

    return progress


def ask_otherwise(how):
    lm = model()
    with shared_work("cpu") as ranks:
        order = range(4) if ranks.is_first or how == "once" else range(3, -1, -1)
        if ranks.is_first or how == "different":
            variants = [[edits.zero("blocks.0.attn.z", head=head)] for head in order]
            sweep(lm.model, lm.tokens(TEXT[:12]), variants, metrics.log_prob(3))


def work(folder, killed_in=""):
    lm = model()
    with shared_work("cpu") as ranks:
        kills = {killed_in: killer(ranks, after=60 if killed_in == "evaluation" else len(TEXT) - 100)}
        found = evaluation.perplexity(lm, TEXT, stride=4, partial=folder / "partial", report=kills.get("evaluation"))
        kept = store.collect(lm, TEXT, "blocks.*.resid_post", folder / "store", ctx=8, shard_gib=2e-5, progress=kills.get("store"))
        variants = [[edits.zero("blocks.0.attn.z", head=number % 4, pos=number)] for number in range(N_VARIANTS)]
        scores = sweep(lm.model, lm.tokens(TEXT[:12]), variants, metrics.log_prob(3), verify=2, tell=print)
        few = sweep(lm.model, lm.tokens(TEXT[:12]), variants[:1], metrics.log_prob(3))
        kept.verify()
        with shared_work("cpu") as same:  # within another it is that
            assert same is ranks
        if ranks.is_first:
            values = {"evaluation": found.to_dict(), "scores": scores.tolist(), "few": few.tolist(), "tokens": kept.n_tokens}
            (folder / "found.json").write_text(json.dumps(values))


if __name__ == "__main__":
    if sys.argv[2:] in (["different"], ["once"]):
        ask_otherwise(sys.argv[2])
    else:
        work(Path(sys.argv[1]), *sys.argv[2:])
