"""Head importance against a mask that is differentiated, finite differences and single runs; backup effects against sums."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.hooks import Hooks
from cutaway.interp import metrics
from cutaway.interp.ablation import ablate, backup_effects, gradient_importance, head_importance
from cutaway.interp.ranks import rank_correlation
from cutaway.model import Transformer

MakeModel = Callable[..., Transformer]
MakeTokens = Callable[..., Tensor]

EXACT = 1e-10  # float64, the same sums in another order


def masked(mask: Tensor) -> Hooks:
    """Hooks that multiply every head by its switch, "layer batch pos head"."""
    return Hooks({"blocks.*.attn.z": lambda z, name: z * mask[int(name.split(".")[1])][..., None]})


def correlation_of_ranks(a: Tensor, b: Tensor) -> float:
    """Spearman's, from counts of what is smaller and what is equal."""
    ranks = [(x[None] < x[:, None]).double().sum(1) + ((x[None] == x[:, None]).double().sum(1) + 1) / 2 for x in (a, b)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def row_losses(model: Transformer, tokens: Tensor, mask: Tensor) -> Tensor:
    logits = model(tokens, hooks=masked(mask))
    return torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none").mean(dim=1)


@pytest.mark.parametrize("per", ["row", "position"])
def test_it_is_the_derivative_of_a_switch(
    causal_variant: ModelConfig, make_model: MakeModel, make_tokens: MakeTokens, per: str
) -> None:
    if causal_variant.d_vocab_out != causal_variant.d_vocab:
        pytest.skip("predicts other words, so there is no loss")
    model, tokens = make_model(causal_variant), make_tokens(batch=3)
    n_layers, n_heads = causal_variant.n_layers, causal_variant.n_heads
    switch = torch.ones(n_layers, 3, 1 if per == "row" else 9, n_heads, dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(row_losses(model, tokens, switch.expand(-1, -1, 9, -1)).sum(), switch)
    expected = slopes.abs().sum(dim=2).mean(dim=1)
    found = gradient_importance(model, tokens, per=per)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, rtol=0, atol=EXACT)
    normalized = gradient_importance(model, tokens, per=per, normalize=True)  # type: ignore[arg-type]
    torch.testing.assert_close(normalized, expected / expected.square().sum(1, keepdim=True).sqrt(), rtol=0, atol=EXACT)
    assert all(weight.grad is None for weight in model.parameters())


def test_it_is_what_a_small_turn_of_the_switch_changes(
    make_model: MakeModel, make_tokens: MakeTokens, tiny_config: ModelConfig
) -> None:
    model, tokens = make_model(tiny_config), make_tokens()
    found, step = gradient_importance(model, tokens), 1e-4
    for layer, head in [(0, 0), (0, 3), (1, 2)]:
        sides = []
        for sign in (1, -1):
            mask = torch.ones(2, 2, 9, 4, dtype=torch.float64)
            mask[layer, :, :, head] += sign * step
            with torch.no_grad():
                sides.append(row_losses(model, tokens, mask))
        slope = ((sides[0] - sides[1]) / (2 * step)).abs().mean()
        assert float(found[layer, head]) == pytest.approx(float(slope), abs=1e-6)  # the error of central differences is of step**2


def test_both_measures_of_a_head(make_model: MakeModel, make_tokens: MakeTokens, tiny_config: ModelConfig) -> None:
    model, tokens = make_model(tiny_config), make_tokens(batch=3)
    found = head_importance(model, tokens)
    ones = torch.ones(2, 3, 9, 4, dtype=torch.float64)
    with torch.no_grad():
        base = row_losses(model, tokens, ones)
        for layer in range(2):
            for head in range(4):
                mask = ones.clone()
                mask[layer, :, :, head] = 0
                change = row_losses(model, tokens, mask) - base
                assert float(found.effects[layer, head]) == pytest.approx(float(change.mean()), abs=EXACT)
                assert float(found.by_ablation[layer, head]) == pytest.approx(float(change.abs().mean()), abs=EXACT)
    expected = correlation_of_ranks(found.by_ablation.flatten(), found.by_gradient.flatten())
    assert found.rank_correlation == pytest.approx(expected, abs=EXACT)
    ordered = [float(found.by_gradient[head]) for head in found.ranked("gradient")]
    assert ordered == sorted(ordered, reverse=True)
    found.to_json()
    assert len(found.figures()) == 2
    assert found.views()
    assert "correlation" in found.summary()
    assert "they part where rows' signs differ" in found.summary()
    assert "rows' signs" not in head_importance(model, tokens[:1]).summary()


def test_progress_is_told_of_every_head(make_model: MakeModel, make_tokens: MakeTokens, tiny_config: ModelConfig) -> None:
    told: list[tuple[int, int]] = []
    head_importance(make_model(tiny_config), make_tokens(), progress=lambda done, total: told.append((done, total)))
    assert told
    assert told[-1][0] == told[-1][1]


def test_ranks_that_are_shared() -> None:
    a = torch.tensor([1.0, 2.0, 2.0, 3.0, 0.0], dtype=torch.float64)
    b = torch.tensor([5.0, 1.0, 4.0, 4.0, 4.0], dtype=torch.float64)
    assert rank_correlation(a, b) == pytest.approx(correlation_of_ranks(a, b), abs=EXACT)
    # ranks 2, 3.5, 3.5, 5, 1 and 5, 1, 3, 3, 3, by hand
    assert rank_correlation(a, b) == pytest.approx(-3 / (9.5 * 8) ** 0.5, abs=EXACT)
    assert rank_correlation(a, torch.zeros(5, dtype=torch.float64)) is None


def test_dropout_is_left_out_and_left_on(make_model: MakeModel, make_tokens: MakeTokens, tiny_config: ModelConfig) -> None:
    model = make_model(tiny_config.replace(dropout=0.5)).train()
    tokens = make_tokens()
    assert torch.equal(gradient_importance(model, tokens), gradient_importance(model, tokens))
    assert torch.equal(ablate(model, tokens).scores, ablate(model, tokens).scores)
    assert model.training


@pytest.mark.parametrize("everywhere", [False, True])
def test_contributions_before_and_after(
    causal_variant: ModelConfig, make_model: MakeModel, make_tokens: MakeTokens, everywhere: bool
) -> None:
    """Each is the difference that taking the part off the final stream makes, its scale left alone."""
    model, tokens = make_model(causal_variant), make_tokens()
    found = backup_effects(model, tokens, (0, 1), correct=3, wrong=[5, 6], pos=-2, everywhere=everywhere)

    def out(z: Tensor, name: str) -> Tensor:
        z = z.clone()
        z[:, :, 1][:, slice(None) if everywhere else slice(-2, -1)] = 0
        return z

    last = f"blocks.{causal_variant.n_layers - 1}.resid_post"
    wanted = (
        [f"blocks.{layer}.attn.z" for layer in range(1, causal_variant.n_layers)]
        + [last]
        + ["blocks.*.mlp_out"] * (causal_variant.d_mlp > 0)
    )
    wanted += ["ln_final.scale"] * (causal_variant.norm != "none")
    runs = []
    for first in ([], [out]):
        cache: dict[str, Tensor] = {}

        def keep(x: Tensor, name: str, cache: dict[str, Tensor] = cache) -> None:
            cache[name] = x

        named = {name: [keep] for name in wanted} | {"blocks.0.attn.z": [*first, keep]}
        with torch.no_grad():
            logits = model(tokens, hooks=Hooks(named))
        runs.append((cache, logits))
    (before, base_logits), (after, edited_logits) = runs
    scale = before["ln_final.scale"][:, -2] if "ln_final.scale" in before else torch.ones(2, 1, dtype=torch.float64)
    norm = model.unembed.ln_final
    answers, wrong = torch.tensor([3, 3]), torch.tensor([5, 6])
    W = model.unembed.W_U.weight  # d_vocab d_model

    def logit(vectors: Tensor) -> Tensor:
        """The logit difference of vectors that add up to the stream, "batch d_model", without biases."""
        x = vectors - vectors.mean(-1, keepdim=True) if causal_variant.norm == "layernorm" else vectors
        x = x / scale * (norm.weight if causal_variant.norm != "none" else 1.0)
        return (x * (W[answers] - W[wrong])).sum(-1).detach()

    for run, heads, mlps in ((before, found.heads_before, found.mlps_before), (after, found.heads_after, found.mlps_after)):
        for layer in range(causal_variant.n_layers):
            z, W_O = run[f"blocks.{layer}.attn.z"][:, -2], model.blocks[layer].attn.W_O.weight
            for head in range(causal_variant.n_heads):
                columns = slice(head * z.shape[-1], (head + 1) * z.shape[-1])
                torch.testing.assert_close(heads[layer, head], logit(z[:, head] @ W_O[:, columns].T), rtol=0, atol=EXACT)
            expected = logit(run[f"blocks.{layer}.mlp_out"][:, -2]) if causal_variant.d_mlp else torch.zeros(2)
            torch.testing.assert_close(mlps[layer], expected.double(), rtol=0, atol=EXACT)
    asked = [logits[range(2), -2, answers] - logits[range(2), -2, wrong] for logits in (base_logits, edited_logits)]
    torch.testing.assert_close(found.logit_before, asked[0], rtol=0, atol=EXACT)
    torch.testing.assert_close(found.logit_after, asked[1], rtol=0, atol=EXACT)
    # what all parts change is what the stream changes, at the scale before
    stream = (logit(after[last][:, -2]) - logit(before[last][:, -2])).mean()
    changed = float(found.changes.sum() + found.mlp_changes.sum()) - found.lost
    assert changed == pytest.approx(float(stream), abs=EXACT)
    assert not found.heads_after[0, 1].any()
    assert torch.equal(
        found.heads_after[0, [0, 2, 3]], found.heads_before[0, [0, 2, 3]]
    )  # heads of the layer do not see each other


def test_backup_effects_are_shown(make_model: MakeModel, make_tokens: MakeTokens, tiny_config: ModelConfig) -> None:
    model, tokens = make_model(tiny_config), make_tokens()
    found = backup_effects(model, tokens, (-2, 1), how="mean", reference=make_tokens(seed=3))
    assert (found.layer, found.head) == (0, 1)
    assert "is the model's own" in found.said[0]
    assert "Without it the heads and MLPs after it add" in found.summary()
    found.to_json()
    assert len(found.figures()) == 2
    assert len(found.views()) == 2
    assert all((layer, head) != (0, 1) for layer, head, _ in found.ranked())
    with pytest.raises(ValueError, match="there is no head 4 of layer 0"):
        backup_effects(model, tokens, (0, 4))


def test_metrics_without_a_loss(make_model: MakeModel, make_tokens: MakeTokens, tiny_config: ModelConfig) -> None:
    model = make_model(tiny_config.replace(d_vocab_out=7, tie_embeddings=False))
    with pytest.raises(ValueError, match="does not predict the next token"):
        head_importance(model, make_tokens())
    assert head_importance(model, make_tokens(), metric=metrics.logit(3)).metric == "logit"
