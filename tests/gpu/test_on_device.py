"""The same function on a GPU."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.hooks import recording
from cutaway.model import KVCache, Transformer, attend, fused_attend

MakeModel = Callable[..., Transformer]
DEVICE = "cuda"


def logits_and_gradients(model: Transformer, tokens: Tensor) -> list[Tensor]:
    logits = model(tokens)
    loss = F.cross_entropy(logits.flatten(0, 1), tokens.flatten() % logits.shape[-1])
    return [x.detach().cpu() for x in (logits, *torch.autograd.grad(loss, list(model.parameters())))]


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # digits of the type, less two or three for sums in another order through two layers with logits of size 1 to 10;
    # float32 products stay float32 unless torch is told to round them to TF32, which the library never does
    [(torch.float64, 1e-11), (torch.float32, 1e-3)],
    ids=str,
)
def test_logits_and_gradients_are_the_cpus(
    variant: ModelConfig, make_model: MakeModel, tokens: Tensor, dtype: torch.dtype, tolerance: float
) -> None:
    model = make_model(variant, dtype=dtype)
    expected = logits_and_gradients(model, tokens)
    for got, want in zip(logits_and_gradients(model.to(DEVICE), tokens.to(DEVICE)), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=tolerance)


def test_cached_is_uncached(causal_variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model, tokens = make_model(causal_variant).to(DEVICE), tokens.to(DEVICE)
    kv = KVCache(model.config, batch=2, dtype=torch.float64, device=DEVICE)
    chunks = [model(chunk, kv=kv) for chunk in tokens.split((4, 1, 1, 3), dim=1)]
    torch.testing.assert_close(torch.cat(chunks, dim=1), model(tokens), rtol=0, atol=1e-12)  # float64


def test_recorded_is_unhooked(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model, tokens = make_model(variant).to(DEVICE), tokens.to(DEVICE)
    hooks, _ = recording("*")
    torch.testing.assert_close(model(tokens, hooks=hooks), model(tokens), rtol=0, atol=1e-12)  # float64


# bfloat16 keeps 8 bits: sums of a few numbers of size 1 to 3 come within a few 2^-8 of each other
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str)
@pytest.mark.parametrize("n_kv_heads", [4, 2])
@pytest.mark.parametrize("mask", ["causal", "one row sees nothing"])
def test_fused_is_explicit(dtype: torch.dtype, tolerance: float, n_kv_heads: int, mask: str) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, 64, 32, generator=generator).to(DEVICE, dtype)
    k, v = torch.randn(2, 2, n_kv_heads, 64, 32, generator=generator).to(DEVICE, dtype)
    visible = "causal" if mask == "causal" else torch.ones(64, 64, dtype=torch.bool, device=DEVICE).tril(-1)
    torch.testing.assert_close(fused_attend(q, k, v, visible), attend(q, k, v, visible), rtol=0, atol=tolerance)


def test_one_seed_gives_one_model_on_the_device(tiny_config: ModelConfig) -> None:
    def build() -> Transformer:
        with torch.device(DEVICE):
            return Transformer(tiny_config, generator=torch.Generator(DEVICE).manual_seed(3))

    for weight, again in zip(build().parameters(), build().parameters(), strict=True):
        assert weight.is_cuda
        assert torch.equal(weight, again)


def test_compiled_is_eager(tiny_config: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model, tokens = make_model(tiny_config, dtype=torch.float32).to(DEVICE), tokens.to(DEVICE)
    with torch.inference_mode():
        # float32, fused kernels that sum in another order
        torch.testing.assert_close(torch.compile(model)(tokens), model(tokens), rtol=0, atol=1e-4)
