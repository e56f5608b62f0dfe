"""Factored matrices are the matrices they stand for; weights and circuits of a model are what the model computes with."""

import doctest
import importlib
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from cutaway.config import ModelConfig, Position
from cutaway.hooks import recording
from cutaway.interp import factored
from cutaway.interp.factored import FactoredMatrix
from cutaway.interp.refactoring import centre_unembed
from cutaway.model import LayerNorm, Transformer

MakeModel = Callable[..., Transformer]

# float64, products of a few dozen numbers of size 1, in another order
same = partial(torch.testing.assert_close, rtol=0, atol=1e-11)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SHAPES = {"thin": ((7, 3), (3, 9)), "tall": ((9, 3), (3, 5)), "many": ((2, 5, 8, 3), (2, 5, 3, 8)), "wide inside": ((4, 6), (6, 5))}


@pytest.fixture(params=SHAPES)
def matrix(request: pytest.FixtureRequest) -> FactoredMatrix:
    a, b = SHAPES[request.param]
    return FactoredMatrix(drawn(*a), drawn(*b, seed=1))


# --- factored matrices


def test_the_product(matrix: FactoredMatrix) -> None:
    assert matrix.shape == matrix.AB.shape
    same(matrix.AB, torch.einsum("...ij,...jk->...ik", matrix.A, matrix.B))
    same(matrix.T.AB, matrix.AB.mT)
    assert repr(matrix) == f"FactoredMatrix({' x '.join(map(str, matrix.AB.shape))}, inner {matrix.A.shape[-1]})"


def test_the_norm(matrix: FactoredMatrix) -> None:
    same(matrix.norm(), matrix.AB.square().sum(dim=(-2, -1)).sqrt())


def test_a_small_norm_is_not_lost_in_large_factors() -> None:
    # A's rows are orthogonal to B's columns but for 1e-9: the squares of the factors are 1e18 times the square of the product
    A = torch.tensor([[1.0, 1e-9], [0.0, 0.0]], dtype=torch.float64)
    B = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    assert FactoredMatrix(A, B).norm().item() == pytest.approx(1e-9, rel=1e-12)


def test_the_singular_value_decomposition(matrix: FactoredMatrix) -> None:
    U, S, Vh = matrix.svd()
    rank = min(*matrix.shape[-2:], matrix.inner)
    same(U * S.unsqueeze(-2) @ Vh, matrix.AB)
    same(S, torch.linalg.svdvals(matrix.AB)[..., :rank])
    one = torch.eye(rank, dtype=torch.float64).expand(*S.shape[:-1], rank, rank)
    same(U.mT @ U, one)
    same(Vh @ Vh.mT, one)


@pytest.mark.parametrize("sizes", [(8, 3), (3, 8), (5, 5)])
def test_eigenvalues_are_those_of_the_product_but_for_zeros(sizes: tuple[int, int]) -> None:
    size, inner = sizes
    matrix = FactoredMatrix(drawn(4, size, inner), drawn(4, inner, size, seed=1))
    found, n_zeros = matrix.eigenvalues(), size - min(sizes)
    assert found.shape == (4, min(sizes))
    for ours, product in zip(found, matrix.AB, strict=True):
        # an eigenvalue that nearly coincides with another is known to the root of what its matrix is known to
        for value in ours:
            assert (torch.linalg.eigvals(product) - value).abs().min() < 1e-9
        assert int((torch.linalg.eigvals(product).abs() < 1e-9).sum()) == n_zeros
        same(ours.sum().real, product.trace())
    same(matrix.trace(), torch.stack([product.trace() for product in matrix.AB]))


def test_products_with_tensors() -> None:
    matrix = FactoredMatrix(drawn(5, 7, 3), drawn(5, 3, 9, seed=1))
    left, right, row, column = drawn(4, 7, seed=2), drawn(9, 6, seed=3), drawn(7, seed=4), drawn(9, seed=5)
    assert isinstance(matrix @ right, FactoredMatrix)
    same((matrix @ right).AB, matrix.AB @ right)
    same((left @ matrix).AB, left @ matrix.AB)
    same(matrix[2] @ column, matrix[2].AB @ column)
    same(matrix @ column, matrix.AB @ column)
    same(row @ matrix[2], row @ matrix[2].AB)


