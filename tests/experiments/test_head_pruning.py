"""What pruning and the ranking of heads are measured by, and the experiment at the reduced scale."""

import math

import pytest
import torch
import torch.nn.functional as F

from cutaway import ModelConfig, Transformer, experiments
from cutaway.experiments.head_pruning import _counts, _interval, _pruned, _rank, _Ranked, _shuffled

N_LAYERS, N_HEADS = 2, 3


@pytest.fixture
def model() -> Transformer:
    config = ModelConfig(d_vocab=11, n_ctx=8, n_layers=N_LAYERS, n_heads=N_HEADS, d_model=12, d_mlp=16)
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0), std=0.5)
    return model.double()


def drawn(seed: int) -> torch.Tensor:
    return torch.randint(11, (5, 8), generator=torch.Generator().manual_seed(seed))


def loss_with(model: Transformer, tokens: torch.Tensor, switches: torch.Tensor) -> torch.Tensor:
    """The mean loss of each row with every head multiplied by its switch, in the weights that write it."""
    weights = {}
    for layer in range(N_LAYERS):
        of_columns = switches[layer].repeat_interleave(model.config.d_head)
        weights[f"blocks.{layer}.attn.W_O.weight"] = model.blocks[layer].attn.W_O.weight * of_columns
    logits = torch.func.functional_call(model, weights, (tokens,))
    return F.cross_entropy(logits[:, :-1].mT, tokens[:, 1:], reduction="none").mean(1)


def test_pruned_heads_write_nothing(model: Transformer) -> None:
    tokens = drawn(1)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    lost = _pruned(model, tokens, {"one": order, "back": order.flip(0)}, [0, 2, 6])
    base = loss_with(model, tokens, torch.ones(N_LAYERS, N_HEADS)).mean()
    for row, each in enumerate((order, order.flip(0))):
        for column, count in enumerate((0, 2, 6)):
            switches = torch.ones(6).index_fill(0, each[:count], 0).reshape(N_LAYERS, N_HEADS)
            expected = (loss_with(model, tokens, switches).mean() - base).item()
            assert lost[row, column].item() == pytest.approx(expected, abs=1e-12)


def test_ranks_by_gradient_on_one_text_and_by_cost_on_another(model: Transformer) -> None:
    learnt, held_out = drawn(1), drawn(2)
    ranked = _rank(model, learnt, held_out)
    ones = torch.ones(N_LAYERS, N_HEADS, dtype=torch.float64)
    of_rows = torch.autograd.functional.jacobian(lambda switches: loss_with(model, learnt, switches), ones)
    torch.testing.assert_close(ranked.by_gradient, of_rows.abs().mean(0).flatten())
    for head in range(6):
        layer, place = divmod(head, N_HEADS)
        columns, attn = slice(4 * place, 4 * place + 4), model.blocks[layer].attn
        written = attn.W_O.weight[:, columns] @ attn.W_V.weight[columns]
        assert ranked.by_weights[head].item() == pytest.approx(written.norm().item())
        without = ones.flatten().index_fill(0, torch.tensor([head]), 0).reshape(N_LAYERS, N_HEADS)
        expected = (loss_with(model, held_out, without) - loss_with(model, held_out, ones)).mean()
        assert ranked.cost[head].item() == pytest.approx(expected.item(), abs=1e-12)


def test_points_of_a_curve_hold_the_share() -> None:
    assert _counts(64, 0.3) == [0, 8, 16, 19, 24, 32, 40, 48, 56, 64]
    assert _counts(4, 0.5) == [0, 1, 2, 3, 4]


def test_random_orders_agree_as_chance_has_it() -> None:
    cost = torch.randn(26, generator=torch.Generator().manual_seed(0))
    found = _shuffled(_Ranked(cost, cost, cost), generator=torch.Generator().manual_seed(1))
    assert found.mean().abs() < 0.02  # 2,000 draws of standard deviation 1/5
    assert found.std().item() == pytest.approx(1 / math.sqrt(25), abs=0.01)  # exact variance of Spearman's: 1 / (n - 1)


def test_interval_of_a_rank_correlation() -> None:
    low, high = _interval(0.0, 28).values()
    assert (low, high) == (pytest.approx(-math.tanh(1.96 / 5)), pytest.approx(math.tanh(1.96 / 5)))
    assert list(_interval(1.0, 64).values()) == [1, 1]
    assert list(_interval(-1.0, 64).values()) == [-1, -1]
    low, high = _interval(0.8, 64).values()
    assert low < 0.7 < 0.8 < high < 0.9


@pytest.mark.slow
def test_reduced_experiment_passes() -> None:
    experiment = experiments.experiment("head-pruning")
    result = experiments.run("head-pruning", experiment.scale("reduced").config)
    assert result.passed, list(result.failures())
    assert not any(check.null_passes for check in result.outcomes[0].checks)
    assert len(result.figures()) == 3
