"""Rows drawn at random that probes are fitted to, and how near a probe comes to a closed form."""

import torch
from torch import Tensor

from interp.planted import N_POS, N_WORDS

# float64 sums in another order
EXACT = 1e-10


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, TEXTS = normal(12, 3), torch.randint(N_WORDS, (12, N_POS), generator=torch.Generator().manual_seed(0))
