"""Attribution graphs: sums that are exact, edges by other roads, influence along all paths, and what pruning keeps."""

import copy
import dataclasses
import itertools
import json

import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection

import cutaway
from cutaway import ModelConfig, attribution_graphs, sae
from cutaway.hooks import Hooks
from cutaway.interp.attribution_graphs.influence import cumulative, edge_influence, influence, prune, shares, strongest_paths
from interp.small_transcoders import EXACT, a_transcoder, gap


def test_edges_and_biases_add_up_to_what_targets_read(variant, make_model, make_tokens):
    model, row = make_model(variant), make_tokens(batch=1)
    if variant.d_mlp == 0:
        with pytest.raises(ValueError, match="predicts no MLP's output of this model"):
            attribution_graphs.attribute(model, row, [a_transcoder(model, 0)])
        return
    for layers, has_skip in (((0, 1), False), ((1,), True), ((0, 1), True)):
        made = [
            a_transcoder(model, layer, kind, has_skip=has_skip)
            for layer, kind in zip((0, 1), ("topk", "relu"), strict=True)
            if layer in layers
        ]
        graph = attribution_graphs.attribute(model, row, made, probability=0.9)
        assert gap(graph) < EXACT
        assert (
            graph.values[: graph.n_features] - graph.activations
        ).abs().max() < EXACT  # above zero all kinds pass on what they read
        logits = model(row)[0, -1]
        expected = (logits - logits.mean())[list(graph.logits)]
        torch.testing.assert_close(graph.values[graph.n_features :], expected, atol=EXACT, rtol=0)
        torch.testing.assert_close(graph.probs, logits.softmax(-1)[list(graph.logits)], atol=EXACT, rtol=0)
        assert graph.edges.abs().max() > 0.01
        assert graph.n_features == graph.n_active > 10


@pytest.mark.parametrize("reads", ["resid_pre", "ln1.normalized", "attn_out", "resid_mid", "ln2.normalized"])
@pytest.mark.parametrize("pos", [-1, 3])
def test_a_transcoder_may_read_anything_before_its_mlp(tiny_model, tokens, reads, pos):
    made = [a_transcoder(tiny_model, layer, reads=reads) for layer in (0, 1)]
    graph = attribution_graphs.attribute(tiny_model, tokens[:1], made, pos=pos)
    assert gap(graph) < EXACT
    logits = tiny_model(tokens[:1])[0, pos]
    assert graph.values[graph.n_features].item() == pytest.approx((logits.max() - logits.mean()).item(), abs=EXACT)


def run_with_write(model, row, dictionaries, changed):
    """Return the logits and what encoders read when MLPs write constants, moved, and the skips of what comes to them."""
    _, plain = cutaway.run_with_cache(model, row)
    reads = {}
    functions = {
        name: (lambda x, _, kept=plain[name]: kept)
        for name in model.hook_names()
        if name.endswith(("attn.pattern", "ln1.scale", "ln2.scale", "ln_final.scale"))
    }
    functions |= {each.config.name: (lambda x, name: reads.update({name: x})) for each in dictionaries}
    for layer in range(model.config.n_layers):
        constant = plain["mlp_out", layer].clone()
        for pos, vector in changed.get(layer, {}).items():
            constant[0, pos] -= vector
        here = [each for each in dictionaries if each.config.target == f"blocks.{layer}.mlp_out" and each.W_skip is not None]

        def write(x, name, constant=constant, here=here):
            for each in here:
                constant = constant + (reads[each.config.name] - plain[each.config.name]) @ each.W_skip.T
            return constant

        functions[f"blocks.{layer}.mlp_out"] = write
    if "embed" in changed:
        functions["embed"] = lambda x, _: x - changed["embed"]
    return model(row, hooks=Hooks(functions)), reads


