"""A sparse autoencoder of one layer of SmolLM2, trained from a stored corpus, beside one of the same model with its weights shuffled.

`python -m benchmarks.sae [--layer 9] [--corpus shakespeare] [--tokens 300000] [--steps 2000]`. Both are trained by one recipe on the
activations of the corpus's first nine tenths, stored once, and measured on its last tenth. Of each is printed: time, variance
unexplained beside that of as many principal components as there are latents a row, the losses and what is recovered of them, and the
share of 100 features, drawn at random from those that fire, that agree on a token. A feature agrees when at least 8 of its 10 strongest
contexts, one a window, have the same token at the peak, outer spaces and capitals aside; features that fire in fewer than 10 windows
are not among the 100. The shuffled model has the entries of each weight matrix permuted, so that every matrix keeps its values and
nothing else.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

import cutaway
from cutaway import sae
from cutaway.interp import store
from cutaway.language_model import LanguageModel
from cutaway.report.numbers import format_duration
from cutaway.runtime import seeded_generator

N_POS, N_FEATURES, N_CONTEXTS = 128, 100, 10


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sae", description=__doc__)
    parser.add_argument("--layer", type=int, default=9)
    parser.add_argument("--corpus", default="shakespeare")
    parser.add_argument("--tokens", type=int, default=300_000, help="of the corpus that are stored")
    parser.add_argument("--evaluated", type=int, default=8192, help="tokens on which both are measured")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--width", type=int, default=8, help="times as many latents as coordinates")
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--store", type=Path, help="where activations go; a temporary folder unless given")
    arguments = parser.parse_args()
    lm = cutaway.load("smollm2-135m", device="cpu")
    print(f"SmolLM2, layer {arguments.layer}, {arguments.corpus}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.store or Path(temporary)
        for name, each in {"trained": lm, "shuffled": LanguageModel(sae.shuffled_model(lm.model), lm.tokenizer)}.items():
            print(f"\n{name} weights", flush=True)
            run(each, folder / name, arguments)


def run(lm: LanguageModel, folder: Path, arguments: argparse.Namespace) -> None:
    """Store, train, and print what came of it."""
    started = time.perf_counter()
    name, d = f"blocks.{arguments.layer}.resid_post", lm.config.d_model
    learned, kept = (
        sae.read_windows(lm, arguments.corpus, n_pos=N_POS, n_tokens=n_tokens, held_out=held_out)
        for n_tokens, held_out in ((arguments.tokens, False), (arguments.evaluated, True))
    )
    stored = store.collect(lm, learned, name, folder, ctx=N_POS, skip_first=True)
    stored_s = time.perf_counter() - started
    data = sae.corpus_data(
        lm, arguments.corpus
    )  # the store has the first nine tenths alone, and so cannot say that a tenth was kept
    shape = sae.DictionaryConfig(kind="topk", d_in=d, d_sae=arguments.width * d, k=arguments.k, name=name, trained_on=data)
    recipe = {"n_steps": arguments.steps, "batch_size": arguments.batch_size, "learning_rate": arguments.learning_rate}
    dictionary, curve = sae.train(sae.SAEConfig(dictionary=shape, **recipe), stored[name])
    trained_s = time.perf_counter() - started
    print(f"  stored in {format_duration(stored_s)}, trained by {format_duration(trained_s)} (at most 15 min); {curve.summary()}")
    print(f"  {sae.evaluate(lm, dictionary, kept).summary()}")
    print(f"  {agreement(lm, dictionary, learned)}", flush=True)


def agreement(lm: LanguageModel, dictionary: sae.Dictionary, tokens: Tensor) -> str:
    """Return the share of features drawn at random, among those that fire in enough windows, that agree on a token."""
    found = sae.describe_features(lm, dictionary, tokens, n_features=4 * N_FEATURES, n_contexts=N_CONTEXTS)
    order = torch.randperm(len(found.features), generator=seeded_generator(0)).tolist()
    full = [found.features[place] for place in order if len(found.features[place].contexts) == N_CONTEXTS][:N_FEATURES]
    n_agreeing = sum(each.agreement >= sae.AGREES_FROM for each in full)
    words = " ".join(repr(each.token) for each in full if each.agreement >= sae.AGREES_FROM)
    return f"{n_agreeing} of {len(full)} features drawn agree on a token: {words}"


if __name__ == "__main__":
    main()
