"""Patching sweeps beyond those of `cutaway bench sweep`: exactness in float64, and a model with weights that mean something.

GPT-2 small's shape with random weights in float64, beside TransformerLens where a Python that has it is given, or else whole runs.
SmolLM2, 16 tokens: every head at all positions, and at the last alone, beside one whole forward pass for each cell.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import torch

import cutaway
from cutaway import edits, run_with_cache
from cutaway.profiles import Bench, Comparison, Request, compare_sweep, compare_sweeps, open_peers
from cutaway.runtime import seeded_generator


def show(found: Iterable[Comparison]) -> None:
    """Print what took how long, and how far numbers are apart."""
    for each in found:
        print(f"{each.case}: {each.limit}")
        for name, time_s in each.times_s.items():
            apart = f"   {each.agreement[name]:.1e} apart, of the largest logit" if name in each.agreement else ""
            print(f"  {name:20} {time_s:6.2f} s   {time_s / each.best_s:5.1f} x{apart}")


def smollm2(bench: Bench) -> list[Comparison]:
    """SmolLM2: every head at all positions, and at the last alone, between two prompts of 16 tokens."""
    lm = cutaway.load("smollm2-135m", device=str(bench.device))
    tokens = lm.tokens("When Mary and John went to the store, John gave a drink to Mary")[:, :16].to(bench.device)
    corrupted = torch.randint(1000, 40_000, tokens.shape, generator=seeded_generator(0)).to(bench.device)
    _, cache = run_with_cache(lm.model, corrupted, "blocks.*.attn.z")
    heads = [(layer, head) for layer in range(lm.config.n_layers) for head in range(lm.config.n_heads)]
    return [
        compare_sweep(
            bench,
            f"SmolLM2, every head at {where}",
            lm.model,
            tokens,
            [[edits.patch(f"blocks.{layer}.attn.z", cache, head=head, pos=pos)] for layer, head in heads],
        )
        for where, pos in (("all positions", None), ("the last position", -1))
    ]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transformer-lens", type=Path, metavar="PYTHON", help="a Python that has TransformerLens 2.18")
    with open_peers(transformer_lens=parser.parse_args().transformer_lens) as peers:
        show(compare_sweeps(Bench(peers=peers, n_rounds=1), Request(dtype=torch.float64)))
    show(smollm2(Bench()))


if __name__ == "__main__":
    main()