def test_each_edge_is_what_a_target_loses_without_its_source(tiny_model, tokens, transcoders, graph):
    row = tokens[:1]
    logits, _ = run_with_write(tiny_model, row, transcoders, {})
    torch.testing.assert_close(logits, tiny_model(row), atol=EXACT, rtol=0)
    of_layer = {0: transcoders[0], 1: transcoders[1]}
    chosen = [*range(0, graph.n_features, 7), *range(graph.n_features, graph.edges.shape[1])]
    _, plain = cutaway.run_with_cache(tiny_model, row)
    for place in chosen:
        node = graph.nodes[place]
        if node.kind == "feature":
            vector = graph.activations[place] * of_layer[node.layer].W_dec[node.number]
            changed = {node.layer: {node.pos: vector}}
        elif node.kind == "error":
            made = of_layer[node.layer]
            read = plain[made.config.name][0, node.pos]
            changed = {node.layer: {node.pos: plain["mlp_out", node.layer][0, node.pos] - made(read)}}
        else:
            start = plain["resid_pre", 0].clone()
            start[0, : node.pos] = start[0, node.pos + 1 :] = 0
            changed = {"embed": start}
        moved, reads = run_with_write(tiny_model, row, transcoders, changed)
        lost = (logits - moved)[0, -1]
        found = graph.edges[graph.n_features :, place]
        torch.testing.assert_close(found, (lost - lost.mean())[list(graph.logits)], atol=EXACT, rtol=0)
        for target in range(0, graph.n_features, 5):
            layer, pos, number = graph.features[target].tolist()
            pre = of_layer[layer].pre_activations(reads[of_layer[layer].config.name][0, pos])[number]
            assert graph.edges[target, place].item() == pytest.approx((graph.values[target] - pre).item(), abs=EXACT)


def test_an_edge_is_the_sum_over_heads_by_hand(make_model, make_tokens):
    """Layer 0 to layer 1 with grouped heads and no norm: along the stream, and through each head's values."""
    config = ModelConfig(
        d_vocab=31, n_ctx=12, n_layers=2, n_heads=4, n_kv_heads=2, d_model=16, norm="none", position="rotary", act="relu"
    )
    model, row = make_model(config), make_tokens(batch=1)
    made = [a_transcoder(model, layer, reads="resid_mid") for layer in (0, 1)]
    graph = attribution_graphs.attribute(model, row, made)
    _, cache = cutaway.run_with_cache(model, row)
    pattern = cache["pattern", 1][0]  # head q_pos k_pos
    W_V = model.blocks[1].attn.W_V.weight.view(2, 4, 16).repeat_interleave(2, 0)  # head d_head d_model
    W_O = model.blocks[1].attn.W_O.weight.view(16, 4, 4)  # d_model head d_head
    through = torch.einsum("hqk,ehd,hdm->qkem", pattern, W_O, W_V)
    n_checked = 0
    for target, source in itertools.product(range(graph.n_features), repeat=2):
        (to_layer, q, f), (from_layer, k, s) = graph.features[target].tolist(), graph.features[source].tolist()
        expected = 0.0
        if (to_layer, from_layer) == (1, 0):
            written = graph.activations[source] * made[0].W_dec[s]
            expected = (made[1].W_enc[:, f] @ (through[q, k] @ written + (q == k) * written)).item()
            n_checked += abs(expected) > 1e-3
        assert graph.edges[target, source].item() == pytest.approx(expected, abs=EXACT)
    assert n_checked > 100


def test_fewer_features_leave_their_share_as_one_number(tiny_model, tokens, transcoders, graph):
    fewer = attribution_graphs.attribute(tiny_model, tokens[:1], transcoders, max_features=20)
    assert (fewer.n_features, fewer.n_active) == (20, graph.n_active)
    assert gap(fewer) < EXACT
    assert fewer.left_out.abs().max() > 0.01
    place = {node: i for i, node in enumerate(graph.nodes)}
    columns = [place[node] for node in fewer.nodes[: fewer.edges.shape[1]]]
    rows = [*columns[:20], *range(graph.n_features, len(graph.edges))]
    torch.testing.assert_close(fewer.edges, graph.edges[rows][:, columns], atol=EXACT, rtol=0)
    assert len(set(columns[:20]) & set(graph.strongest_features(20).tolist())) >= 15  # found by what was known on the way
    assert "active features are left out" in fewer.summary()


def test_how_many_share_a_backward_pass_changes_nothing(tiny_model, tokens, transcoders, graph, monkeypatch):
    monkeypatch.setattr("cutaway.interp.attribution_graphs.linear.Linearised.batch_size", lambda *_: 3)
    seen = []
    again = attribution_graphs.attribute(tiny_model, tokens[:1], transcoders, progress=lambda *each: seen.append(each))
    torch.testing.assert_close(again.edges, graph.edges, atol=EXACT, rtol=0)
    assert seen[-1] == (graph.n_features, graph.n_features)


