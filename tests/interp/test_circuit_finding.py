"""Circuits found: by scores beside brute force, and by ACDC in models whose circuit is known."""

import pytest
import torch

from cutaway import ModelConfig
from cutaway.experiments.handmade import Handmade, Head, Neuron, copying, indirect_object, induction, neuron
from cutaway.interp import metrics
from cutaway.interp.circuits import (
    Circuit,
    CircuitRuns,
    Graph,
    ablated_outputs,
    evaluate_circuit,
    find_by_acdc,
    minimise,
    prune_greedily,
    prune_to_largest,
    random_circuit,
    random_circuits,
)


def graph_of(**changes):
    return Graph(ModelConfig(**({"d_vocab": 11, "n_ctx": 8, "n_layers": 2, "n_heads": 2, "d_model": 8} | changes)))


def parsed(graph, *edges):
    return graph.mask(graph.parse(edge) for edge in edges)


GRAPHS = {"gpt2": {}, "grouped": {"n_kv_heads": 1}, "parallel": {"block": "parallel"}, "attention only": {"d_mlp": 0}}


def on_paths(graph, kept):
    """The edges of all paths from the embedding to the logits, walked one by one."""
    found, feeds = torch.zeros_like(kept), graph.feeds
    names = list(map(str, graph.receivers))

    def walk(sender, path):
        for receiver in kept[sender].nonzero()[:, 0].tolist():
            taken = [*path, (sender, receiver)]
            if names[receiver] == "logits":
                for place in taken:
                    found[place] = True
            for following in feeds[receiver].nonzero()[:, 0].tolist():
                walk(following, taken)

    walk(0, [])
    return found


@pytest.mark.parametrize("shape", GRAPHS)
def test_connected_is_what_lies_on_a_path(shape):
    graph = graph_of(**GRAPHS[shape])
    for seed in range(20):
        drawn = torch.rand(graph.has_edge.shape, generator=torch.Generator().manual_seed(seed))
        kept = graph.has_edge & (drawn < 0.1 + 0.02 * seed)
        assert torch.equal(graph.connected(kept), on_paths(graph, kept))
    assert torch.equal(graph.connected(graph.has_edge), graph.has_edge)


def test_the_largest_scores_are_kept_and_what_hangs_in_the_air_is_dropped():
    graph = graph_of()
    scores = torch.where(graph.has_edge, 0.001, torch.nan)
    for place, edge in enumerate(["embed->L0H0.v", "L0H0->logits", "embed->L0H1.q", "L1H1->logits", "mlp0->L1H0.k"]):
        scores[graph.place(graph.parse(edge))] = (-1) ** place * (9 - place)
    pruned = prune_to_largest(graph, scores, 5)
    assert torch.equal(pruned.kept, parsed(graph, "embed->L0H0.v", "L0H0->logits"))
    assert (pruned.n_edges, pruned.n_dropped) == (2, 3)
    whole = prune_to_largest(graph, scores, graph.n_edges)
    assert (whole.n_edges, whole.n_dropped) == (graph.n_edges, 0)


@pytest.mark.parametrize("shape", GRAPHS)
def test_greedy_is_the_largest_at_each_step(shape):
    graph = graph_of(**GRAPHS[shape])
    scores = torch.randn(graph.has_edge.shape, generator=torch.Generator().manual_seed(0))
    for n_edges in (1, 4, 9, graph.n_edges):
        kept = torch.zeros_like(graph.has_edge)
        for _ in range(n_edges):  # all that lead to the logits by what is kept, looked through each time
            used = graph.used(kept)
            open_ = torch.tensor([bool((feeds & used).any()) for feeds in graph.feeds])
            open_[-1] = True
            candidates = (graph.has_edge & open_ & ~kept).nonzero().tolist()
            kept[tuple(max(candidates, key=lambda place: abs(scores[tuple(place)])))] = True
        pruned = prune_greedily(graph, scores, n_edges)
        assert torch.equal(pruned.kept, on_paths(graph, kept))
        assert pruned.n_edges + pruned.n_dropped == n_edges


@pytest.mark.parametrize("prune", [prune_greedily, prune_to_largest])
def test_ranked_by_help_edges_that_hurt_come_last(prune):
    graph = graph_of(n_layers=1)
    scores = torch.randn(graph.has_edge.shape, generator=torch.Generator().manual_seed(0))
    shifted = torch.where(graph.has_edge, 5 - scores, 0)  # all above 0, in the order of what helps
    for n_edges in (2, 5, 9, graph.n_edges):
        found = prune(graph, scores, n_edges, ranking="help")
        assert torch.equal(found.kept, prune(graph, shifted, n_edges).kept)
    hurts, helps = parsed(graph, "embed->logits"), parsed(graph, "embed->L0H0.v", "L0H0->logits")
    scores = torch.where(hurts, 9.0, torch.where(helps, -1.0, 0.0))  # scores are gains when an edge is corrupted
    assert torch.equal(prune(graph, scores, 2, ranking="help").kept, helps)
    assert prune(graph, scores, 1).kept.equal(hurts)


def test_scores_that_do_not_fit_are_refused():
    graph = graph_of()
    with pytest.raises(ValueError, match=r"the scores have the shape \(2, 2\)"):
        prune_greedily(graph, torch.zeros(2, 2), 3)
    with pytest.raises(ValueError, match="0 edges are to be kept"):
        prune_to_largest(graph, torch.zeros(graph.has_edge.shape), 0)
    with pytest.raises(ValueError, match="have no score"):
        prune_to_largest(graph, torch.full(graph.has_edge.shape, torch.nan), 3)


THRESHOLD = 0.01
"""Of ACDC, in nats and in logits; the circuits' heads write logits of 10, and what is outside them changes nothing at all."""


