"""Each part alone, as someone would use it outside our model, against an oracle that shares no code with it."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.config import Activation
from cutaway.hooks import NO_HOOKS, Hooks, recording
from cutaway.model import (
    MLP,
    Attention,
    Block,
    Embedding,
    GatedMLP,
    LayerNorm,
    LearnedPositions,
    NoNorm,
    RMSNorm,
    Rotary,
    SinusoidalPositions,
    Unembedding,
    attend,
    fused_attend,
)

# float64 keeps 16 digits; these are a few operations on numbers of size 1 to 10
EXACT = {"rtol": 0.0, "atol": 1e-12}
# angles are float32: at 60 radians they are 4e-6 apart, and so are a sine's values
FLOAT32_ANGLE = {"rtol": 0.0, "atol": 1e-5}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomise(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    module = module.double()
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / math.sqrt(weight.shape[-1]))
    return module.eval()


# --- norms


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("ours", "theirs"), [(LayerNorm, nn.LayerNorm), (RMSNorm, nn.RMSNorm)])
def test_norms(ours: type[LayerNorm | RMSNorm], theirs: type[nn.LayerNorm | nn.RMSNorm], bias: bool) -> None:
    norm, x = randomise(ours(8, eps=0.1, bias=bias)), 3 + 2 * randn(2, 5, 8)
    oracle = theirs(8, eps=0.1, dtype=torch.float64)
    with torch.no_grad():
        oracle.weight.copy_(norm.weight)
    shift = norm.bias if bias else 0.0
    expected = (oracle(x) if theirs is nn.RMSNorm else F.layer_norm(x, (8,), norm.weight, None, 0.1)) + shift
    hooks, activations = recording("scale", "normalized")
    torch.testing.assert_close(norm(x), expected, **EXACT)
    torch.testing.assert_close(norm(x, hooks=hooks), expected, **EXACT)
    centred = x - x.mean(-1, keepdim=True) if ours is LayerNorm else x
    torch.testing.assert_close(activations["scale"], (centred**2).mean(-1, keepdim=True).add(0.1).sqrt(), **EXACT)
    # TransformerLens 2.18 hands out LayerNorm's output, and of RMSNorm what the weight is multiplied with
    normalized = expected if ours is LayerNorm else x / activations["scale"]
    torch.testing.assert_close(activations["normalized"], normalized, **EXACT)


@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm])
def test_norms_of_bfloat16_are_computed_in_float32(kind: type[LayerNorm | RMSNorm]) -> None:
    x = (1000 + 8 * randn(4, 64)).to(torch.bfloat16)
    norm, wide = kind(64, bias=False).to(torch.bfloat16), kind(64, bias=False)
    hooks, activations = recording("scale")
    expected = wide(x.float())
    for got in (norm(x), norm(x, hooks=hooks)):
        assert got.dtype == torch.bfloat16
        # the result alone is rounded, to 8 bits: half of 2^-7 of its size, which is at most 4
        torch.testing.assert_close(got.float(), expected, rtol=2**-8, atol=2**-8)
    assert activations["scale"].dtype == torch.float32


def test_no_norm_is_nothing() -> None:
    x = randn(2, 8)
    assert NoNorm(8)(x) is x
    assert not list(NoNorm(8).parameters())


# --- positions


def test_sinusoids_in_closed_form() -> None:
    positions, i = np.arange(60)[:, None], np.arange(8)[None, :]
    angles = positions / 10_000 ** (2 * i / 16)
    expected = np.zeros((60, 16))
    expected[:, 0::2], expected[:, 1::2] = np.sin(angles), np.cos(angles)
    got = SinusoidalPositions(16)(torch.arange(60))
    torch.testing.assert_close(got.double(), torch.from_numpy(expected), **FLOAT32_ANGLE)


def test_sinusoids_need_pairs() -> None:
    with pytest.raises(ValueError, match="even d_model for their pairs, not 7"):
        SinusoidalPositions(7)


@pytest.mark.parametrize(("rotary_dim", "base"), [(8, 10_000.0), (4, 10_000.0), (2, 100.0)])
def test_rotary_turns_complex_numbers(rotary_dim: int, base: float) -> None:
    x, positions = randn(2, 7, 3, 8), torch.tensor([[0, 1, 2, 3, 4, 5, 6], [9, 60, 11, 1, 13, 14, 15]])
    n_pairs = rotary_dim // 2
    numbers = torch.complex(x[..., :n_pairs], x[..., n_pairs:rotary_dim])
    frequencies = base ** (-torch.arange(n_pairs, dtype=torch.float64) / n_pairs)
    turned = numbers * torch.exp(1j * positions[:, :, None, None] * frequencies)
    expected = torch.cat([turned.real, turned.imag, x[..., rotary_dim:]], dim=-1)
    got = Rotary(8, rotary_dim=rotary_dim, base=base)(x, positions)
    torch.testing.assert_close(got, expected, **FLOAT32_ANGLE)
    assert torch.equal(got[..., rotary_dim:], x[..., rotary_dim:])


def test_rotary_makes_products_depend_on_distance_alone() -> None:
    rotary, q, k = Rotary(8), randn(1, 1, 8), randn(1, 1, 8, seed=1)

    def product(q_pos: int, k_pos: int) -> Tensor:
        return (rotary(q, torch.tensor([q_pos])) * rotary(k, torch.tensor([k_pos]))).sum()

    torch.testing.assert_close(product(3, 1), product(52, 50), **FLOAT32_ANGLE)
    assert (product(3, 1) - product(3, 2)).abs() > 0.01


def test_rotary_refuses_odd_and_too_wide() -> None:
    for wrong in (3, 10):
        with pytest.raises(ValueError, match=f"rotary_dim is {wrong}; expected an even number of at most d_head 8"):
            Rotary(8, rotary_dim=wrong)


def test_learned_positions_are_looked_up() -> None:
    positions = LearnedPositions(10, 4)
    wanted = torch.tensor([[7, 0], [2, 2]])
    assert torch.equal(positions(wanted), positions.W_pos[wanted])


def test_embedding_is_a_product_with_one_hot_rows() -> None:
    embed, tokens = randomise(Embedding(11, 4, pos_embed=LearnedPositions(6, 4))), torch.tensor([[3, 1, 4], [1, 5, 9]])
    expected = F.one_hot(tokens, 11).double() @ embed.W_E
    assert torch.equal(embed(tokens), expected + embed.pos_embed.W_pos[:3])
    assert torch.equal(embed(tokens, torch.tensor([2, 3, 5])), expected + embed.pos_embed.W_pos[[2, 3, 5]])


def test_unembedding_is_a_norm_and_a_product() -> None:
    unembed, resid = randomise(Unembedding(4, 11, ln_final=LayerNorm(4), bias=True)), randn(2, 3, 4)
    normed = F.layer_norm(resid, (4,), unembed.ln_final.weight, unembed.ln_final.bias)
    torch.testing.assert_close(unembed(resid), normed @ unembed.W_U.weight.T + unembed.W_U.bias, **EXACT)


# --- attention


def softmax_loop(q: Tensor, k: Tensor, v: Tensor, may_see: Callable[[int, int], bool]) -> Tensor:
    """Equation 1 of Vaswani et al., a query at a time."""
    z = torch.zeros(q.shape[0], v.shape[1], dtype=q.dtype)
    for i in range(q.shape[0]):
        seen = [j for j in range(k.shape[0]) if may_see(i, j)]
        weights = [math.exp(float(q[i] @ k[j]) / math.sqrt(q.shape[1])) for j in seen]
        for j, weight in zip(seen, weights, strict=True):
            z[i] += weight / sum(weights) * v[j]
    return z


def test_attend_is_equation_1() -> None:
    q, k, v = randn(4, 8), randn(6, 8, seed=1), randn(6, 8, seed=2)
    torch.testing.assert_close(attend(q, k, v), softmax_loop(q, k, v, lambda i, j: True), **EXACT)
    # fewer queries than keys are the last of them
    torch.testing.assert_close(attend(q, k, v, "causal"), softmax_loop(q, k, v, lambda i, j: j <= i + 2), **EXACT)
    some = torch.tensor([[True] * 6, [False, True] * 3, [False] * 6, [True] + [False] * 5])
    torch.testing.assert_close(attend(q, k, v, some), softmax_loop(q, k, v, lambda i, j: bool(some[i, j])), **EXACT)


def test_attend_shares_keys_among_groups_of_heads() -> None:
    q, k, v = randn(1, 6, 5, 4), randn(1, 2, 5, 4, seed=1), randn(1, 2, 5, 4, seed=2)
    z = attend(q, k, v, "causal")
    for head in range(6):
        expected = softmax_loop(q[0, head], k[0, head // 3], v[0, head // 3], lambda i, j: j <= i)
        torch.testing.assert_close(z[0, head], expected, **EXACT)


@pytest.mark.parametrize("masked", ["none", "causal", "random", "a-row-sees-nothing"])
@pytest.mark.parametrize("bias", [True, False])
def test_attention_is_torchs_multihead_attention(masked: str, bias: bool) -> None:
    attn = randomise(Attention(d_model=12, n_heads=3, bias=bias))
    oracle = nn.MultiheadAttention(12, 3, bias=bias, batch_first=True, dtype=torch.float64).eval()
    with torch.no_grad():
        oracle.in_proj_weight.copy_(torch.cat([attn.W_Q.weight, attn.W_K.weight, attn.W_V.weight]))
        oracle.out_proj.weight.copy_(attn.W_O.weight)
        if bias:
            oracle.in_proj_bias.copy_(torch.cat([attn.W_Q.bias, attn.W_K.bias, attn.W_V.bias]))
            oracle.out_proj.bias.copy_(attn.W_O.bias)
    ours = [randn(2, 5, 12, seed=seed).requires_grad_() for seed in range(3)]
    theirs = [x.detach().clone().requires_grad_() for x in ours]
    may_see = {
        "none": None,
        "causal": torch.ones(5, 5, dtype=torch.bool).tril(),
        "random": (randn(5, 5, seed=9) > 0) | torch.eye(5, dtype=torch.bool),
        "a-row-sees-nothing": torch.ones(5, 5, dtype=torch.bool).tril(-1),
    }[masked]
    out = attn(*ours, mask="causal" if masked == "causal" else may_see)
    expected, _ = oracle(*theirs, attn_mask=None if may_see is None else ~may_see, need_weights=False)
    torch.testing.assert_close(out, expected, **EXACT)
    probe = randn(2, 5, 12, seed=4)
    (out * probe).sum().backward()
    (expected * probe).sum().backward()
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x.grad, y.grad, **EXACT)
    torch.testing.assert_close(attn.W_K.weight.grad, oracle.in_proj_weight.grad[12:24], **EXACT)


def test_attention_reads_from_itself_unless_told() -> None:
    attn, x, y = randomise(Attention(12, 3)), randn(2, 5, 12), randn(2, 7, 12, seed=1)
    assert torch.equal(attn(x), attn(x, x, x))
    assert torch.equal(attn(x, y), attn(x, y, y))


def test_attention_refuses_what_does_not_divide() -> None:
    for wrong in ({"n_heads": 5}, {"n_heads": 4, "n_kv_heads": 3}):
        with pytest.raises(ValueError, match="do not divide"):
            Attention(d_model=12, **wrong)


@pytest.mark.parametrize("n_rows", [2, 3], ids=["other rows than heads", "as many rows as heads"])
@pytest.mark.parametrize("hooks", [NO_HOOKS, recording("pattern")[0]], ids=["fused", "explicit"])
def test_a_mask_for_each_row_is_for_all_its_heads(n_rows: int, hooks: Hooks) -> None:
    attn, x = randomise(Attention(12, 3)), randn(n_rows, 5, 12)
    mask = (randn(n_rows, 5, 5, seed=9) > 0) | torch.eye(5, dtype=torch.bool)
    rows = torch.stack([attn(x[row], mask=mask[row]) for row in range(n_rows)])
    torch.testing.assert_close(attn(x, mask=mask, hooks=hooks), rows, **EXACT)
    each_head = mask[:, None].expand(-1, 3, -1, -1)
    torch.testing.assert_close(attn(x, mask=each_head, hooks=hooks), rows, **EXACT)
    torch.testing.assert_close(attn(x[0], mask=each_head[0], hooks=hooks), rows[0], **EXACT)
    two_axes = x.unflatten(0, (1, n_rows))
    torch.testing.assert_close(attn(two_axes, mask=mask[None], hooks=hooks)[0], rows, **EXACT)


@pytest.mark.usefixtures("without_type_checks")
def test_a_word_that_is_no_mask_is_refused() -> None:
    x, expected = randn(3, 4, 12), "mask is 'casual'; expected 'causal', a tensor of booleans, or None"
    for read in (
        lambda: attend(x, x, x, "casual"),
        lambda: fused_attend(x, x, x, "casual"),
        lambda: randomise(Block(12, 3))(x, mask="casual"),
    ):
        with pytest.raises(ValueError, match=expected):
            read()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Block(12, 3, block="x"), "block is 'x'; expected one of sequential, parallel"),
        (lambda: Block(12, 3, norm="x"), "norm is 'x'; expected one of layernorm, rmsnorm, none"),
        (lambda: MLP(12, act="mish"), "act is 'mish'; expected one of gelu, gelu_new, relu, silu"),
        (lambda: MLP(12, d_mlp=0), "d_mlp is 0; expected a whole number of at least 1"),
        (lambda: GatedMLP(12, d_mlp=-4), "d_mlp is -4"),
        (lambda: Attention(12, 3, n_kv_heads=0), "n_kv_heads is 0"),
        (lambda: Attention(12, 3, d_head=0), "d_head is 0"),
    ],
    ids=range(7),
)
@pytest.mark.usefixtures("without_type_checks")
def test_choices_and_sizes_that_there_are_not(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# --- feed-forward and block

ACTIVATIONS: dict[Activation, Callable[[np.ndarray], np.ndarray]] = {
    "gelu": np.vectorize(lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2)))),
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_feed_forward(act: Activation) -> None:
    mlp, gated, x = randomise(MLP(4, 6, act=act)), randomise(GatedMLP(4, 6, act=act)), randn(2, 3, 4)

    def linear(layer: nn.Linear, y: np.ndarray) -> np.ndarray:
        bias = 0 if layer.bias is None else layer.bias.detach().numpy()
        return y @ layer.weight.detach().numpy().T + bias

    expected = linear(mlp.W_out, ACTIVATIONS[act](linear(mlp.W_in, x.numpy())))
    torch.testing.assert_close(mlp(x), torch.from_numpy(expected), **EXACT)
    hidden = ACTIVATIONS[act](linear(gated.W_gate, x.numpy())) * linear(gated.W_in, x.numpy())
    torch.testing.assert_close(gated(x), torch.from_numpy(linear(gated.W_out, hidden)), **EXACT)


def test_blocks_add_what_they_read() -> None:
    x = randn(2, 5, 12)
    block = randomise(Block(12, 3))
    middle = x + block.attn(block.ln1(x), mask="causal")
    torch.testing.assert_close(block(x, mask="causal"), middle + block.mlp(block.ln2(middle)), **EXACT)
    block = randomise(Block(12, 3, block="parallel"))
    normed = block.ln1(x)
    torch.testing.assert_close(block(x), x + block.attn(normed) + block.mlp(normed), **EXACT)
    assert not any("ln2" in name for name, _ in block.named_parameters())
    block = randomise(Block(12, 3, d_mlp=0))
    torch.testing.assert_close(block(x), x + block.attn(block.ln1(x)), **EXACT)
    assert not any(name.startswith(("ln2", "mlp")) for name, _ in block.named_parameters())


def test_offsets_enter_queries_and_keys_alone() -> None:
    block, x, offset = randomise(Block(12, 3)), randn(2, 5, 12), randn(5, 12, seed=3)
    hooks, activations = recording("attn.*", "ln1.normalized")
    block(x, qk_offset=offset, hooks=hooks)
    normed = activations["ln1.normalized"]
    torch.testing.assert_close(activations["attn.q"].flatten(-2), block.attn.W_Q(normed + offset), **EXACT)
    torch.testing.assert_close(activations["attn.k"].flatten(-2), block.attn.W_K(normed + offset), **EXACT)
    torch.testing.assert_close(activations["attn.v"].flatten(-2), block.attn.W_V(normed), **EXACT)


@pytest.mark.parametrize("part", [MLP(8, dropout=0.5), Attention(8, 2, dropout=0.5), Embedding(9, 8, dropout=0.5)], ids=str)
def test_dropout_is_for_training_alone(part: nn.Module) -> None:
    x = torch.arange(8)[None] if isinstance(part, Embedding) else torch.randn(1, 8, 8)
    torch.manual_seed(0)
    training, again = part.train()(x), part(x)
    assert not torch.equal(training, again)
    assert (training == 0).any()
    assert torch.equal(part.eval()(x), part(x))