def test_nothing_is_left_on_the_model(tiny_model, tokens, transcoders):
    tiny_model.train()
    attribution_graphs.attribute(tiny_model, tokens[:1], transcoders)
    assert tiny_model.training
    assert all(weight.grad is None for weight in tiny_model.parameters())
    assert not any(module._forward_hooks for module in tiny_model.modules())


# --- influence


def a_dag(n_features=6, n_others=4, n_logits=2, seed=0):
    """Return random edges that go up, three layers of features, and the weights of the logits."""
    generator = torch.Generator().manual_seed(seed)
    edges = torch.randn(n_features + n_logits, n_features + n_others, generator=generator, dtype=torch.float64)
    layer = torch.arange(n_features) * 3 // n_features
    edges[:n_features, :n_features] *= layer[:, None] > layer[None]
    return edges, torch.tensor([*[0.0] * n_features, 0.7, 0.3], dtype=torch.float64)


def test_influence_is_the_sum_over_all_paths():
    edges, weights = a_dag()
    share = shares(edges)
    torch.testing.assert_close(share.sum(1), torch.ones(8, dtype=torch.float64))
    square = torch.zeros(12, 12, dtype=torch.float64)  # features, others, logits
    rows = [*range(6), 10, 11]
    square[rows, :10] = share
    all_weights = torch.zeros(12, dtype=torch.float64)
    all_weights[10:] = weights[6:]
    expected = all_weights @ (torch.linalg.inv(torch.eye(12, dtype=torch.float64) - square) - torch.eye(12, dtype=torch.float64))
    found = influence(share, weights, torch.arange(6))
    torch.testing.assert_close(found, expected[:10], atol=1e-12, rtol=0)
    assert found[6:].sum().item() == pytest.approx(1.0)  # every path begins at a source without edges into it
    through = edge_influence(share, weights, n_features=6)
    torch.testing.assert_close(through.sum(0), found, atol=1e-12, rtol=0)  # what leaves a node on all its edges


def test_scores_of_a_graph_by_hand(graph):
    """One feature reads 3 from a token and 1 from an error; the logit 1 from the feature, 2 from an error, 1 from a token."""
    fields = {each.name: getattr(graph, each.name) for each in dataclasses.fields(graph)}
    edges = torch.tensor([[0.0, 1.0, 0.0, -3.0], [1.0, -2.0, 0.0, 1.0]], dtype=torch.float64)
    small = type(graph)(
        **{
            **fields, "features": graph.features[:1], "activations": graph.activations[:1], "errors": graph.errors[:2],
            "tokens": (3,), "words": ("a",), "logits": (5,), "logit_words": ("b",), "probs": graph.probs[:1], "edges": edges,
            "biases": torch.zeros(2), "left_out": torch.zeros(2), "values": edges.sum(1),
        }
    )  # fmt: skip
    assert small.influence.tolist() == pytest.approx([1 / 4, 1 / 2 + 1 / 16, 0, 1 / 4 + 3 / 16])
    assert small.replacement_score == pytest.approx(7 / 16)
    assert small.completeness_score == pytest.approx((1 / 2 + 1 / 4 * 3 / 4) / (1 + 1 / 4))
    assert small.circuit_tracer_completeness == pytest.approx(
        (1 / 2 + 1 / 4 * 3 / 4 + 1) / (1 + 1 / 4 + 1)
    )  # and what paths begin at


