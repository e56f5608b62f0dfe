"""Dictionaries of features that are known: how well each kind finds 256 directions in 64 coordinates.

`python -m benchmarks.known_features [--seed 0]`. Each row of activations is a sum of features, each there with probability .0117, 3 in
the mean, at a size drawn from .5 to 1.5. All kinds have 256 latents and the experiment's recipes; beside them stand random directions.
Printed are the mean over true features of the best cosine with a decoder row, the share of features found to .9 and better, latents a
row (3 is right), dead latents, and the variance unexplained, on rows that were not trained on. About 2 minutes on one thread.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch

from cutaway import sae
from cutaway.experiments.sae_known_features import Config, recipes
from cutaway.runtime import seeded_generator

N_FEATURES, D, PROBABILITY = 256, 64, 0.0117
N_ROWS = 20_000  # on which dictionaries are measured
KINDS: tuple[sae.Kind, ...] = ("topk", "batchtopk", "jumprelu", "relu")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.known_features", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    known = sae.SyntheticFeatures.random(N_FEATURES, D, probability=PROBABILITY, seed=seed + 1)
    rows = known.draw(N_ROWS, seeded_generator(seed + 1000))
    print(f"{'kind':10}  cosine  found  latents  dead  unexplained  time")
    for kind in KINDS:
        started = time.perf_counter()
        found, _ = sae.train(recipe(kind, seed), known)
        print(line_of(kind, known, found, rows, time.perf_counter() - started), flush=True)
    chance = sae.best_cosines(known.directions, sae.random_dictionary(N_FEATURES, D, seed=seed))
    print(f"{'random':10}  {chance.mean():6.3f}  {(chance >= 0.9).float().mean():5.2f}")


def recipe(kind: sae.Kind, seed: int) -> sae.SAEConfig:
    """Return how a kind is trained: the experiment's middle recipe; batchtopk is trained as topk is, for twice as long."""
    if kind == "batchtopk":
        of_topk = recipe("topk", seed)
        return replace(of_topk, dictionary=replace(of_topk.dictionary, kind=kind), n_steps=2 * of_topk.n_steps)
    return list(recipes(Config(n_features=N_FEATURES, d=D), kind, seed=seed).values())[1]


@torch.no_grad()
def line_of(kind: str, known: sae.SyntheticFeatures, found: sae.Dictionary, rows: torch.Tensor, time_s: float) -> str:
    """Return what a dictionary found, in a line."""
    cosines = sae.best_cosines(known.directions, found.W_dec)
    latents = found.encode(rows)
    unexplained = (rows - found.decode(latents)).square().sum() / (rows - rows.mean(0)).square().sum()
    fires = latents > 0
    return (
        f"{kind:10}  {cosines.mean():6.3f}  {(cosines >= 0.9).float().mean():5.2f}  {fires.sum(1).float().mean():7.2f}  "
        f"{100 * (~fires.any(0)).float().mean():3.0f} %  {100 * unexplained:9.1f} %  {time_s:.0f} s"
    )


if __name__ == "__main__":
    main()