@pytest.mark.parametrize("inner", [2, 3, 4])
def test_products_of_factored_matrices_keep_the_smaller_inner_axis(inner: int) -> None:
    a, b = FactoredMatrix(drawn(7, 3), drawn(3, 9, seed=1)), FactoredMatrix(drawn(5, 9, inner, seed=2), drawn(5, inner, 6, seed=3))
    product = a @ b
    same(product.AB, a.AB @ b.AB)
    assert product.inner == min(3, inner)


def test_leading_axes_broadcast_and_are_sliced() -> None:
    matrix = FactoredMatrix(drawn(4, 1, 7, 3), drawn(5, 3, 9, seed=1))
    assert matrix.shape == (4, 5, 7, 9)
    same(matrix[1, 2].AB, matrix.AB[1, 2])
    same(matrix[:, torch.tensor([0, 4])].AB, matrix.AB[:, [0, 4]])
    same(matrix[None, 3].AB, matrix.AB[None, 3])
    with pytest.raises(ValueError, match="at most its 2 leading axes"):
        matrix[0, 0, 0]
    with pytest.raises(ValueError, match=r"rows and columns are in \.A and \.B"):
        matrix[..., 0]


def test_16_bit_factors_are_decomposed_in_float32() -> None:
    matrix = FactoredMatrix(drawn(6, 2).bfloat16(), drawn(2, 6, seed=1).bfloat16())
    assert {matrix.svd().S.dtype, matrix.norm().dtype, matrix.eigenvalues().real.dtype} == {torch.float32}


def test_factors_that_do_not_fit_are_refused(without_type_checks: None) -> None:
    with pytest.raises(ValueError, match=r"shapes \(7, 3\) and \(4, 9\) have no product"):
        FactoredMatrix(drawn(7, 3), drawn(4, 9))
    with pytest.raises(ValueError, match=r"leading axes of \(2, 7, 3\) and \(5, 3, 9\) do not fit"):
        FactoredMatrix(drawn(2, 7, 3), drawn(5, 3, 9))
    for wanted in ("eigenvalues", "trace"):
        with pytest.raises(ValueError, match=f"is not square, so it has no {wanted}"):
            getattr(FactoredMatrix(drawn(7, 3), drawn(3, 9)), wanted)()


# --- weights


