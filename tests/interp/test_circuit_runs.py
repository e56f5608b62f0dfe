"""Circuits run: beside the model itself, and beside a pass that computes one receiver after the other."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from cutaway import run_with_cache
from cutaway.interp import metrics
from cutaway.interp.circuits import Ablated, Circuit, CircuitRuns, Graph, ablated_outputs, circuit_metric, run_circuit
from interp.models import small_model, two_runs

ROUNDING = {"rtol": 0, "atol": 1e-10}  # float64 with logits below 100: sums of some hundred terms in another order


def random_mask(graph, share, seed=0):
    drawn = torch.rand(graph.has_edge.shape, generator=torch.Generator().manual_seed(seed))
    return graph.has_edge & (drawn < share)


def graphs_of(config):
    return [Graph(config, kv) for kv in (("group", "query-head") if config.n_kv_heads < config.n_heads else ("group",))]


def pair_of(make_tokens):
    """Two rows that differ from the fifth token on."""
    tokens = make_tokens()
    return tokens, torch.cat([tokens[:, :4], make_tokens(seed=2)[:, 4:]], dim=1)


def test_all_edges_are_the_model_and_none_the_other_run(variant, make_model, make_tokens):
    model, (tokens, other) = make_model(variant), pair_of(make_tokens)
    last = metrics.logit(3)
    for graph in graphs_of(variant):
        whole, empty = Circuit.of_mask(graph, graph.has_edge), Circuit(graph, ())
        for how in ("zero", "mean", "resample"):
            given = {"ablation": how, "other_tokens": other}
            torch.testing.assert_close(run_circuit(model, tokens, whole, **given), model(tokens), **ROUNDING)
            torch.testing.assert_close(circuit_metric(model, tokens, whole, last, **given), last(model(tokens)), **ROUNDING)
        torch.testing.assert_close(run_circuit(model, tokens, empty, other_tokens=other), model(other), **ROUNDING)
        torch.testing.assert_close(circuit_metric(model, tokens, empty, last, other_tokens=other), last(model(other)), **ROUNDING)


def test_all_edges_but_one_that_changes_nothing_are_the_model(variant, make_model, make_tokens):
    """The pass over receivers, which a whole model does not take: an edge between two runs that are alike is left out."""
    model, tokens = make_model(variant), make_tokens()
    for graph in graphs_of(variant):
        kept = graph.has_edge.clone()
        kept[0, -1] = False
        outside = ablated_outputs(model, tokens, "resample", other_tokens=tokens[:, :3].repeat(1, 3)[:, : tokens.shape[1]])
        runs = CircuitRuns(model, tokens, graph, replace(outside, embed=model.embed(tokens)))
        torch.testing.assert_close(runs.logits(kept), model(tokens), **ROUNDING)


@pytest.mark.parametrize("share", [0.5, 0.95, 1.0])
def test_half_precision_loses_no_more_than_the_model_does(share):
    """Beside the same weights in float64: a circuit in bfloat16 is off by no more than the whole model is."""
    coarse = small_model("rotary, grouped, gated", n_layers=8).bfloat16()
    exact = copy.deepcopy(coarse).double()
    tokens, other = two_runs(n_rows=4)
    graph = Graph(coarse.config)
    kept = random_mask(graph, share)
    found, truth = (
        CircuitRuns.of(model, tokens, Circuit.of_mask(graph, kept), ablation="resample", other_tokens=other).logits(kept)
        for model in (coarse, exact)
    )
    assert found.dtype == torch.bfloat16
    assert (found - truth).square().mean() <= (coarse(tokens) - exact(tokens)).square().mean()
    if share == 1:
        assert torch.equal(found, coarse(tokens)), "with every edge kept it is the model's own run, to the bit"


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_a_circuit_is_what_its_receivers_read_one_by_one(variant, make_model, make_tokens, how):
    model, (tokens, other) = make_model(variant), pair_of(make_tokens)
    last = metrics.logit(3)
    for graph in graphs_of(variant):
        for share in (0.1, 0.7):
            kept = random_mask(graph, share, seed=int(10 * share))
            outside = ablated_outputs(model, tokens, how, other_tokens=other)
            runs = CircuitRuns(model, tokens, graph, outside)
            with torch.no_grad():
                expected = by_receiver(model, tokens, graph, kept, outside)
                assert not torch.allclose(expected, model(tokens), atol=1e-3), "the mask must matter"
            torch.testing.assert_close(runs.logits(kept), expected, **ROUNDING)
            torch.testing.assert_close(runs.metric(kept, last), last(expected), **ROUNDING)


def by_receiver(model, tokens, graph, kept, outside: Ablated):
    """The same by the definition: a dictionary of what is written, a loop over receivers, attention position by position."""
    config = model.config
    written, instead, constant = {"embed": model.embed(tokens)}, {"embed": outside.embed.expand_as(model.embed(tokens))}, 0
    places = {str(node): i for i, node in enumerate(graph.receivers)}
    offset = 0 if model.qk_positions is None else model.qk_positions(torch.arange(tokens.shape[1]))

    def read(receiver):
        column = kept[:, places[receiver]]
        return constant + sum(
            written[name] if column[i] else instead[name]
            for i, name in enumerate(map(str, graph.senders))
            if name in written  # nobody reads what is not there yet
        )

    def head(block, layer, h):
        g = h // (config.n_heads // config.n_kv_heads)
        shared = graph.kv == "group" and config.n_kv_heads < config.n_heads
        kv = f"L{layer}G{g}" if shared else f"L{layer}H{h}"
        x = {"q": read(f"L{layer}H{h}.q"), "k": read(f"{kv}.k"), "v": read(f"{kv}.v")}
        whole = {  # all heads' projections, of which one is taken: the model's own code on one input at a time
            "q": block.attn.W_Q(block.ln1(x["q"]) + offset).unflatten(-1, (config.n_heads, -1))[:, :, h],
            "k": block.attn.W_K(block.ln1(x["k"]) + offset).unflatten(-1, (config.n_kv_heads, -1))[:, :, g],
            "v": block.attn.W_V(block.ln1(x["v"])).unflatten(-1, (config.n_kv_heads, -1))[:, :, g],
        }
        q, k = (whole[name][:, :, None] for name in "qk")
        if model.rotary is not None:
            q, k = (model.rotary(each, torch.arange(tokens.shape[1])) for each in (q, k))
        scores = q[:, :, 0] @ k[:, :, 0].mT / math.sqrt(config.d_head)
        if config.is_causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -math.inf)
        W_O = block.attn.W_O.weight[:, h * config.d_head : (h + 1) * config.d_head]
        return scores.softmax(-1) @ whole["v"] @ W_O.T, outside.z[layer][:, :, h] @ W_O.T

    for layer, block in enumerate(model.blocks):
        new = {f"L{layer}H{h}": head(block, layer, h) for h in range(config.n_heads)}
        late = constant + (0 if block.attn.W_O.bias is None else block.attn.W_O.bias)
        norm = block.ln2 or block.ln1
        if config.block == "parallel" and config.d_mlp:
            mlp = block.mlp(norm(read(f"mlp{layer}")))
        written |= {name: now for name, (now, _) in new.items()}
        instead |= {name: then.expand_as(now) for name, (now, then) in new.items()}
        constant = late
        if config.d_mlp:
            written[f"mlp{layer}"] = mlp if config.block == "parallel" else block.mlp(norm(read(f"mlp{layer}")))
            instead[f"mlp{layer}"] = outside.mlp_out[layer].expand_as(written[f"mlp{layer}"])
    return model.unembed(read("logits"))


def test_the_metric_is_that_of_the_logits_and_rows_may_go_one_by_one():
    model, (tokens, other) = small_model("rotary, grouped, gated"), two_runs(n_rows=5)
    circuit = Circuit.of_mask(Graph(model.config), random_mask(Graph(model.config), 0.5))
    logits = run_circuit(model, tokens, circuit, other_tokens=other)
    for metric in (
        metrics.logit_diff([1, 2, 3, 4, 5], 7),
        metrics.log_prob(3, pos=2),
        metrics.kl(model(tokens), pos=None),
        metrics.loss(tokens),
        lambda logits: logits[:, -1, 3],
    ):
        for memory_gib in (1.0, 1e-9):
            found = circuit_metric(model, tokens, circuit, metric, other_tokens=other, memory_gib=memory_gib)
            torch.testing.assert_close(found, metric(logits), **ROUNDING)


def test_means_are_over_the_reference_at_each_position_or_all():
    model, (tokens, other) = small_model(), two_runs(n_rows=3)
    _, cache = run_with_cache(model, other)
    by_position = ablated_outputs(model, tokens, "mean", other_tokens=other)
    over = ablated_outputs(model, tokens, "mean", other_tokens=other, over_positions=True)
    for layer in range(3):
        torch.testing.assert_close(by_position.z[layer], cache["z", layer].mean(0, keepdim=True))
        torch.testing.assert_close(over.mlp_out[layer], cache["mlp_out", layer].mean((0, 1), keepdim=True))
    torch.testing.assert_close(over.embed, cache["resid_pre", 0].mean((0, 1), keepdim=True))
    short = ablated_outputs(model, tokens, "mean", reference=other[:, :4], over_positions=True)
    assert short.z[0].shape == (1, 1, 4, 8)


def test_nothing_is_left_on_the_model():
    model, (tokens, other) = small_model(), two_runs()
    before, was_training = model(tokens), model.train().training
    circuit = Circuit.of_mask(Graph(model.config), random_mask(Graph(model.config), 0.3))
    run_circuit(model, tokens, circuit, other_tokens=other)
    assert model.training is was_training
    assert torch.equal(model.eval()(tokens), before)
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())


def test_a_model_without_layers_has_one_edge():
    model, (tokens, other) = small_model(n_layers=0), two_runs()
    graph = Graph(model.config)
    assert [str(edge) for edge in graph.edges()] == ["embed->logits"]
    for how in ("zero", "mean", "resample"):
        whole = Circuit.of_mask(graph, graph.has_edge)
        torch.testing.assert_close(run_circuit(model, tokens, whole, ablation=how, other_tokens=other), model(tokens), **ROUNDING)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "give other_tokens"),
        ({"ablation": "mean"}, "give reference or other_tokens"),
        ({"other_tokens": torch.zeros(2, 5, dtype=torch.long)}, "the tokens are 2 rows of 9 and the other tokens 2 rows of 5"),
        ({"ablation": "mean", "reference": torch.zeros(4, 5, dtype=torch.long)}, "or over_positions=True"),
    ],
)
def test_what_is_missing_is_said(options, said):
    model, (tokens, _) = small_model(), two_runs()
    with pytest.raises(ValueError, match=said):
        run_circuit(model, tokens, Circuit(Graph(model.config), ()), **options)
