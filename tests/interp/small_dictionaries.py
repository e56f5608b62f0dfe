"""Small dictionaries in float64, rows to put through them, and a recipe that trains one in a blink."""

import torch

from cutaway import sae

KINDS = {"relu": {}, "topk": {"k": 3}, "batchtopk": {"k": 3}, "jumprelu": {}}

# float64: the same sums in another order
EXACT = 1e-12


def a_dictionary(kind="topk", *, d_in=6, d_sae=10, seed=0, **fields):
    """A dictionary in float64 with weights that are all away from where they start."""
    generator = torch.Generator().manual_seed(seed)
    config = sae.DictionaryConfig(kind=kind, d_in=d_in, d_sae=d_sae, **{**KINDS[kind], **fields})
    made = sae.make_dictionary(config, generator=generator).double()
    with torch.no_grad():
        for weight in made.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        if kind in ("batchtopk", "jumprelu"):
            made.threshold.copy_(0.1 + 0.2 * torch.rand(d_sae, generator=generator))
    return made


def some_rows(n=32, d=6, seed=1):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small_config(kind="topk", *, n_steps=20, sparsity=0.0, **fields):
    shape = sae.DictionaryConfig(**{"kind": kind, "d_in": 8, "d_sae": 24, **KINDS[kind], **fields})
    sparsity = sparsity or (0.05 if shape.k is None else 0.0)
    return sae.SAEConfig(
        dictionary=shape, n_steps=n_steps, batch_size=16, sparsity=sparsity, dead_after=64, log_every=5, learning_rate=3e-3
    )


def small_rows(n=100, d=8):
    return 4 * torch.randn(n, d, generator=torch.Generator().manual_seed(2)) + 1
