"""Attribution graphs: sums that must be exact, edges by other roads, what follows from them, interventions."""

import copy
import dataclasses
import itertools
import json

import pytest
import torch

import cutaway
from cutaway import ModelConfig, Transformer, attribution_graphs, sae
from cutaway.hooks import Hooks
from cutaway.interp.attribution_graphs.influence import cumulative, edge_influence, influence, prune, shares, strongest_paths

EXACT = 1e-9  # float64: the same sums in another order, values of about 10


def a_transcoder(model, layer, kind="topk", *, reads=None, has_skip=False, d_sae=24, seed=0):
    d = model.config.d_model
    reads = reads or ("ln2.normalized" if model.config.block == "sequential" and model.config.norm != "none" else "resid_pre")
    config = sae.DictionaryConfig(
        kind=kind, d_in=d, d_sae=d_sae, k=5 if "topk" in kind else None, name=f"blocks.{layer}.{reads}",
        target=f"blocks.{layer}.mlp_out", has_skip=has_skip,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(17 * layer + seed)
    made = sae.make_dictionary(config, generator=generator).double().eval()
    with torch.no_grad():
        for weight in (made.b_enc, made.b_dec, *([made.W_skip] if has_skip else [])):
            weight += 0.2 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return made.requires_grad_(False)


@pytest.fixture
def transcoders(tiny_model):
    return [a_transcoder(tiny_model, 0, "relu"), a_transcoder(tiny_model, 1, "jumprelu", has_skip=True)]


@pytest.fixture
def graph(tiny_model, tokens, transcoders):
    return attribution_graphs.attribute(tiny_model, tokens[:1], transcoders)


def gap(graph):
    return (graph.edges.sum(1) + graph.biases + graph.left_out - graph.values).abs().max().item()


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


# --- interventions


LEVELS = ("features", "gates", "attention", "patterns", "errors", "nothing")


def taken_apart(model, row, made):
    return attribution_graphs.replace_mlps(model, row, dict(enumerate(made)))


@pytest.mark.parametrize("held", LEVELS)
def test_transcoders_with_their_errors_leave_the_run_as_it_is(tiny_model, tokens, transcoders, graph, held):
    replacement = taken_apart(tiny_model, tokens[:1], transcoders)
    same = attribution_graphs.measured_changes(replacement, graph, torch.arange(4), factor=1.0, held=held)
    assert same.abs().max() < EXACT


@pytest.mark.parametrize("factor", [0.0, 2.5, -1.0])
def test_direct_effects_are_exact_on_every_target(tiny_model, tokens, transcoders, graph, factor):
    replacement = taken_apart(tiny_model, tokens[:1], transcoders)
    features = torch.arange(0, graph.n_features, 3)
    predicted = attribution_graphs.predicted_changes(graph, features, factor=factor, held="features")
    measured = attribution_graphs.measured_changes(replacement, graph, features, factor=factor, held="features")
    torch.testing.assert_close(measured, predicted, atol=EXACT, rtol=0)
    assert predicted.abs().max() > 0.1


@pytest.fixture
def three_layers(make_model, tiny_config, make_tokens):
    model = make_model(tiny_config.replace(n_layers=3))
    return (
        model,
        make_tokens(batch=1),
        [a_transcoder(model, layer, kind) for layer, kind in enumerate(("relu", "topk", "jumprelu"))],
    )


@pytest.mark.parametrize("max_features", [None, 20])
@pytest.mark.parametrize("factor", [0.0, 3.0, -2.0])
def test_effects_on_all_paths_are_exact_while_what_fires_is_held(three_layers, factor, max_features):
    """Patterns, norms and gates frozen, all is linear: however far a feature is moved, the graph has it to the last digit."""
    model, row, made = three_layers
    graph = attribution_graphs.attribute(model, row, made, max_features=max_features)
    replacement = taken_apart(model, row, made)
    features = torch.arange(0, graph.n_features, 5)
    predicted = attribution_graphs.predicted_changes(graph, features, factor=factor, held="gates")
    measured = attribution_graphs.measured_changes(replacement, graph, features, factor=factor, held="gates")
    direct = attribution_graphs.predicted_changes(graph, features, factor=factor, held="features")
    assert (predicted - direct).abs().max() > 0.01  # what goes through features is there to be seen
    torch.testing.assert_close(measured, predicted, atol=EXACT, rtol=0)
    free = attribution_graphs.measured_changes(replacement, graph, features, factor=factor, held="attention")
    assert (free - predicted).abs().max() > 0.01  # and so are features that start and stop


STEP = 1e-6  # of a factor: second order is its square, rounding 1e-16 over it


@pytest.mark.parametrize(("frozen", "held"), [("both", "attention"), ("patterns", "patterns"), ("nothing", "errors")])
def test_edges_are_the_derivative_of_what_is_not_frozen(three_layers, frozen, held):
    model, row, made = three_layers
    graph = attribution_graphs.attribute(model, row, made, frozen=frozen)
    replacement = taken_apart(model, row, made)
    assert gap(graph) < EXACT
    features = torch.arange(0, graph.n_features, 5)
    changes = {
        sign: attribution_graphs.measured_changes(replacement, graph, features, factor=1 + sign * STEP, held=held)
        for sign in (1, -1)
    }
    slope = (changes[1] - changes[-1]) / (2 * STEP)
    predicted = attribution_graphs.predicted_changes(graph, features, factor=2.0)
    torch.testing.assert_close(slope, predicted, atol=1e-7, rtol=0)  # values of about 1
    if frozen != "both":
        plain = attribution_graphs.attribute(model, row, made)
        assert torch.equal(plain.features, graph.features)
        assert (attribution_graphs.predicted_changes(plain, features, factor=2.0) - slope).abs().max() > 0.01


def test_nothing_held_is_the_model_itself_with_a_vector_added(tiny_model, tokens, transcoders, graph):
    row, replacement = tokens[:1], taken_apart(tiny_model, tokens[:1], transcoders)
    features = torch.arange(0, graph.n_features, 9)
    measured = attribution_graphs.measured_changes(replacement, graph, features, held="nothing")
    other = torch.randn(len(features), 16, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    moved = attribution_graphs.measured_changes(replacement, graph, features, held="nothing", directions=other)
    clean = tiny_model(row)[0, -1]
    for number, place in enumerate(features.tolist()):
        layer, pos, latent = graph.features[place].tolist()
        written = graph.activations[place] * transcoders[layer].W_dec[latent]
        for vector, found in ((written, measured), (other[number], moved)):
            add = cutaway.edits.add(f"blocks.{layer}.mlp_out", -vector, pos=pos)
            change = cutaway.run_with_edits(tiny_model, row, [add])[0, -1] - clean
            expected = (change - change.mean())[list(graph.logits)]
            torch.testing.assert_close(found[number, graph.n_features :], expected, atol=EXACT, rtol=0)
    with pytest.raises(ValueError, match="hold nothing, and not errors"):
        attribution_graphs.measured_changes(replacement, graph, features, held="errors", directions=other)


def test_features_left_out_of_a_graph_are_counted(three_layers):
    model, row, made = three_layers
    graph = attribution_graphs.attribute(model, row, made, max_features=20)
    found = attribution_graphs.intervene(model, graph, made, n_features=5)
    n = graph.n_active - 20
    assert found.n_left_out == found.to_dict()["n_left_out"] == n > 0
    assert f"the {n} active features held that the graph leaves out" in found.summary()
    assert found.largest_gap("gates") < EXACT < found.largest_gap("attention")
    assert attribution_graphs.pool([found, found]).n_left_out == 2 * n
    whole = attribution_graphs.intervene(model, attribution_graphs.attribute(model, row, made), made, n_features=5)
    assert whole.n_left_out == 0
    assert "leaves out" not in whole.summary()


def test_interventions_stand_beside_predictions(tiny_model, tokens, transcoders, graph):
    found = attribution_graphs.intervene(tiny_model, graph, transcoders, n_features=10, batch_size=4)
    assert found.largest_gap("features") < EXACT
    assert found.largest_gap("gates") < EXACT
    assert found.correlation("gates") == pytest.approx(1.0)
    assert found.slope("gates") == pytest.approx(1.0)
    assert -1 <= found.correlation() < 1
    strongest = graph.strongest_features(10)
    torch.testing.assert_close(found.direct, -graph.edges[graph.n_features, strongest])
    values = json.loads(found.to_json())
    assert values["correlation"]["nothing"] == found.correlation()
    assert values["slope"]["gates"] == pytest.approx(1.0)
    assert len(found.figures()) == 1
    assert len(found.table()[1]) == 10
    last = tuple(graph.features[-1].tolist())
    one = attribution_graphs.intervene(tiny_model, graph, transcoders, features=[last], factor=2.0)
    assert one.measured["features"].item() == pytest.approx(graph.edges[graph.n_features, graph.n_features - 1].item(), abs=EXACT)
    assert (one.correlation(), one.slope(), one.shuffled) == (None, None, None)
    assert "1 feature is multiplied with 2, and" in one.summary()
    assert "no number" in one.summary()
    with pytest.raises(ValueError, match="is no node of this graph"):
        attribution_graphs.intervene(tiny_model, graph, transcoders, features=[(1, 0, 99)])


@pytest.mark.parametrize(("frozen", "n_levels"), [("both", 6), ("patterns", 5), ("nothing", 4)])
def test_what_edges_go_through_responds_on_every_level(tiny_model, tokens, transcoders, frozen, n_levels, capsys):
    graph = attribution_graphs.attribute(tiny_model, tokens[:1], transcoders, frozen=frozen)
    found = attribution_graphs.intervene(tiny_model, graph, transcoders, n_features=5)
    assert len(found.levels) == n_levels
    for held in {*LEVELS} - {*found.levels}:  # left out as it is the same as the one before
        before = LEVELS[LEVELS.index(held) - 1]
        torch.testing.assert_close(found.measured[held], found.measured[before], atol=EXACT, rtol=0)
    found.show()
    assert ("respond throughout" in capsys.readouterr().out) == (frozen != "both")
    assert found.to_dict()["frozen"] == frozen


def an_intervention(predicted, measured, random, **other):
    predicted, measured, random = (torch.tensor(each, dtype=torch.float64) for each in (predicted, measured, random))
    given = {"labels": ("a",) * len(predicted), "target": "logit x", "factor": 0.0, "frozen": "both", **other}
    return attribution_graphs.Interventions(
        direct=predicted, predicted=predicted, measured={**dict.fromkeys(LEVELS, predicted), "nothing": measured}, random=random,
        **given,
    )  # fmt: skip


def test_agreement_and_its_null_by_hand():
    x = torch.linspace(-1, 1, 40, dtype=torch.float64)
    random = [0.1 * (-1) ** k for k in range(40)]
    found = an_intervention(x.tolist(), (0.5 * x + 3).tolist(), random)
    assert found.correlation() == pytest.approx(1.0)
    assert found.slope() == pytest.approx(0.5)
    assert found.shuffled == pytest.approx(1.96 / 39**0.5, abs=0.04)  # 95 % of a correlation of nothing with nothing
    assert found.relative_size == pytest.approx(((0.5 * x + 3).square().mean().sqrt() / 0.1).item())
    assert abs(found.random_correlation) < 0.1
    assert "Most is lost" not in found.summary()
    noise = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    lost = an_intervention(x.tolist(), noise, random)
    assert "Most is lost once the model's own MLPs stand" in lost.summary()
    both = attribution_graphs.pool([found, lost])
    assert len(both.labels) == 80
    assert both.measured["nothing"].tolist() == [*found.measured["nothing"].tolist(), *noise]
    for others in (
        [],
        [found, an_intervention([1.0], [1.0], [1.0], factor=2.0)],
        [found, an_intervention([1.0], [1.0], [1.0], frozen="patterns")],
    ):
        with pytest.raises(ValueError, match="give at least one, all alike"):
            attribution_graphs.pool(others)


# --- files


def test_a_graph_is_saved_and_read(tiny_model, tokens, transcoders, graph, tmp_path):
    attribution_graphs.save_graph(graph, tmp_path / "made")
    again = attribution_graphs.load_graph(tmp_path / "made", tiny_model)
    assert again.to_json() == graph.to_json()
    assert torch.equal(again.edges, graph.edges)
    attribution_graphs.save_graph(again, tmp_path / "made")
    other = Transformer(tiny_model.config, generator=torch.Generator().manual_seed(3)).double()
    for call in (
        lambda: attribution_graphs.load_graph(tmp_path / "made", other),
        lambda: attribution_graphs.intervene(other, graph, transcoders),
    ):
        with pytest.raises(ValueError, match="the graph is of another model") as error:
            call()
        assert str(error.value).count(".") == 0
    with pytest.raises(ValueError, match="made with other transcoders"):
        attribution_graphs.intervene(tiny_model, graph, [a_transcoder(tiny_model, 0, "relu", seed=1), transcoders[1]])


def test_damaged_graphs_are_refused(tiny_model, graph, tmp_path):
    with pytest.raises(ValueError, match=r"holds no graph\.json"):
        attribution_graphs.load_graph(tmp_path, tiny_model)
    folder = attribution_graphs.save_graph(graph, tmp_path / "made")
    whole = (folder / "graph.json").read_text()
    values = json.loads(whole)
    fewer = {name: values[name][:-1] for name in ("logits", "logit_words")}
    for broken, sentence in (
        (whole[:50], r"describes no graph that is read here: it is no JSON \(line \d\)"),
        ("[1]", "describes no graph that is read here: it is JSON, but not of the shape"),
        (json.dumps({key: value for key, value in values.items() if key != "prompt"}), "describes no graph"),
        (json.dumps({**values, "logits": fewer["logits"]}), "have not each a word"),
        (json.dumps({**values, **fewer}), "the shape of"),
        (json.dumps({**values, "frozen": "norms"}), "expected one of both, patterns, nothing"),
        (json.dumps({**values, "node_threshold": 2}), "expected a share, 0 to 1"),
        (json.dumps({**values, "tokens": ["a"] * len(values["tokens"])}), "expected ids of tokens"),
        (json.dumps({**values, "pos": 99}), "pos is 99"),
        (json.dumps({**values, "n_layers": 1}), "the shape of errors"),
    ):
        (folder / "graph.json").write_text(broken)
        with pytest.raises(ValueError, match=sentence):
            attribution_graphs.load_graph(folder, tiny_model)
    (folder / "graph.json").write_text(whole)
    content = (folder / "graph.safetensors").read_bytes()
    for broken, sentence in ((content[:100], "graph.safetensors"), (content[:-8], "graph.safetensors")):
        (folder / "graph.safetensors").write_bytes(broken)
        with pytest.raises(ValueError, match=sentence):
            attribution_graphs.load_graph(folder, tiny_model)
    for changed, sentence in (
        ({"edges": graph.edges * float("nan")}, "not finite"),
        ({"features": graph.features + 99}, "where the graph has no layer or position"),
    ):
        attribution_graphs.save_graph(dataclasses.replace(graph, **changed), folder)
        with pytest.raises(ValueError, match=sentence):
            attribution_graphs.load_graph(folder, tiny_model)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other things"):
        attribution_graphs.save_graph(graph, tmp_path / "taken")


def test_other_thresholds_show_the_same_graph(tiny_model, graph, tmp_path):
    strict = graph.with_thresholds(node=0.3)
    assert strict.pruned().sources.sum() < graph.pruned().sources.sum()
    assert torch.equal(strict.pruned().sources, graph.pruned(node_threshold=0.3).sources)
    assert (strict.node_threshold, strict.edge_threshold) == (0.3, graph.edge_threshold)
    assert "nodes with 30 % of the influence" in strict.summary()
    assert attribution_graphs.to_circuit_tracer(strict)["metadata"]["node_threshold"] == 0.3
    attribution_graphs.save_graph(strict, tmp_path / "made")
    assert attribution_graphs.load_graph(tmp_path / "made", tiny_model).to_json() == strict.to_json()
    with pytest.raises(ValueError, match=r"edge_threshold is 1\.5"):
        graph.with_thresholds(edge=1.5)


def test_features_lead_to_their_pages(graph, tmp_path):
    """A feature of layer 0 has a page; the report, in another folder, leads to it from its table and its figure."""
    layer, _, number = graph.features[graph.strongest_features(1)][0].tolist()
    folder = tmp_path / "pages" / f"layer-{layer:02d}"
    with pytest.raises(ValueError, match="has no page of any feature"):
        attribution_graphs.find_pages(graph, tmp_path / "pages")
    folder.mkdir(parents=True)
    (folder / f"feature-{number:06d}.html").write_text("a page")
    (folder / "feature-999999.html").write_text("no feature's")
    found = attribution_graphs.find_pages(graph, tmp_path / "pages")
    assert set(found.pages) == {(layer, number)}
    (tmp_path / "reports").mkdir()
    page = found.report(tmp_path / "reports" / "graph.html").read_text()
    href = f"../pages/layer-{layer:02d}/feature-{number:06d}.html"
    assert f'<a href="{href}">L{layer} #{number}</a>' in page
    assert f'xlink:href="{href}"' in page
    assert href not in graph.report(tmp_path / "reports" / "plain.html").read_text()
    assert "<a" not in "".join(cell for row in graph.table()[1] for cell in row)


def test_the_file_for_circuit_tracer(graph, tmp_path):
    path = attribution_graphs.write_circuit_tracer(graph, tmp_path / "a-graph.json")
    values = json.loads(path.read_text())
    assert values.keys() == {"metadata", "qParams", "nodes", "links"}
    assert values["metadata"]["slug"] == "a-graph"
    assert values["metadata"]["prompt_tokens"] == list(graph.words)
    assert set(values["qParams"]) == {"pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"}
    nodes = {node["node_id"]: node for node in values["nodes"]}
    assert len(nodes) == len(values["nodes"])
    assert {link[end] for link in values["links"] for end in ("source", "target")} <= nodes.keys()
    kept = graph.pruned()
    assert len(values["links"]) == kept.edges.sum()
    places = {node: place for place, node in enumerate(graph.nodes)}
    feature = next(node for node in graph.nodes if node.kind == "feature" and kept.sources[places[node]])
    written = nodes[f"{feature.layer}_{feature.number}_{feature.pos}"]
    assert written["activation"] == graph.activations[places[feature]].item()
    pair = feature.layer + feature.number
    assert written["feature"] == pair * (pair + 1) // 2 + feature.number
    assert (written["layer"], written["ctx_idx"], written["feature_type"]) == (
        str(feature.layer), feature.pos, "cross layer transcoder",
    )  # fmt: skip
    logit = nodes[f"3_{graph.logits[0]}_8"]
    assert (logit["layer"], logit["is_target_logit"], logit["token_prob"]) == ("3", True, graph.probs[0].item())
    weight = next(
        link["weight"] for link in values["links"] if link["target"] == logit["node_id"] and link["source"].startswith("E_")
    )
    assert weight in graph.edges[graph.n_features].tolist()


TYPES = {"cross layer transcoder", "mlp reconstruction error", "embedding", "logit"}
FIELDS = {
    "node_id": str, "feature": int, "layer": str, "ctx_idx": int, "feature_type": str, "token_prob": float, "is_target_logit": bool,
    "run_idx": int, "reverse_ctx_idx": int, "jsNodeId": str, "clerp": str, "influence": float | None, "activation": float | None,
}  # fmt: skip


def test_every_field_is_as_the_viewer_reads_it(graph):
    """What its code takes for granted of a file, node by node, where a mistake would show as an empty page."""
    values = attribution_graphs.to_circuit_tracer(graph, slug="x")
    metadata, nodes = values["metadata"], {node["node_id"]: node for node in values["nodes"]}
    assert {name for name in metadata if name != "cutaway"} == {
        "slug", "scan", "transcoder_list", "prompt_tokens", "prompt", "node_threshold", "schema_version",
    }  # fmt: skip
    assert metadata["schema_version"] == 1  # features are paired numbers
    assert not metadata["scan"].startswith("custom-")  # whose transcoders would be looked for by layer
    js_ids: dict[str, set[tuple]] = {}
    for node in values["nodes"]:
        assert node.keys() == FIELDS.keys()
        assert all(isinstance(node[name], kind) for name, kind in FIELDS.items())
        assert node["feature_type"] in TYPES
        assert 0 <= node["ctx_idx"] < len(metadata["prompt_tokens"])
        assert (node["layer"] == "E") == (node["feature_type"] == "embedding")
        assert node["layer"] == "E" or 0 <= int(node["layer"]) <= graph.n_layers + 1
        assert (node["influence"] is None) == (node["feature_type"] == "logit")  # what the slider hides by
        assert node["influence"] is None or 0 < node["influence"] <= 1 + 1e-12
        js_ids.setdefault(node["jsNodeId"], set()).add((node["layer"], node["feature"], node["feature_type"]))
        _, number, pos = node["node_id"].split("_")
        assert int(pos) == node["ctx_idx"]
        if node["feature_type"] == "cross layer transcoder":
            root = int(((8 * node["feature"] + 1) ** 0.5 - 1) // 2)  # the pairing undone
            found = node["feature"] - root * (root + 1) // 2
            assert (root - found, found) == (int(node["layer"]), int(number))
            assert node["clerp"] == f"#{number}"
            assert node["activation"] > 0
        if node["feature_type"] == "logit":
            word, probability = node["clerp"].split('"')[1], node["clerp"].split("(p=")[1].split(")")[0]
            assert word == graph.logit_words[graph.logits.index(int(number))]
            assert float(probability) == pytest.approx(node["token_prob"], abs=5e-4)
    assert all(len(each) == 1 for each in js_ids.values())  # one name never stands for two things
    assert sum(node["is_target_logit"] for node in nodes.values()) == 1
    for link in values["links"]:
        assert link.keys() == {"source", "target", "weight"}
        source, target = nodes[link["source"]], nodes[link["target"]]
        assert source["ctx_idx"] <= target["ctx_idx"]
        assert source["feature_type"] != "logit"
        assert target["feature_type"] in ("cross layer transcoder", "logit")
        assert source["layer"] == "E" or int(source["layer"]) < int(target["layer"])
        assert link["weight"] != 0
    named = attribution_graphs.to_circuit_tracer(
        graph, names={tuple(graph.features[graph.strongest_features(1)][0, [0, 2]].tolist()): "king"}
    )
    assert any(node["clerp"].endswith(" king") for node in named["nodes"])


def test_the_viewer_finds_the_graphs_of_a_folder(graph, tmp_path):
    for name in ("one", "two", "one"):
        path = attribution_graphs.write_circuit_tracer(graph, tmp_path / f"{name}.json", scan=f"scan of {name}")
    listed = json.loads((tmp_path / "graph-metadata.json").read_text())["graphs"]
    assert [each["slug"] for each in listed] == ["two", "one"]
    assert listed[1] == json.loads(path.read_text())["metadata"]
    before = path.read_text()
    for name, content, sentence in (
        ("graph.txt", None, r"ends in \.json"),
        ("graph-metadata.json", None, "give the graph another name"),
        ("nowhere/graph.json", None, "there is no folder"),
        ("one.json", "[]", "is no list of graphs"),
        ("one.json", '{"graphs": [3]}', "is no list of graphs"),
    ):
        if content is not None:
            (tmp_path / "graph-metadata.json").write_text(content)
        with pytest.raises(ValueError, match=sentence):
            attribution_graphs.write_circuit_tracer(graph, tmp_path / name)
    assert path.read_text() == before


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
