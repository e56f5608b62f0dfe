"""Composition scores are the norms they are said to be, of whole d_model x d_model matrices, and their baseline is exact."""

import json
import math
from collections.abc import Callable
from functools import partial
from io import StringIO
from itertools import product

import pytest
import torch
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.interp import factored
from cutaway.interp.composition import composition_scores
from cutaway.interp.refactoring import centre_writing_weights, factor_ov, factor_qk, fold_norm
from cutaway.model import Transformer

MakeModel = Callable[..., Transformer]

# float64: norms of products of size 1 to 100, one through the other's factors
same = partial(torch.testing.assert_close, rtol=0, atol=1e-11)


def with_linear_norm(model: Transformer, layer: int, W: Tensor) -> Tensor:
    """The residual stream's own matrix: ln1 as a matrix, before a reading one."""
    config, norm = model.config, model.blocks[layer].ln1
    before = torch.eye(config.d_model, dtype=torch.float64)
    if config.norm == "layernorm":
        before = before - 1 / config.d_model
    return before @ torch.diag(norm.weight) @ W if config.norm != "none" else W


def whole_matrices(model: Transformer, layer: int, head: int) -> tuple[Tensor, Tensor, Tensor]:
    """W_Q, W_K and W_OV of a head as the stream sees them."""
    W_Q, W_K, W_V, W_O = (getattr(factored, name)(model, layer)[head] for name in ("W_Q", "W_K", "W_V", "W_O"))
    if model.config.norm == "layernorm":
        W_O = W_O - W_O.mean(dim=-1, keepdim=True)
    return (*(with_linear_norm(model, layer, W) for W in (W_Q, W_K)), with_linear_norm(model, layer, W_V) @ W_O)


def ratio(a: Tensor, b: Tensor) -> float:
    return ((a @ b).norm() / (a.norm() * b.norm())).item()


