"""GPT-2 small, 4 x 64 tokens: our forward pass beside its bare matrix products and beside transformers', in turn."""

from __future__ import annotations

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from cutaway.config import ModelConfig
from cutaway.measure import matrix_products, measure_limits, seconds_in_turn
from cutaway.model import Transformer
from cutaway.runtime import seeded_generator

BATCH, N_POS = 4, 64


@torch.inference_mode()
def main() -> None:
    config = ModelConfig.preset("gpt2")
    ours = Transformer(config, generator=seeded_generator(0)).eval()
    theirs = GPT2LMHeadModel(GPT2Config()).eval()
    tokens = torch.randint(config.d_vocab, (BATCH, N_POS), generator=seeded_generator(0))
    functions = {
        "bare matrix products": matrix_products(config, BATCH * N_POS),
        "cutaway": lambda: ours(tokens),
        "transformers": lambda: theirs(tokens, use_cache=False),
    }
    times = seconds_in_turn(functions, n_rounds=15, n_warmups=3)
    limits = measure_limits()
    print(f"this machine: {limits.gflops_per_s:.0f} GFLOP/s in square products, {torch.get_num_threads()} threads")
    for name, time_s in times.items():
        print(f"{name:22} {1000 * time_s:7.1f} ms   {time_s / times['bare matrix products']:.3f} x the products")


if __name__ == "__main__":
    main()
