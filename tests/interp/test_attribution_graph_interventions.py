"""Interventions have the effects that a graph says, exactly where all that bends is held, and beside it where it is not."""

import json

import pytest
import torch

import cutaway
from cutaway import attribution_graphs
from interp.small_transcoders import EXACT, a_transcoder, gap

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
