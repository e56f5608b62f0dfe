"""A model with a feature planted in it: the first token sets a switch, one head carries it everywhere, the logits read it."""

from __future__ import annotations

import torch
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.model import Transformer

N_WORDS, ON, OFF = 300, 300, 301
D_MODEL, N_POS = 16, 16


def planted_model(*, seed: int = 0) -> Transformer:
    """The stream holds words in 13 dimensions, far fewer than words, and in 3 more what sets the switch, and the switch itself."""
    generator = torch.Generator().manual_seed(seed)
    config = ModelConfig(
        d_vocab=N_WORDS + 2, n_ctx=N_POS, n_layers=1, n_heads=1, d_head=2, d_model=D_MODEL, d_mlp=0, norm="none", position="none",
        tie_embeddings=False,
    )  # fmt: skip
    model = Transformer(config, generator=generator).double().eval().requires_grad_(False)
    for weight in model.parameters():
        weight.zero_()
    basis = torch.linalg.qr(torch.randn(D_MODEL, D_MODEL, generator=generator, dtype=torch.float64)).Q
    sets, is_set, switch, words = basis[0], basis[1], basis[2], basis[3:]
    model.embed.W_E[:N_WORDS] = (
        torch.randn(N_WORDS, len(words), generator=generator, dtype=torch.float64) / len(words) ** 0.5 @ words
    )
    model.embed.W_E[ON], model.embed.W_E[OFF] = sets + is_set, -sets + is_set
    attn = model.blocks[0].attn
    attn.W_Q.bias[0] = 8.0 * 2**0.5  # every position looks for what sets the switch
    attn.W_K.weight[0] = is_set
    attn.W_V.weight[0] = sets
    attn.W_O.weight[:, 0] = switch
    model.unembed.W_U.weight[ON], model.unembed.W_U.weight[OFF] = 10 * switch, -10 * switch
    return model


def switched_texts(n: int = 60, *, seed: int = 1) -> tuple[Tensor, list[str]]:
    """Texts of random words after a token that sets the switch, and how it is set."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(N_WORDS, (n, N_POS), generator=generator)
    is_on = torch.arange(n) % 2 == 0
    tokens[:, 0] = torch.where(is_on, ON, OFF)
    return tokens, ["on" if each else "off" for each in is_on.tolist()]