def known_edges(made: Handmade):
    """The circuit's edges as the graph writes them; positions that are added to queries and keys alone come from no sender."""

    def name_of(node):
        match node:
            case Head():
                return f"L{node.layer}H{node.head}"
            case Neuron():
                return f"mlp{node.layer}"
        return "logits" if node == "logits" else "embed"

    in_stream = made.model.config.position != "attention_only"
    return {
        f"{name_of(edge.sender)}->{name_of(edge.receiver)}" + (f".{edge.input}" if isinstance(edge.receiver, Head) else "")
        for edge in made.circuit.edges
        if edge.sender != "pos_embed" or in_stream
    }


def runs_of(made: Handmade, how):
    outside = ablated_outputs(made.model, made.tokens, how, other_tokens=made.corrupted_tokens)
    return CircuitRuns(made.model, made.tokens, Graph(made.model.config), outside)


def found_by_acdc(made: Handmade, how, **options):
    metric = metrics.logit_diff(made.answers, made.wrong_answers)
    runs = runs_of(made, how)
    return set(map(str, runs.graph.edges_of(find_by_acdc(runs, metric, threshold=THRESHOLD, **options))))


@pytest.mark.parametrize("attention", [0.95, 0.9999])
@pytest.mark.parametrize("make", [induction, copying, indirect_object, neuron])
def test_acdc_finds_the_known_edges_and_no_other(make, attention):
    made = make(attention=attention, n_prompts=4)
    assert found_by_acdc(made, "zero", divergence="metric") == known_edges(made)  # precision and recall 1


# Between two runs an edge counts only where its sender writes something else, and what both read alike is left out: the embedding of
# tokens that stand in both, and positions.
def test_acdc_between_two_runs_finds_what_tells_them_apart():
    made = induction(n_prompts=4)
    before, inducing = sorted(map(str, (f"L{head.layer}H{head.head}" for head in made.circuit.heads)))
    for divergence in ("kl", "metric"):
        assert found_by_acdc(made, "resample", divergence=divergence) == {
            f"embed->{before}.v",
            f"{before}->{inducing}.k",
            f"{inducing}->logits",
        }


def test_the_known_circuit_is_faithful_and_the_empty_one_is_not():
    made = indirect_object(n_prompts=4)
    metric = metrics.logit_diff(made.answers, made.wrong_answers)
    graph = Graph(made.model.config)
    known = Circuit(graph, tuple(map(graph.parse, sorted(known_edges(made)))))
    for how in ("zero", "resample"):
        scores = evaluate_circuit(
            made.model, made.tokens, made.corrupted_tokens, metric, known, ablations=[how], n_random=50, units=None, n_subsets=0
        ).of(how)
        assert scores.normalised == pytest.approx(1, abs=1e-12)  # nothing outside reaches a logit difference
        assert float(scores.shares_of(scores.empty)) == 0
        assert scores.difference < 1e-10
        assert scores.n_random_further >= 45, "random connected circuits with the same layers are not faithful"


def test_a_large_graph_is_not_for_acdc():
    made = induction(n_prompts=2)
    with pytest.raises(ValueError, match="the graph has 81 edges, and each takes a run; at most 20 are allowed"):
        found_by_acdc(made, "zero", most_runs=20)
    with pytest.raises(ValueError, match="the threshold is 0"):
        find_by_acdc(runs_of(made, "zero"), metrics.logit(1), threshold=0)


def test_minimising_leaves_what_is_needed():
    made = induction(n_prompts=4)
    metric = metrics.logit_diff(made.answers, made.wrong_answers)
    graph = Graph(made.model.config)
    whole = Circuit.of_mask(graph, graph.has_edge)
    for scores in (None, torch.rand(graph.has_edge.shape, generator=torch.Generator().manual_seed(0))):
        circuit = whole if scores is None else Circuit.of_mask(graph, graph.has_edge, scores)
        left = minimise(made.model, made.tokens, made.corrupted_tokens, metric, circuit, ablation="zero", tolerance=0.001)
        assert set(map(str, left.edges)) == known_edges(made)
        assert (left.scores is None) == (scores is None)


@pytest.mark.parametrize("shape", GRAPHS)
def test_random_circuits_are_connected_and_have_the_same_layers(shape):
    graph, generator = graph_of(n_layers=3, **GRAPHS[shape]), torch.Generator().manual_seed(0)
    seen = set()
    for n_edges in (3, 6, 12, 25, 40, graph.n_edges - 1, graph.n_edges):
        scores = torch.randn(graph.has_edge.shape, generator=generator)
        given = prune_greedily(graph, scores, n_edges).kept
        histogram = graph.layer_histogram(given)
        assert sum(histogram) == given.sum()
        for kept in random_circuits(graph, histogram, 10, generator=generator):
            assert torch.equal(on_paths(graph, kept) if n_edges < 20 else graph.connected(kept), kept)
            assert graph.layer_histogram(kept) == histogram
            seen.add(tuple(kept.flatten().tolist()))
    assert len(seen) > 30, "they differ"


def test_histograms_that_cannot_be_are_refused():
    graph, generator = graph_of(), torch.Generator().manual_seed(0)
    for histogram in ((0, 3, 0), (0, 0, 2), (99, 1, 1)):  # nothing into the logits; more than the embedding; more than there are
        with pytest.raises(ValueError, match=f"no connected circuit with {', '.join(map(str, histogram))} edges into the layers"):
            random_circuit(graph, histogram, generator=generator)
    with pytest.raises(ValueError, match="the histogram has 2 numbers; expected 3"):
        random_circuit(graph, (1, 1), generator=generator)
