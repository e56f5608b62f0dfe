"""Our model against the transformers library: the same weights give the same logits and the same gradients, in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.config import ModelConfig
from cutaway.model import Transformer
from hugging_face_models import normalise_in_float64

transformers = pytest.importorskip("transformers", reason="transformers, the oracle here, is not installed")

# float64 keeps 16 digits; a hundred operations in another order on logits of size 10 differ by 1e-13, on gradients by less. A mistake
# in a formula, an epsilon or a precision (float32 anywhere) shows at 1e-7 or above.
TOLERANCE = 1e-9

Rename = Callable[[dict[str, Tensor]], dict[str, Tensor]]

SHAPES = [
    {"n_layers": 1, "n_heads": 2, "d_model": 8, "d_vocab": 11, "n_ctx": 16},
    {"n_layers": 3, "n_heads": 4, "d_model": 32, "d_vocab": 50, "n_ctx": 40},
    {"n_layers": 2, "n_heads": 8, "d_model": 64, "d_vocab": 17, "n_ctx": 24},
]


def gpt2(shape: dict[str, int], **choices: Any) -> tuple[nn.Module, ModelConfig]:
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=shape["d_vocab"],
            n_positions=shape["n_ctx"],
            n_embd=shape["d_model"],
            n_layer=shape["n_layers"],
            n_head=shape["n_heads"],
            attn_implementation="eager",
        )
    )
    return theirs, ModelConfig(**shape)


def from_gpt2(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    ours = {"embed.W_E": theirs["transformer.wte.weight"], "embed.pos_embed.W_pos": theirs["transformer.wpe.weight"]}
    norms = {"transformer.ln_f": "unembed.ln_final"}
    for layer in range(n_blocks(theirs, "transformer.h")):
        here, there = f"blocks.{layer}", f"transformer.h.{layer}"
        norms |= {f"{there}.ln_1": f"{here}.ln1", f"{there}.ln_2": f"{here}.ln2"}
        # their Conv1D multiplies from the right: its matrix is the transpose of a Linear's
        for part, weight in zip("QKV", theirs[f"{there}.attn.c_attn.weight"].T.chunk(3), strict=True):
            ours[f"{here}.attn.W_{part}.weight"] = weight
        for part, bias in zip("QKV", theirs[f"{there}.attn.c_attn.bias"].chunk(3), strict=True):
            ours[f"{here}.attn.W_{part}.bias"] = bias
        for old, new in (("attn.c_proj", "attn.W_O"), ("mlp.c_fc", "mlp.W_in"), ("mlp.c_proj", "mlp.W_out")):
            ours[f"{here}.{new}.weight"] = theirs[f"{there}.{old}.weight"].T
            ours[f"{here}.{new}.bias"] = theirs[f"{there}.{old}.bias"]
    return ours | renamed(theirs, norms)


def phi(shape: dict[str, int], *, rotary_fraction: float = 0.5, base: float = 10_000.0) -> tuple[nn.Module, ModelConfig]:
    d_head = shape["d_model"] // shape["n_heads"]
    theirs = transformers.PhiForCausalLM(
        transformers.PhiConfig(
            vocab_size=shape["d_vocab"],
            max_position_embeddings=shape["n_ctx"],
            hidden_size=shape["d_model"],
            intermediate_size=3 * shape["d_model"],
            num_hidden_layers=shape["n_layers"],
            num_attention_heads=shape["n_heads"],
            partial_rotary_factor=rotary_fraction,
            rope_theta=base,
            attn_implementation="sdpa",  # their eager attention rounds its softmax to float32
        )
    )
    assert theirs.model.rotary_emb.inv_freq.shape == (int(d_head * rotary_fraction) // 2,)
    ours = ModelConfig(
        **shape,
        d_mlp=3 * shape["d_model"],
        position="rotary",
        rotary_dim=int(d_head * rotary_fraction),
        rotary_base=base,
        block="parallel",
        tie_embeddings=False,
        unembed_bias=True,
    )
    return theirs, ours


def from_phi(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    linears = {"model.final_layernorm": "unembed.ln_final", "lm_head": "unembed.W_U"}
    for layer in range(n_blocks(theirs, "model.layers")):
        here, there = f"blocks.{layer}", f"model.layers.{layer}"
        linears |= {f"{there}.self_attn.{x}_proj": f"{here}.attn.W_{x.upper()}" for x in "qkv"}
        linears |= {f"{there}.self_attn.dense": f"{here}.attn.W_O", f"{there}.input_layernorm": f"{here}.ln1"}
        linears |= {f"{there}.mlp.fc1": f"{here}.mlp.W_in", f"{there}.mlp.fc2": f"{here}.mlp.W_out"}
    return {"embed.W_E": theirs["model.embed_tokens.weight"]} | renamed(theirs, linears)


def llama(
    shape: dict[str, int],
    *,
    n_kv_heads: int = 0,
    is_tied: bool = False,
    has_biases: bool = False,
    base: float = 10_000.0,
) -> tuple[nn.Module, ModelConfig]:
    n_kv_heads = n_kv_heads or shape["n_heads"]
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=shape["d_vocab"],
            max_position_embeddings=shape["n_ctx"],
            hidden_size=shape["d_model"],
            intermediate_size=2 * shape["d_model"],
            num_hidden_layers=shape["n_layers"],
            num_attention_heads=shape["n_heads"],
            num_key_value_heads=n_kv_heads,
            rms_norm_eps=1e-5,
            tie_word_embeddings=is_tied,
            attention_bias=has_biases,
            mlp_bias=has_biases,
            rope_theta=base,
            attn_implementation="sdpa",
        )
    )
    ours = ModelConfig(
        **shape,
        n_kv_heads=n_kv_heads,
        d_mlp=2 * shape["d_model"],
        norm="rmsnorm",
        norm_bias=False,
        position="rotary",
        rotary_base=base,
        act="silu",
        gated_mlp=True,
        attn_bias=has_biases,
        mlp_bias=has_biases,
        tie_embeddings=is_tied,
    )
    return theirs, ours


def from_llama(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    linears = {"model.norm": "unembed.ln_final"}
    if "lm_head.weight" in theirs:
        linears["lm_head"] = "unembed.W_U"
    for layer in range(n_blocks(theirs, "model.layers")):
        here, there = f"blocks.{layer}", f"model.layers.{layer}"
        linears |= {f"{there}.self_attn.{x}_proj": f"{here}.attn.W_{x.upper()}" for x in "qkvo"}
        linears |= {f"{there}.input_layernorm": f"{here}.ln1", f"{there}.post_attention_layernorm": f"{here}.ln2"}
        linears |= {f"{there}.mlp.{x}_proj": f"{here}.mlp.W_{y}" for x, y in (("gate", "gate"), ("up", "in"), ("down", "out"))}
    return {"embed.W_E": theirs["model.embed_tokens.weight"]} | renamed(theirs, linears)


def n_blocks(theirs: dict[str, Tensor], prefix: str) -> int:
    return 1 + max(int(name.removeprefix(f"{prefix}.").split(".")[0]) for name in theirs if name.startswith(f"{prefix}."))


def renamed(theirs: dict[str, Tensor], modules: dict[str, str]) -> dict[str, Tensor]:
    """Rename every parameter of these modules; whoever has a bias keeps it."""
    return {
        f"{new}.{kind}": theirs[f"{old}.{kind}"]
        for old, new in modules.items()
        for kind in ("weight", "bias")
        if f"{old}.{kind}" in theirs
    }


def same_weights(theirs: nn.Module, config: ModelConfig, rename: Rename, *, seed: int) -> tuple[nn.Module, Transformer]:
    """Draw every weight of theirs, large enough that no part is nearly linear, and give ours the same."""
    generator = torch.Generator().manual_seed(seed)
    theirs, ours = theirs.double().eval(), Transformer(config).double().eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator) + (1.0 if weight.ndim == 1 else 0.0))
        given = rename(dict(theirs.named_parameters()))
        wanted = dict(ours.named_parameters())
        assert given.keys() == wanted.keys()
        for name, weight in wanted.items():
            weight.copy_(given[name])
    return theirs, ours


CASES = {
    "gpt2": (gpt2, from_gpt2, {}),
    "phi-half": (phi, from_phi, {}),
    "phi-all-base-100": (phi, from_phi, {"rotary_fraction": 1.0, "base": 100.0}),
    "llama": (llama, from_llama, {}),
    "llama-tied": (llama, from_llama, {"is_tied": True, "base": 100_000.0}),
    "llama-grouped": (llama, from_llama, {"n_kv_heads": 2, "has_biases": True}),
    "llama-multi-query": (llama, from_llama, {"n_kv_heads": 1, "is_tied": True}),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape['n_layers']}l-{shape['d_model']}")
@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients(case: str, shape: dict[str, int], seed: int) -> None:
    build, rename, choices = CASES[case]
    theirs, ours = same_weights(*build(shape, **choices), rename, seed=seed)
    normalise_in_float64(theirs)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(shape["d_vocab"], (2, shape["n_ctx"]), generator=generator)
    targets = torch.randint(shape["d_vocab"], (2, shape["n_ctx"]), generator=generator)

    expected = theirs(tokens).logits
    logits = ours(tokens)
    F.cross_entropy(expected.flatten(0, 1), targets.flatten()).backward()
    F.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()

    assert logits.dtype == torch.float64
    assert expected.std() > 0.5  # so that 1e-9 means nine digits
    assert_close("logits", logits, expected)
    grads = rename({name: weight.grad for name, weight in theirs.named_parameters() if weight.grad is not None})
    assert grads.keys() == dict(ours.named_parameters()).keys()
    for name, weight in ours.named_parameters():
        assert_close(f"the gradient of {name}", weight.grad, grads[name])


def assert_close(what: str, got: Tensor | None, expected: Tensor) -> None:
    assert got is not None
    error, scale = (got - expected).abs().max().item(), expected.abs().max().item()
    assert error <= TOLERANCE, f"{what}: {error:.1e} apart at a scale of {scale:.1e}"


def test_llama_as_the_library_runs_it() -> None:
    theirs, ours = same_weights(*llama(SHAPES[1], n_kv_heads=2), from_llama, seed=0)
    theirs, ours = theirs.float(), ours.float()
    tokens = torch.randint(SHAPES[1]["d_vocab"], (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, logits = theirs(tokens).logits, ours(tokens)
    # both in float32, 7 digits, through three layers with weights of size 0.3 that amplify a rounding error about tenfold
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5 * expected.abs().max().item())
