"""Edges scored under zero and mean ablation: beside autograd, one edge ablated in a model written out, and nodes' own effects."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.interp import edits, metrics
from cutaway.interp.circuits import CircuitRuns, Graph, ablated_outputs, faithfulness_curve, score_edges
from cutaway.interp.sweep import sweep
from cutaway.model import Transformer
from interp.edge_streams import METRIC, SMOOTH, Streams, pair, record, same, still
from interp.models import with_small_weights

MakeModel = Callable[..., Transformer]


def written_ablated(model: Transformer, how: str, other_tokens: Tensor) -> dict[str, Tensor]:
    """What every sender writes when ablated, from a model written out: nothing, or its mean over rows at each position."""
    with torch.no_grad():
        other = Streams(model, other_tokens).written
    return {name: torch.zeros_like(x) if how == "zero" else x.mean(0, keepdim=True).expand_as(x) for name, x in other.items()}


class OneEdge(Streams):
    """The same with some edges that carry something else."""

    def __init__(self, model: Transformer, tokens: Tensor, moved: Mapping[tuple[str, str], Tensor]) -> None:
        self.moved = moved
        super().__init__(model, tokens)

    def stream(self, receiver: str) -> Tensor:
        total = super().stream(receiver)
        return total + sum(x for (_, to), x in self.moved.items() if to == receiver)


@pytest.mark.parametrize("how", ["zero", "mean"])
def test_scores_are_gradients_times_what_ablation_takes_away(
    how: Any, variant: ModelConfig, make_model: MakeModel, make_tokens: Callable
) -> None:
    model, (tokens, other_tokens) = make_model(variant), pair(make_tokens)
    run, ablated = Streams(model, tokens), written_ablated(model, how, other_tokens)
    grads = torch.autograd.grad(METRIC(run.logits).mean(), list(run.leaves.values()))
    found = score_edges(model, tokens, other_tokens, METRIC, ablation=how)
    for (sender, receiver), grad in zip(run.leaves, grads, strict=True):
        expected = ((ablated[sender] - run.written[sender]) * grad).sum().detach()
        same(found.scores[found.graph.place(found.graph.parse(f"{sender}->{receiver}"))], expected, msg=f"{sender}->{receiver}")
    same(found.base, METRIC(model(tokens)).detach())
    assert found.ablation == how
    assert f"with everything ablated ({'zeros' if how == 'zero' else 'its mean over'}" in found.summary()


@pytest.mark.parametrize("how", ["zero", "mean"])
def test_an_edge_tried_is_one_edge_ablated(
    how: Any, tiny_config: ModelConfig, make_model: MakeModel, make_tokens: Callable
) -> None:
    model = make_model(tiny_config.replace(norm="rmsnorm", position="rotary", n_kv_heads=2))
    tokens, other_tokens = pair(make_tokens)
    found = score_edges(model, tokens, other_tokens, METRIC, ablation=how, method="exact")
    some = score_edges(model, tokens, other_tokens, METRIC, ablation=how, exact_top=5)
    base, ablated = Streams(model, tokens), written_ablated(model, how, other_tokens)
    clean = METRIC(base.logits)
    for edge in found.graph.edges():
        moved = (ablated[str(edge.sender)] - base.written[str(edge.sender)]).detach()
        expected = METRIC(OneEdge(model, tokens, {(str(edge.sender), str(edge.receiver)): moved}).logits) - clean
        same(found.scores[found.graph.place(edge)], expected.mean().detach(), msg=str(edge))
    assert len(some.exact) == 5
    for edge, effect in some.exact.items():
        assert effect == pytest.approx(found.score(edge), abs=1e-12)
    same(found.other, some.other)


@pytest.mark.parametrize("how", ["zero", "mean"])
def test_all_methods_are_exact_where_the_rest_is_affine(
    how: Any, tiny_config: ModelConfig, make_model: MakeModel, make_tokens: Callable
) -> None:
    model, (tokens, other_tokens) = still(make_model(tiny_config.replace(act="relu", norm="none", d_mlp=0))), pair(make_tokens)
    ask = partial(score_edges, model, tokens, other_tokens, METRIC, ablation=how, steps=1)
    exact = ask(method="exact").scores
    assert exact.nan_to_num().abs().max() > 0.01
    for method in ("eap", "eap-ig-inputs", "eap-ig-activations"):
        torch.testing.assert_close(ask(method=method).scores, exact, rtol=0, atol=1e-9, equal_nan=True)


@pytest.fixture(params=SMOOTH)
def smooth_model(request: pytest.FixtureRequest, tiny_config: ModelConfig, make_model: MakeModel) -> Transformer:
    return with_small_weights(make_model(tiny_config.replace(**SMOOTH[request.param])))


def test_along_activations_a_senders_edges_sum_to_its_mean_ablation(smooth_model: Transformer, make_tokens: Callable) -> None:
    tokens, other_tokens = pair(make_tokens)
    other, patches = record(smooth_model, other_tokens), []
    for node in Graph(smooth_model.config).senders:
        name = {"embed": "embed", "head": f"blocks.{node.layer}.attn.z", "mlp": f"blocks.{node.layer}.mlp_out"}[node.kind]
        mean = other[name].mean(0, keepdim=True).expand_as(other[name])
        patches.append([edits.replace(name, (mean if node.index is None else mean[:, :, node.index]).clone(), head=node.index)])
    effects = sweep(smooth_model, tokens, [*patches, []], METRIC)
    exact = (effects[:-1] - effects[-1]).mean(1)
    ask = partial(score_edges, smooth_model, tokens, other_tokens, METRIC, method="eap-ig-activations", ablation="mean")
    off = {steps: (ask(steps=steps).scores.nansum(1) - exact).abs().max().item() for steps in (2, 16)}
    assert exact.abs().max() > 0.01
    assert off[16] < 1e-3 * exact.abs().max()
    assert off[16] < off[2] / 20  # the middles of equal parts are off by about 1 / steps^2


def test_along_inputs_the_embeddings_edges_sum_to_the_run_from_their_mean(smooth_model: Transformer, make_tokens: Callable) -> None:
    tokens, other_tokens = pair(make_tokens)
    with torch.no_grad():
        mean = smooth_model.embed(other_tokens).mean(0, keepdim=True).expand(len(tokens), -1, -1)
        gap = (METRIC(smooth_model.unembed(smooth_model.run_blocks(mean))) - METRIC(smooth_model(tokens))).mean().item()
    found = score_edges(smooth_model, tokens, other_tokens, METRIC, method="eap-ig-inputs", ablation="mean", steps=64)
    assert found.scores[0].nansum().item() == pytest.approx(gap, abs=5e-3 * abs(gap))
    assert found.completeness is None  # the gap to everything ablated is another


def test_to_first_order_what_a_norm_divides_out_is_not_missed(
    tiny_config: ModelConfig, make_model: MakeModel, make_tokens: Callable
) -> None:
    """The embedding is all that the first layer's norm reads: its size changes nothing, so that its gradient along itself is 0 (Euler).

    Taken away altogether it changes much, which trying its edges shows and no score to first order does, on no point of the line.
    """
    model = make_model(tiny_config.replace(norm="rmsnorm", norm_eps=1e-12, position="rotary"))
    tokens, other_tokens = pair(make_tokens)
    first = [i for i, node in enumerate(Graph(model.config).receivers) if node.layer == 0 and node.kind == "head"]
    ask = partial(score_edges, model, tokens, other_tokens, METRIC, ablation="zero", steps=3)
    for method in ("eap", "eap-ig-inputs"):
        assert ask(method=method).scores[0, first].abs().max() < 1e-8  # norm_eps is 1e-12, and embeddings about 1
    model = make_model(tiny_config.replace(norm="rmsnorm", norm_eps=1e-5, position="rotary"))  # what is 0 is divided by more than 0
    ask = partial(score_edges, model, tokens, other_tokens, METRIC, ablation="zero", steps=3)
    found = ask()
    assert found.scores[0, first].abs().max() < 1e-3
    assert "an edge that carries most of it scores near 0 and may do much" in found.summary()
    assert "may do much" not in ask(method="exact").summary()
    assert ask(method="exact").scores[0, first].abs().max() > 0.05
    assert score_edges(model, tokens, other_tokens, METRIC, ablation="resample").scores[0, first].abs().max() > 0.05


def test_rows_are_scored_alike_together_and_apart(tiny_model: Transformer, make_tokens: Callable) -> None:
    tokens, other_tokens = pair(make_tokens)
    graph, metric = Graph(tiny_model.config), metrics.logit_diff([3, 4], [5, 6])
    for how in ("zero", "mean"):
        outside = ablated_outputs(tiny_model, tokens, how, other_tokens=other_tokens)  # type: ignore[arg-type]
        together = score_edges(tiny_model, tokens, other_tokens, metric, ablation=how)  # type: ignore[arg-type]
        apart = [
            score_edges(tiny_model, tokens[[i]], other_tokens[[i]], metrics.logit_diff(3 + i, 5 + i), ablation=outside).scores
            for i in range(2)
        ]
        same(together.scores, torch.stack(apart).mean(0))
        runs = CircuitRuns(tiny_model, tokens, graph, outside)
        same(together.other, runs.metric(runs.nothing, metric))


def test_shorter_rows_are_scored_as_if_alone(tiny_model: Transformer, make_tokens: Callable) -> None:
    tokens, other_tokens = pair(make_tokens)
    for method in ("eap", "exact"):
        ask = partial(score_edges, tiny_model, metric=metrics.log_prob(4), method=method, ablation="zero")
        found = ask(tokens, other_tokens, lengths=[9, 7]).scores
        alone = [ask(tokens[[i], :n], other_tokens[[i], :n]).scores for i, n in enumerate((9, 7))]
        same(found, torch.stack(alone).mean(0))


def test_held_norms_are_not_tried(tiny_model: Transformer, make_tokens: Callable) -> None:
    with pytest.raises(ValueError, match="tried under zero ablation with live norms: leave frozen out"):
        score_edges(tiny_model, *pair(make_tokens), METRIC, ablation="zero", frozen="ln_final", exact_top=3)


def test_scores_of_an_ablation_rank_the_edges_of_its_curve(tiny_model: Transformer, make_tokens: Callable) -> None:
    """Edges scored exactly under zero ablation keep more of the model at half the graph than those scored under another."""
    tokens, other_tokens = pair(make_tokens)
    own, other = (
        score_edges(tiny_model, tokens, other_tokens, METRIC, method="exact", ablation=how) for how in ("zero", "resample")
    )
    curve = [
        faithfulness_curve(
            tiny_model, tokens, other_tokens, METRIC, own.graph, each.scores, shares=[0.5], ablations=["zero"], least_gap=1e-6
        ).curves[0]
        for each in (own, other)
    ]
    assert abs(1 - float(curve[0].normalised[0])) < abs(1 - float(curve[1].normalised[0]))