@torch.no_grad()
def test_scores_are_the_norms_of_whole_matrices(variant: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(variant)
    found = composition_scores(model)
    kinds = "v" if variant.position == "rotary" else "qkv"  # the turn between queries and keys has tests of its own
    for layer in range(variant.n_layers):
        for later in range(variant.n_layers):
            for head in range(variant.n_heads):
                if later <= layer:
                    assert all(scores[layer, head, later].isnan().all() for scores in found.scores.values())
                    continue
                W_OV = whole_matrices(model, layer, head)[2]
                for reader in range(variant.n_heads):
                    W_Q, W_K, values = whole_matrices(model, later, reader)
                    read = {"q": W_Q @ W_K.T, "k": W_K @ W_Q.T, "v": values}
                    for kind in kinds:
                        score = found.score(kind, (layer, head), (later, reader))
                        assert score == pytest.approx(ratio(W_OV, read[kind]), abs=1e-12), kind


@torch.no_grad()
@pytest.mark.parametrize("rotary_dim", [4, 2])
def test_without_an_offset_it_is_the_mean_over_all_turns(rotary_dim: int, make_model: MakeModel, tiny_config: ModelConfig) -> None:
    """Each plane's angle at four even steps: the mean of a square, of the second degree in the turn, is that of all angles."""
    choices = {"norm": "rmsnorm", "norm_bias": False, "n_kv_heads": 2}
    model = make_model(tiny_config.replace(position="rotary", rotary_dim=rotary_dim, **choices))
    found, half = composition_scores(model), rotary_dim // 2
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    for head, reader in ((1, 2), (3, 0)):
        W_OV = whole_matrices(model, 0, head)[2]
        W_Q, W_K, values = whole_matrices(model, 1, reader)
        above = {"q": 0.0, "k": 0.0}
        below = 0.0
        for turns in product(range(4), repeat=half):
            R = torch.eye(4, dtype=torch.float64)
            for i, n in enumerate(turns):
                R[[[i], [i + half]], [i, i + half]] = torch.linalg.matrix_power(quarter, n)
            M = W_Q @ R @ W_K.T
            above["q"] += (W_OV @ M).square().sum()
            above["k"] += (W_OV @ M.T).square().sum()
            below += M.square().sum()
        for kind, square in above.items():
            expected = (square / below).sqrt() / W_OV.norm()
            assert found.score(kind, (0, head), (1, reader)) == pytest.approx(expected.item(), abs=1e-12)
        assert found.score("v", (0, head), (1, reader)) == pytest.approx(ratio(W_OV, values), abs=1e-12)


@torch.no_grad()
def test_at_an_offset_the_rotary_circuit_is_read(make_model: MakeModel, tiny_config: ModelConfig) -> None:
    model = make_model(tiny_config.replace(position="rotary", rotary_dim=2, n_kv_heads=2, norm="rmsnorm", norm_bias=False))
    found = composition_scores(model, ("q", "k"), offset=3)
    W_OV = whole_matrices(model, 0, 1)[2]
    circuits = [factored.qk_circuit(model, 1, head, offset=3, with_norm=True).AB for head in range(4)]
    assert found.score("q", (0, 1), (1, 2)) == pytest.approx(ratio(W_OV, circuits[2]), abs=1e-12)
    assert found.score("k", (0, 1), (1, 2)) == pytest.approx(ratio(W_OV, circuits[2].T), abs=1e-12)
    assert found.offset == 3


@torch.no_grad()
def test_weights_of_one_function_have_one_score(variant: ModelConfig, make_model: MakeModel) -> None:
    if variant.position == "attention_only":
        variant = variant.replace(position="none")
    model = make_model(variant)
    expected = composition_scores(model).scores
    others = [fold_norm(model), factor_ov(model)]
    others += [factor_qk(model)] if variant.position != "rotary" else []
    others += [centre_writing_weights(model)] if variant.norm == "layernorm" else []
    for other in others:
        for kind, scores in composition_scores(other).scores.items():
            torch.testing.assert_close(scores, expected[kind], rtol=0, atol=1e-11, equal_nan=True)


@torch.no_grad()
@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_the_baseline_is_the_root_mean_square_of_random_heads(norm: str, tiny_config: ModelConfig) -> None:
    squares, means = [], []
    config = tiny_config.replace(norm=norm, norm_bias=False, n_kv_heads=4, d_vocab=2, n_ctx=1, d_mlp=0)
    for seed in range(50):
        model = Transformer(config, generator=torch.Generator().manual_seed(seed)).double()
        found = composition_scores(model)
        scores = torch.stack([found.scores[kind][0, :, 1] for kind in ("q", "k", "v")])  # 3 x 4 x 4 pairs
        squares.append(scores.square().mean())
        means.append(scores.mean())
    squares, baseline = torch.stack(squares), found.baseline
    assert baseline == pytest.approx(1 / math.sqrt(15 if norm == "layernorm" else 16))
    # 50 independent models: their mean is known to its standard error, and 4 of those are allowed
    assert abs(squares.mean() - baseline**2) < 4 * squares.std() / math.sqrt(50)
    assert 0.93 * baseline < torch.stack(means).mean() < baseline


@torch.no_grad()
@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_deviations_are_those_of_a_head_turned_at_random(norm: str, tiny_config: ModelConfig) -> None:
    """A head's W_O turned in the space that it writes to: the squares' mean and deviation are as they are said to be."""
    model = Transformer(tiny_config.replace(norm=norm, norm_bias=False), generator=torch.Generator().manual_seed(3)).double()
    generator, W_O = torch.Generator().manual_seed(4), model.blocks[0].attn.W_O
    model.blocks[0].attn.W_V.weight[:2] *= 20  # spectra that are not even
    space = torch.eye(16, dtype=torch.float64)
    if norm == "layernorm":
        W_O.weight -= W_O.weight.mean(0)
        space = torch.linalg.qr(torch.cat([torch.ones(16, 1, dtype=torch.float64), space[:, :15]], 1))[0][:, 1:]
    own, found = W_O.weight.clone(), composition_scores(model, ("k",))
    squares = []
    for _ in range(1000):
        drawn = torch.randn(space.shape[1], space.shape[1], generator=generator, dtype=torch.float64)
        Q, R = torch.linalg.qr(drawn)
        W_O.weight.copy_(space @ (Q * R.diagonal().sign()) @ space.T @ own)
        squares.append(composition_scores(model, ("k",)).scores["k"][0, :, 1].square())
    drawn = torch.stack(squares)  # draw head later_head
    z = (found.scores["k"][0, :, 1].square() - drawn.mean(0)) / drawn.std(0)
    # 1,000 draws: a mean is off by 1/32 of a deviation, a deviation by some 4 %; of 16 each, 4 standard errors are allowed
    torch.testing.assert_close(
        drawn.mean(0), torch.full((4, 4), found.baseline**2, dtype=torch.float64), rtol=0, atol=4 * float(drawn.std(0).max()) / 32
    )
    torch.testing.assert_close(found.deviations["k"][0, :, 1], z, rtol=0.16, atol=4 / 32)


@torch.no_grad()
def test_what_a_group_keeps_for_another_head_does_not_count(make_model: MakeModel, tiny_config: ModelConfig) -> None:
    """Keys of a group that one of its heads does not look at may be as long as they like."""
    model = make_model(tiny_config.replace(n_kv_heads=2, norm="rmsnorm", norm_bias=False))
    attn = model.blocks[1].attn
    attn.W_Q.weight[:2] = 0  # head 0 looks at the last two coordinates of the keys that it shares with head 1
    before = composition_scores(model, ("k",))
    attn.W_K.weight[:2] *= 100
    after = composition_scores(model, ("k",))
    for head in range(4):
        assert after.score("k", (0, head), (1, 0)) == pytest.approx(before.score("k", (0, head), (1, 0)), abs=1e-12)
        assert abs(after.score("k", (0, head), (1, 1)) - before.score("k", (0, head), (1, 1))) > 1e-3


@torch.no_grad()
def test_a_planted_composition_is_found(tiny_config: ModelConfig) -> None:
    model = Transformer(tiny_config.replace(norm="rmsnorm", norm_bias=False), generator=torch.Generator().manual_seed(0)).double()
    written = model.blocks[0].attn.W_O.weight[:, 8:12]  # d_model d_head: what head 2 writes
    model.blocks[1].attn.W_K.weight[4:8] = written.T  # head 1's keys read just that
    found = composition_scores(model)
    best = found.strongest("k", n_pairs=1)[0]
    assert best[:4] == (0, 2, 1, 1)
    assert best.score > 2 * found.baseline
    assert best.excess == pytest.approx(best.score - found.baseline)
    assert all(found.score("k", (0, 2), (1, 1)) > 1.3 * found.score(kind, (0, 2), (1, 1)) for kind in ("q", "v"))
    assert "L1H1 reads L0H2 through its keys" in found.summary()


@torch.no_grad()
def test_a_head_that_writes_nothing_scores_nothing(tiny_model: Transformer) -> None:
    tiny_model.blocks[0].attn.W_O.weight[:, :4] = 0
    found = composition_scores(tiny_model)
    assert all((scores[0, 0, 1] == 0).all() for scores in found.scores.values())


def test_what_cannot_be_asked(tiny_model: Transformer, without_type_checks: None) -> None:
    with pytest.raises(ValueError, match="n_layers 1, and heads compose across layers"):
        composition_scores(Transformer(tiny_model.config.replace(n_layers=1)))
    with pytest.raises(ValueError, match="no composition 'o'; give some of 'q', 'k', 'v'"):
        composition_scores(tiny_model, ("o",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"layer 0 read none of layer 1: give"):
        composition_scores(tiny_model).score("k", (1, 0), (0, 0))


def test_every_query_head_of_a_group_has_a_score(make_model: MakeModel, tiny_config: ModelConfig) -> None:
    found = composition_scores(make_model(tiny_config.replace(n_kv_heads=2, n_layers=3)))
    for kind in ("q", "k", "v"):
        assert found.scores[kind].shape == found.deviations[kind].shape == (3, 4, 3, 4)
        assert len(found.strongest(kind, n_pairs=1000)) == 3 * 4 * 4
    best = found.strongest("k", n_pairs=1)[0]
    assert best.deviations == found.deviations["k"][best[:4]].item()


def test_a_result_is_data_and_shows_itself(make_model: MakeModel, tiny_config: ModelConfig) -> None:
    from rich.console import Console

    found = composition_scores(make_model(tiny_config.replace(n_layers=3)))
    content = json.loads(found.to_json())
    assert content["scores"]["k"][0][1][2][3] == found.score("k", (0, 1), (2, 3))
    assert content["scores"]["k"][2][1][2][3] is None
    assert content["baseline"] == found.baseline
    console = Console(width=80, record=True, color_system=None, force_terminal=True, file=StringIO())
    found.show(console)
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= 80
    for row in found.table()[1]:
        assert row[3] in shown
    assert len(found.figures()) == 3