def test_completeness_as_circuit_tracer_has_it_is_that_of_the_whole_adjacency_matrix(graph):
    """Its formula: over all nodes, by influence and logit weight, the share of what a node reads that comes from no error."""
    n_sources, first = graph.edges.shape[1], graph.n_features
    n = n_sources + len(graph.logits)
    adjacency = torch.zeros(n, n, dtype=torch.float64)
    adjacency[:first, :n_sources], adjacency[n_sources:, :n_sources] = graph.edges[:first], graph.edges[first:]
    share = adjacency.abs() / adjacency.abs().sum(1, keepdim=True).clamp_min(1e-10)
    weights = torch.zeros(n, dtype=torch.float64)
    weights[n_sources:] = graph.probs
    eye = torch.eye(n, dtype=torch.float64)
    passing = weights @ torch.linalg.inv(eye - share)
    expected = ((1 - share[:, first : first + len(graph.errors)].sum(1)) * passing).sum() / passing.sum()
    assert graph.circuit_tracer_completeness == pytest.approx(expected.item(), abs=EXACT)
    assert graph.circuit_tracer_completeness > graph.completeness_score + 0.01
    assert f"{100 * expected.item():.1f} % as circuit-tracer counts" in graph.summary()
    assert graph.to_dict()["circuit_tracer_completeness"] == graph.circuit_tracer_completeness


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.3, 0.8, 1.0])
def test_pruning_keeps_what_counts_and_nothing_that_hangs(seed, threshold):
    edges, weights = a_dag(n_features=12, seed=seed)
    kept = prune(edges, weights, n_features=12, n_tokens=2, node_threshold=threshold, edge_threshold=threshold)
    passes = influence(shares(edges), weights, torch.arange(12))
    if threshold == 1.0:
        assert torch.equal(kept.sources[:12], kept.edges[:, :12].any(0) & kept.edges[:12].any(1))
        assert kept.sources.all()
        assert torch.equal(kept.edges, edges != 0)
    order = passes.argsort(descending=True)
    first = order[: int((passes[order].cumsum(0) < threshold * passes.sum() - 1e-12).sum()) + 1]
    assert set(kept.sources.nonzero().flatten().tolist()) <= {*first.tolist(), 14, 15}
    assert kept.sources[-2:].all()
    assert not kept.edges[:, ~kept.sources].any()
    assert not kept.edges[:12][~kept.sources[:12]].any()
    assert torch.equal(kept.edges[:, :14].any(0), kept.sources[:14])
    assert kept.edges[:12][kept.sources[:12]].any(1).all()


def test_cumulative_influence_counts_from_the_largest():
    assert cumulative(torch.tensor([1.0, 6.0, 3.0])).tolist() == pytest.approx([1.0, 0.6, 0.9])


@pytest.mark.parametrize("seed", range(3))
def test_the_strongest_paths_are_those_of_all_paths(seed):
    edges, weights = a_dag(seed=seed)
    share = shares(edges)

    def all_paths(target, weight, nodes):
        for source in range(10):
            longer = weight * share[target, source].item()
            if longer > 0:
                if source < 6:
                    yield from all_paths(source, longer, (source, *nodes))
                else:
                    yield longer, (source, *nodes)

    every = sorted((path for k in (6, 7) for path in all_paths(k, weights[k].item(), (k + 4,))), reverse=True)
    assert sum(weight for weight, _ in every) == pytest.approx(1.0)
    found = strongest_paths(share, weights, n_features=6, n_paths=15)
    assert [nodes for _, nodes in found] == [nodes for _, nodes in every[:15]]
    assert [weight for weight, _ in found] == pytest.approx([weight for weight, _ in every[:15]])
    assert len(strongest_paths(share, weights, n_features=6, n_paths=10_000)) == len(every)


def test_paths_from_tokens_are_those_of_all_that_begin_there(graph):
    every, found = graph.paths(3000), graph.paths(5, from_errors=False)
    from_tokens = [path for path in every if path.nodes[0].kind == "token"]
    assert len(from_tokens) >= 5
    assert found == from_tokens[:5]
    assert {path.nodes[-1].kind for path in every} == {"logit"}


# --- what is refused