def test_queries_keys_values_and_outputs(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(variant)
    offset = ["pos_embed"] if variant.position == "attention_only" else []
    hooks, seen = recording("*.q", "*.k", "*.v", "*.z", "*.attn_out", "*.resid_pre", *offset)
    model(tokens, hooks=hooks)
    group = variant.n_heads // variant.n_kv_heads
    for layer in range(variant.n_layers):
        x = model.blocks[layer].ln1(seen[f"blocks.{layer}.resid_pre"])
        x_qk = x + seen["pos_embed"] if offset else x
        at = f"blocks.{layer}.attn."
        for name, read, repeated in (("q", x_qk, 1), ("k", x_qk, group), ("v", x, group)):
            W, b = (getattr(factored, f"{kind}_{name.upper()}")(model, layer) for kind in ("W", "b"))
            assert W.shape == (variant.n_heads, variant.d_model, variant.d_head)
            made = torch.einsum("bpm,hmd->bphd", read, W) + b
            same(made, seen[at + name].repeat_interleave(repeated, dim=2))
        written = torch.einsum("bphd,hdm->bpm", seen[at + "z"], factored.W_O(model, layer)) + factored.b_O(model, layer)
        same(written, seen[f"blocks.{layer}.attn_out"])


def test_the_mlp(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(variant)
    if variant.d_mlp == 0:
        with pytest.raises(ValueError, match="no W_in: it has attention alone"):
            factored.W_in(model)
        return
    hooks, seen = recording(
        "*.pre", "*.post", "*.mlp_out", "*.resid_pre", *([] if variant.block == "parallel" else ["*.resid_mid"])
    )
    if variant.gated_mlp:
        hooks, seen = recording("*.pre*", "*.post", "*.mlp_out", "*.resid_*")
    model(tokens, hooks=hooks)
    for layer, block in enumerate(model.blocks):
        at = f"blocks.{layer}."
        x = block.ln1(seen[at + "resid_pre"]) if variant.block == "parallel" else block.ln2(seen[at + "resid_mid"])
        first = (factored.W_gate, factored.b_gate) if variant.gated_mlp else (factored.W_in, factored.b_in)
        same(x @ first[0](model, layer) + first[1](model, layer), seen[at + "mlp.pre"])
        if variant.gated_mlp:
            same(x @ factored.W_in(model, layer) + factored.b_in(model, layer), seen[at + "mlp.pre_linear"])
        else:
            with pytest.raises(ValueError, match="no W_gate: its MLP is not gated"):
                factored.W_gate(model, layer)
        same(seen[at + "mlp.post"] @ factored.W_out(model, layer) + factored.b_out(model, layer), seen[at + "mlp_out"])


def test_embedding_positions_and_unembedding(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(variant)
    names = ["embed", "logits", *([] if variant.position in ("rotary", "none") else ["pos_embed"])]
    hooks, seen = recording(*names, f"*.{variant.n_layers - 1}.resid_post")
    model(tokens, hooks=hooks)
    same(factored.W_E(model)[tokens], seen["embed"])
    x = model.unembed.ln_final(seen[f"blocks.{variant.n_layers - 1}.resid_post"])
    same(x @ factored.W_U(model) + factored.b_U(model), seen["logits"])
    if "pos_embed" in seen:
        same(factored.W_pos(model)[:9], seen["pos_embed"].double().expand(9, -1))
    else:
        with pytest.raises(ValueError, match="adds no vectors of positions"):
            factored.W_pos(model)


def test_all_layers_are_the_layers_stacked(variant: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(variant)
    names = ["W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O", *(["W_in", "W_out", "b_in", "b_out"] if variant.d_mlp else [])]
    for name in names:
        of = getattr(factored, name)
        assert torch.equal(of(model), torch.stack([of(model, layer) for layer in range(variant.n_layers)])), name
        assert torch.equal(of(model, -1), of(model, variant.n_layers - 1)), name
        with pytest.raises(ValueError, match=f"no layer {variant.n_layers}: give 0 to {variant.n_layers - 1}, or -1"):
            of(model, variant.n_layers)
    with pytest.raises(ValueError, match="no layers"):
        factored.W_Q(Transformer(variant.replace(n_layers=0)))


def test_a_layer_is_a_view(tiny_model: Transformer) -> None:
    attn, mlp = tiny_model.blocks[1].attn, tiny_model.blocks[1].mlp
    pairs = [(factored.W_E, tiny_model.embed.W_E), (factored.W_U, tiny_model.unembed.W_U.weight)]
    for of, weight in pairs:
        assert of(tiny_model).data_ptr() == weight.data_ptr()
    for name, part in {**dict.fromkeys(("W_Q", "W_K", "W_V", "W_O"), attn), **dict.fromkeys(("W_in", "W_out"), mlp)}.items():
        assert getattr(factored, name)(tiny_model, 1).data_ptr() == getattr(part, name).weight.data_ptr(), name
    factored.W_Q(tiny_model, 1).sum().backward()
    assert attn.W_Q.weight.grad is not None


# --- circuits


def scores_and_inputs(model: Transformer, tokens: Tensor, layer: int, *, with_norm: bool) -> tuple[Tensor, Tensor]:
    """q.k of a run without biases, and what the circuit reads: attention's input, or the stream over the scale of ln1."""
    at = f"blocks.{layer}."
    hooks, seen = recording(*(at + name for name in ("resid_pre", "attn.attn_scores")), *([at + "ln1.scale"] if with_norm else []))
    model(tokens, hooks=hooks)
    x = seen[at + "resid_pre"]
    x = x / seen[at + "ln1.scale"] if with_norm else model.blocks[layer].ln1(x)
    return seen[at + "attn.attn_scores"] * math.sqrt(model.config.d_head), x


@pytest.mark.parametrize("with_norm", [False, True])
def test_the_qk_circuit_is_the_attention_score(
    variant: ModelConfig, make_model: MakeModel, tokens: Tensor, with_norm: bool
) -> None:
    if variant.position == "attention_only" or (with_norm and variant.norm == "none"):
        variant = variant.replace(position="none", norm="rmsnorm", norm_bias=False)
    model = make_model(variant.replace(attn_bias=False, norm_bias=False))
    for layer in range(variant.n_layers):
        scores, x = scores_and_inputs(model, tokens, layer, with_norm=with_norm)
        for i, j in ((8, 0), (8, 8), (5, 2), (3, 2)):
            qk = factored.qk_circuit(model, layer, offset=i - j, k_pos=j, with_norm=with_norm)
            assert qk.shape == (variant.n_heads, variant.d_model, variant.d_model)
            same(torch.einsum("bm,hmn,bn->bh", x[:, i], qk.AB, x[:, j]), scores[:, :, i, j])
            # at another place with the same offset, angles rounded to float32 turn by up to 8 * 6e-8 radians otherwise
            shifted = factored.qk_circuit(model, layer, 2, offset=i - j, with_norm=with_norm).AB
            assert (shifted - qk[2].AB).norm() <= 2e-6 * shifted.norm()


def test_a_rotary_circuit_is_the_turn_written_out(make_model: MakeModel, tiny_config: ModelConfig) -> None:
    model = make_model(tiny_config.replace(position="rotary", rotary_dim=2, d_head=4))
    W_Q, W_K = (factored.W_Q(model, 1)[3], factored.W_K(model, 1)[3])
    cos, sin = math.cos(5.0), math.sin(5.0)  # one pair, of frequency 1, at offset 5; coordinates 2 and 3 stay
    turn = torch.eye(4, dtype=torch.float64)
    turn[:2, :2] = torch.tensor([[cos, sin], [-sin, cos]])
    expected = W_Q @ turn @ W_K.T
    # the model's cosines are of float32: 6e-8 each
    torch.testing.assert_close(factored.qk_circuit(model, 1, 3, offset=5).AB, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("position", ["rotary", "learned"])
def test_a_key_after_the_query_is_for_bidirectional_models_alone(
    make_model: MakeModel, tiny_config: ModelConfig, tokens: Tensor, position: Position
) -> None:
    config = tiny_config.replace(position=position, attn_bias=False, norm_bias=False)
    for circuit in (factored.qk_circuit, factored.full_qk):
        with pytest.raises(ValueError, match="offset is -1, a key after the query, which a causal model does not see"):
            circuit(make_model(config), 0, 1, offset=-1, k_pos=4)
    with pytest.raises(ValueError, match="offset is -1, a key after the query"):
        factored.head_weights(make_model(config), offset=-1)
    model = make_model(config.replace(is_causal=False))
    scores, x = scores_and_inputs(model, tokens, 1, with_norm=False)
    qk = factored.qk_circuit(model, 1, offset=-3, k_pos=5)
    same(torch.einsum("bm,hmn,bn->bh", x[:, 2], qk.AB, x[:, 5]), scores[:, :, 2, 5])


def test_rotary_circuits_need_an_offset(make_model: MakeModel, tiny_config: ModelConfig) -> None:
    model = make_model(tiny_config.replace(position="rotary"))
    for circuit in (factored.qk_circuit, factored.full_qk):
        with pytest.raises(ValueError, match="one QK circuit for each offset: give the offset, q_pos - k_pos"):
            circuit(model, 0, 0)
    with pytest.raises(ValueError, match="no head 4: give 0 to 3"):
        factored.ov_circuit(model, 0, 4)


@pytest.mark.parametrize("with_norm", [False, True])
def test_the_ov_circuit_is_what_a_head_moves(variant: ModelConfig, make_model: MakeModel, tokens: Tensor, with_norm: bool) -> None:
    if with_norm and variant.norm == "none":
        variant = variant.replace(norm="layernorm")
    model = make_model(variant.replace(attn_bias=False, norm_bias=False))
    for layer in range(variant.n_layers):
        at = f"blocks.{layer}."
        hooks, seen = recording(
            at + "attn.pattern", at + "attn.result", at + "resid_pre", *([at + "ln1.scale"] if with_norm else [])
        )
        model(tokens, hooks=hooks)
        x = seen[at + "resid_pre"]
        x = x / seen[at + "ln1.scale"] if with_norm else model.blocks[layer].ln1(x)
        moved = torch.einsum(
            "bhqk,bkm,hmn->bqhn", seen[at + "attn.pattern"], x, factored.ov_circuit(model, layer, with_norm=with_norm).AB
        )
        same(moved, seen[at + "attn.result"])


def test_full_circuits(variant: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(variant)
    W_E, W_U = model.embed.W_E, model.unembed.W_U.weight.T
    ov, qk = factored.ov_circuit(model, 1, 3), factored.qk_circuit(model, 1, 3, offset=2)
    assert factored.full_ov(model, 1, 3).shape == (variant.d_vocab, variant.d_vocab_out)
    same(factored.full_ov(model, 1, 3).AB, W_E @ ov.AB @ W_U)
    same(factored.full_qk(model, 1, 3, offset=2).AB, W_E @ qk.AB @ W_E.T)
    for norm, read in ((model.blocks[1].ln1, ov.A), (model.unembed.ln_final, W_U)):
        weight = getattr(norm, "weight", torch.ones(variant.d_model, dtype=torch.float64))
        mean = torch.full((16, 16), 1 / 16) if isinstance(norm, LayerNorm) else torch.zeros(16, 16)
        linear = (torch.eye(16, dtype=torch.float64) - mean) @ torch.diag(weight)
        same(factored.read_through(norm, read), linear @ read)


def test_copying_scores_are_those_of_the_whole_matrix(variant: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(variant)
    if variant.d_vocab_out != variant.d_vocab:
        with pytest.raises(ValueError, match="7 logits for 31 tokens"):
            factored.copying_scores(model)
        return
    found = factored.copying_scores(model)
    assert found.shape == (variant.n_layers, variant.n_heads)
    for layer in range(variant.n_layers):
        for head in range(variant.n_heads):
            full_ov = factored.full_ov(model, layer, head, with_norm=True).AB
            eigenvalues = torch.linalg.eigvals(full_ov - full_ov.mean(dim=1, keepdim=True))
            # 27 eigenvalues are 0, and the whole matrix knows them to 1e-9 or so: zero is where eigenvalues are least well known
            large = eigenvalues[eigenvalues.abs().argsort(descending=True)[: variant.d_head]]
            torch.testing.assert_close(found[layer, head], large.real.sum() / large.abs().sum(), rtol=0, atol=1e-9)


def test_heads_that_copy_and_heads_that_forbid(tiny_config: ModelConfig) -> None:
    model = Transformer(tiny_config.replace(d_vocab=16, norm="none", tie_embeddings=False)).double()
    with torch.no_grad():
        model.embed.W_E.copy_(torch.eye(16))
        model.unembed.W_U.weight.copy_(torch.eye(16))
        attn = model.blocks[0].attn
        attn.W_V.weight.copy_(torch.eye(16))
        attn.W_O.weight.copy_(torch.diag(torch.tensor([1.0] * 4 + [-1.0] * 4 + [0.0] * 4 + [1.0, 1.0, -1.0, -1.0])))
    torch.testing.assert_close(factored.copying_scores(model)[0], torch.tensor([1.0, -1.0, 0.0, 0.0], dtype=torch.float64))


def test_what_all_logits_share_is_no_copying(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(tiny_config.replace(tie_embeddings=False))
    same(factored.copying_scores(centre_unembed(model)), factored.copying_scores(model))


@pytest.mark.parametrize("name", ["matrix", "circuits", "weights", "singular_vectors"])
def test_examples_in_docstrings(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"cutaway.interp.factored.{name}")).failed == 0