def test_what_does_not_fit_is_one_sentence(tiny_model, tokens, transcoders):
    row = tokens[:1]
    first = transcoders[0]
    for arguments, settings, sentence in (
        ((row, []), {}, "give at least one"),
        ((row, [first, first]), {}, "two transcoders are for layer 0"),
        ((row, [copy.deepcopy(first).float()]), {}, "is torch.float32"),
        ((tokens, transcoders), {}, "expected one row"),
        (("text", transcoders), {}, "needs a tokenizer"),
        ((row, [transcoders[1]]), {"pos": 9}, "there is no position 9"),
        ((row, [transcoders[1]]), {"targets": [31]}, "there is no logit of token 31"),
        ((row, [transcoders[1]]), {"targets": [3, 3]}, "each once"),
        ((row, [transcoders[1]]), {"targets": ["Paris"]}, "needs a tokenizer"),
        ((row, [transcoders[1]]), {"probability": 0.0}, "probability is 0.0"),
        ((row, [transcoders[1]]), {"max_features": -1}, "max_features is -1"),
        ((row, [transcoders[1]]), {"max_gib": 1e-6}, "give a smaller max_features"),
        (
            (row, [sae.make_dictionary(sae.DictionaryConfig(kind="relu", d_in=16, d_sae=4, name="blocks.0.mlp_out"))]),
            {},
            "no MLP's",
        ),
    ):
        with pytest.raises(ValueError, match=sentence):
            attribution_graphs.attribute(tiny_model, *arguments, **settings)
    with pytest.raises(ValueError, match=r"the model is torch\.bfloat16"):
        attribution_graphs.attribute(copy.deepcopy(tiny_model).bfloat16(), row, [copy.deepcopy(first).bfloat16()])
    late = sae.DictionaryConfig(kind="relu", d_in=16, d_sae=4, name="blocks.1.ln2.normalized", target="blocks.0.mlp_out", d_out=16)
    with pytest.raises(ValueError, match="expected what the stream holds before the MLP"):
        attribution_graphs.attribute(tiny_model, row, [sae.make_dictionary(late).double()])


def test_chosen_targets_keep_their_order(tiny_model, tokens, transcoders):
    graph = attribution_graphs.attribute(tiny_model, tokens[:1], transcoders, targets=[7, 2])
    assert graph.logits == (7, 2)
    assert gap(graph) < EXACT
    assert len(graph.figures()) == 2


@pytest.mark.parametrize(("node", "edge"), [(0.3, 0.5), (0.8, 0.98), (1.0, 1.0)])
def test_what_is_drawn_is_what_pruning_keeps(graph, node, edge):
    shown = graph.with_thresholds(node=node, edge=edge)
    kept, n_tokens = shown.pruned(), len(shown.tokens)
    n_features, n_errors, n_edges = (
        int(each.sum()) for each in (kept.sources[: shown.n_features], kept.sources[shown.n_features : -n_tokens], kept.edges)
    )
    assert f"{n_features:,} feature" in shown.summary()
    (axes,) = shown.figures()[0].axes
    title = axes.get_title(loc="left") or axes.get_title()
    full, squares = (*(len(each.get_offsets()) for each in axes.collections if isinstance(each, PathCollection)), 0)[:2]
    n_lines = sum(
        len(each.get_segments()) for each in axes.collections if isinstance(each, LineCollection) and each.get_zorder() == 1
    )
    n_drawn = full - n_tokens - len(shown.logits)
    if n_features + n_errors <= 40 and n_edges <= 150:
        assert (n_drawn, squares, n_lines) == (n_features, n_errors, n_edges)
        assert " of " not in title.partition("\n")[0]
    else:
        assert n_drawn <= n_features
        assert n_lines == 150
        assert f"150 of {n_edges:,} edges" in " ".join(title.split())


def test_a_graph_without_features_has_errors_and_tokens(tiny_model, tokens):
    silent = a_transcoder(tiny_model, 0, "relu")
    silent.b_enc -= 1e3
    for graph in (
        attribution_graphs.attribute(tiny_model, tokens[:1], [silent]),
        attribution_graphs.attribute(tiny_model, tokens[:1], [a_transcoder(tiny_model, 0)], max_features=0),
    ):
        assert graph.n_features == 0
        assert gap(graph) < EXACT
        assert graph.completeness_score == pytest.approx(graph.replacement_score)  # no way but the direct one
        graph.show()
        assert len(graph.figures()) == 1
        assert json.loads(graph.to_json())["n_features"] == 0
        with pytest.raises(ValueError, match="no feature to change"):
            attribution_graphs.intervene(tiny_model, graph, [silent])


def test_a_dictionary_that_looks_at_the_whole_batch_is_refused(tiny_model, tokens):
    made = a_transcoder(tiny_model, 0, "batchtopk")
    assert gap(attribution_graphs.attribute(tiny_model, tokens[:1], [made])) < EXACT
    with pytest.raises(ValueError, match="is in training mode"):
        attribution_graphs.attribute(tiny_model, tokens[:1], [made.train()])
