"""Numbers about circuits: normalisation, areas and intervals against closed forms, completeness and minimality by hand."""

import json
import math

import pytest
import torch

from cutaway.interp import metrics
from cutaway.interp.circuits import (
    SHARES,
    Circuit,
    CircuitRuns,
    Faithfulness,
    Graph,
    ablated_outputs,
    circuit_metric,
    evaluate_circuit,
    faithfulness_curve,
    prune_greedily,
    ratio_interval,
    run_circuit,
    score_edges,
    select_circuit,
)
from cutaway.interp.circuits.bootstrap import interval_of, resampled_means
from cutaway.interp.circuits.curve_result import AblationCurve, area_from_one, area_under
from interp.models import small_model, two_runs

METRIC = metrics.logit_diff(3, 7)


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def faithfulness(circuit, model, empty, **fields):
    return Faithfulness(how="zero", said="zeros", circuit=circuit, model=model, empty=empty, **fields)


def test_faithfulness_is_a_ratio_of_means_and_not_clipped():
    found = faithfulness(rows(5, 1), rows(2, 2), rows(1, -1))
    assert found.normalised == (3 - 0) / (2 - 0)
    assert found.difference == 1
    assert faithfulness(rows(-3, -1), rows(2, 2), rows(0, 0)).normalised == -1
    assert faithfulness(rows(1, 3), rows(-2, -2), rows(0, 0)).normalised == -1  # a metric that the model lowers


def test_a_small_denominator_is_refused():
    found = faithfulness(rows(5, 1), rows(1.0, 1.0), rows(1.0, 0.9), least_gap=0.1)
    assert (found.normalised, found.interval, found.random_shares) == (None, None, [])
    assert "differ by 0.05, less than 0.1, so no faithfulness is a share of it (--least-gap or least_gap sets" in found.refusal
    assert faithfulness(rows(5, 1), rows(1.0, 1.0), rows(1.0, 0.9), least_gap=0.04).normalised == pytest.approx((3 - 0.95) / 0.05)
    assert faithfulness(rows(5), rows(2), rows(1)).interval is None, "one pair has no interval"


def test_one_pair_and_a_denominator_that_may_be_0_have_no_interval():
    one = faithfulness(rows(5), rows(2), rows(1))
    assert (one.normalised, one.interval, one.no_interval) == (4, None, "1 pair gives no interval: 5 are needed at least")
    few = faithfulness(rows(5, 3, 4, 5), rows(6, 5, 6, 7), rows(1, 0, 1, 1))
    assert (few.interval, few.no_interval) == (None, "4 pairs give no interval: 5 are needed at least")
    with pytest.raises(ValueError, match="there are 4 rows, too few to draw an interval from: give at least 5"):
        ratio_interval(rows(1, 2, 3, 4), rows(2, 3, 4, 5), generator=torch.Generator())
    unsure = faithfulness(rows(2, 1, 3, 2, 2), rows(5, -4, 2, 7, -5), rows(0, 0, 0, 0, 0))
    assert unsure.normalised == 2
    assert unsure.interval is None
    assert "the difference between model and empty circuit may be 0 (95 % interval " in unsure.no_interval
    assert ratio_interval(rows(1, 2, 3, 4, 5), rows(1, -1, 1, -1, 0.1), generator=torch.Generator().manual_seed(0)) is None
    sure = faithfulness(rows(2, 1, 3, 2, 2), rows(5, 4, 2, 4, 4), rows(0, 0, 0, 0, 0))
    assert sure.no_interval is None
    assert sure.interval.low <= sure.normalised <= sure.interval.high
    assert json.loads(json.dumps(unsure.to_dict()))["no_interval"] == unsure.no_interval


def test_no_denominator_at_all_is_refused_whatever_is_asked_for():
    none = faithfulness(rows(5, 1), rows(1, 1), rows(1, 1), least_gap=0)
    assert (none.normalised, none.interval) == (None, None)
    assert "model and empty circuit do not differ" in none.refusal
    for wrong in (-1.0, math.nan):
        with pytest.raises(ValueError, match=f"least_gap is {wrong}; expected at least 0"):
            faithfulness(rows(5, 1), rows(1, 1), rows(1, 1), least_gap=wrong)


def test_one_pair_is_said_not_to_have_an_interval(found):
    model, tokens, other, circuit, scores = found
    given = (model, tokens[:1], other[:1], METRIC)
    alone = evaluate_circuit(*given, circuit, n_random=0, n_subsets=0, units=None, least_gap=0)
    assert alone.summary().endswith("1 pair gives no interval: 5 are needed at least.")
    curve = faithfulness_curve(*given, circuit.graph, scores, shares=[0.1, 1.0], ablations=["resample"], least_gap=0)
    assert "on 1 prompt pair; measured" in curve.summary()
    assert curve.summary().endswith("; 1 pair gives no interval: 5 are needed at least.")
    assert curve.of("resample").intervals() is None


def test_no_rows_are_said(found):
    model, tokens, other, circuit, _ = found
    with pytest.raises(ValueError, match="the tokens are 0 rows of 9: give at least one row"):
        circuit_metric(model, tokens[:0], circuit, METRIC, other_tokens=other[:0])
    with pytest.raises(ValueError, match="there are 0 rows of 9 tokens: give at least one of each"):
        score_edges(model, tokens[:0], other[:0], METRIC)


@pytest.mark.parametrize("pos", [-1, -2, 4, -9])
def test_metrics_read_where_they_say_from_the_end_too(found, pos):
    """Positions before the runs differ read the same whatever is kept; others are those of all logits."""
    model, tokens, other, circuit, _ = found
    metric = metrics.logit_diff(3, 7, pos=pos)
    for how in ("zero", "mean", "resample"):
        logits = run_circuit(model, tokens, circuit, ablation=how, other_tokens=other)
        read = circuit_metric(model, tokens, circuit, metric, ablation=how, other_tokens=other)
        torch.testing.assert_close(read, metric(logits), rtol=0, atol=1e-10)  # float64, logits below 100


def test_the_areas_are_those_of_trapezoids():
    shares = torch.linspace(0.1, 1, 5, dtype=torch.float64).tolist()
    line = rows(*shares)  # f(k) = k: exact for trapezoids
    assert float(area_under(shares, line)) == pytest.approx((1 - 0.01) / 2)
    assert float(area_from_one(shares, line)) == pytest.approx(0.9**2 / 2)
    assert float(area_under(SHARES, rows(*[1.0] * 10))) == pytest.approx(0.999)
    assert float(area_from_one(SHARES, rows(*[1.5] * 10))) == pytest.approx(0.5 * 0.999), "above 1 counts as below"
    fine = torch.linspace(0, 1, 2001, dtype=torch.float64)
    assert float(area_under(fine.tolist(), fine.sqrt())) == pytest.approx(2 / 3, abs=1e-5)  # the error of trapezoids is O(h^1.5)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """A ratio of means whose truth is 0.6, 32 pairs a draw: 95 % intervals hold it in 95 % of draws, to within three of their own
    standard errors (400 draws: 3.3 %), and less 2 % for what percentile intervals lose with so few rows."""
    generator = torch.Generator().manual_seed(0)
    n_held, n_draws = 0, 400
    for _ in range(n_draws):
        denominator = 2 + 0.5 * torch.randn(32, generator=generator, dtype=torch.float64)
        numerator = 0.6 * denominator + 0.3 * torch.randn(32, generator=generator, dtype=torch.float64)
        low, high = ratio_interval(numerator, denominator, n_resamples=1000, generator=generator)
        n_held += low <= 0.6 <= high
    assert 0.95 - 0.033 - 0.02 <= n_held / n_draws <= 0.95 + 0.033


def test_a_mean_s_interval_is_near_the_normal_one():
    x = torch.randn(2000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    low, high = interval_of(resampled_means(x, n_resamples=4000, generator=torch.Generator().manual_seed(2)))
    half = 1.96 * float(x.std()) / math.sqrt(2000)
    assert low == pytest.approx(float(x.mean()) - half, abs=0.06 * 2 * half)
    assert high == pytest.approx(float(x.mean()) + half, abs=0.06 * 2 * half)
    with pytest.raises(ValueError, match="999 resamples are too few"):
        resampled_means(x, n_resamples=999, generator=torch.Generator())


def test_the_interval_of_an_area_is_that_of_curves_of_the_same_rows():
    model = rows(2, 4, 6, 2, 4)
    curve = AblationCurve(
        how="zero", said="zeros", shares=(0.5, 1.0), circuits=torch.stack([model / 2, model]), model=model, empty=0 * model,
        random=(None, None),
    )  # fmt: skip
    assert curve.normalised.tolist() == [0.5, 1.0]
    assert curve.cpr_interval == pytest.approx((0.375, 0.375)), "each row has the same shares"
    assert (curve.cpr, curve.cmd) == (0.375, 0.125)
    assert curve.cmd_interval == pytest.approx((0.125, 0.125))


@pytest.mark.parametrize("truth", [1.0, 0.98, 0.6])
def test_the_interval_of_cmd_holds_the_truth_and_its_own_estimate(truth):
    """200 draws of 16 pairs whose circuits are noise around one faithfulness: 95 % or more, less three standard errors (4.6 %)."""
    generator, held = torch.Generator().manual_seed(0), 0
    for _ in range(200):
        model = 2 + 0.3 * torch.randn(16, generator=generator, dtype=torch.float64)
        circuits = truth * model + 0.6 * torch.randn(len(SHARES), 16, generator=generator, dtype=torch.float64)
        curve = AblationCurve(
            how="zero", said="", shares=SHARES, circuits=circuits, model=model, empty=0 * model, random=(None,) * len(SHARES),
            n_resamples=1000,
        )  # fmt: skip
        low, high = curve.cmd_interval
        assert 0 <= low <= curve.cmd <= high
        held += low <= (1 - truth) * 0.999 <= high
    assert held / 200 >= 0.95 - 0.046


def test_a_circuit_is_marked_on_a_curve(found):
    model, tokens, other, circuit, scores = found
    given = {"shares": [0.1, 0.5, 1.0], "ablations": ["zero", "resample"], "least_gap": 1e-6}
    curve = faithfulness_curve(model, tokens, other, METRIC, circuit.graph, scores, circuit=circuit, **given)
    plain = faithfulness_curve(model, tokens, other, METRIC, circuit.graph, scores, **given)
    alone = evaluate_circuit(model, tokens, other, METRIC, circuit, ablations=["zero", "resample"], least_gap=1e-6, n_random=0)
    for how in ("zero", "resample"):
        assert torch.equal(curve.of(how).marked, alone.of(how).circuit)
        assert curve.of(how).marked_scores.normalised == alone.of(how).normalised
        assert curve.of(how).cmd == plain.of(how).cmd, "it is no size of the curve"
        assert plain.of(how).marked_scores is None
    assert f"The circuit itself keeps {circuit}; its faithfulness is " in curve.summary()
    said = json.loads(curve.to_json())
    assert (said["n_edges_of_circuit"], said["n_known_pairs"]) == (len(circuit), 0)
    assert said["curves"][0]["circuit"]["faithfulness"] == alone.of("zero").normalised
    assert "zero, the circuit" in curve.figures()[0].get_label()
    with pytest.raises(ValueError, match="the circuit is of another graph than the scores"):
        faithfulness_curve(model, tokens, other, METRIC, Graph(small_model(n_layers=2).config), scores, circuit=circuit)


def test_nothing_is_said_where_there_is_nothing(found):
    """Runs that do not differ, and a circuit none of whose edges is on a path."""
    model, tokens, other, circuit, _ = found
    same = score_edges(model, tokens, tokens, METRIC)
    assert not same.has_gap
    assert "No edge moves it" in same.summary()
    assert "edges move it by" not in same.summary()
    assert "edges move it by 5 % of the difference" in score_edges(model, tokens, other, METRIC).summary()
    pathless = Circuit(circuit.graph, (circuit.graph.parse("L0H0->mlp1"),))
    scores = evaluate_circuit(model, tokens, other, METRIC, pathless, n_random=5, n_subsets=0, units=None)
    assert scores.of("resample").random is None
    assert "random circuits are further off" not in scores.summary()
    for selection in ("greedy", "largest", "threshold"):
        with pytest.raises(ValueError, match="no row of the runs differs in the metric"):
            select_circuit(model, tokens, tokens, METRIC, selection=selection)


def test_a_threshold_keeps_every_edge_of_that_share_of_the_gap(found):
    model, tokens, other, circuit, _ = found
    graph = circuit.graph
    kept = [select_circuit(model, tokens, other, METRIC, method="eap", selection="threshold", threshold=x) for x in (0.001, 0.3)]
    for each, share in zip(kept, (0.001, 0.3), strict=True):
        scores = each.edge_scores
        large = graph.has_edge & (scores.scores.abs() >= share * abs(scores.gap))
        assert torch.equal(each.circuit.kept, graph.connected(large))
        assert each.n_dropped == int(large.sum()) - len(each.circuit)
        assert each.circuit.settings["threshold"] == share
        assert "n_edges" not in each.circuit.settings
    assert len(kept[1].circuit) < len(kept[0].circuit)
    with pytest.raises(ValueError, match="the threshold is 0"):
        select_circuit(model, tokens, other, METRIC, selection="threshold", threshold=0)


@pytest.mark.usefixtures("without_type_checks")
def test_another_selection_is_refused(found):
    model, tokens, other, *_ = found
    with pytest.raises(ValueError, match="there is no selection 'best'"):
        select_circuit(model, tokens, other, METRIC, selection="best")


@pytest.fixture
def found():
    model, (tokens, other) = small_model(), two_runs(n_rows=3)
    graph = Graph(model.config)
    scores = torch.randn(graph.has_edge.shape, generator=torch.Generator().manual_seed(3))
    circuit = Circuit.of_mask(graph, prune_greedily(graph, scores, 40).kept, scores)
    return model, tokens, other, circuit, scores


def test_what_is_evaluated_is_what_runs_give(found):
    model, tokens, other, circuit, _ = found
    scores = evaluate_circuit(
        model, tokens, other, METRIC, circuit, ablations=["zero", "resample"], n_random=50, n_subsets=4, units="node"
    )
    assert scores.of("resample").model.tolist() == pytest.approx(METRIC(model(tokens)).tolist())
    assert scores.of("resample").empty.tolist() == pytest.approx(METRIC(model(other)).tolist())
    for each in scores.faithfulness:
        runs = CircuitRuns(model, tokens, circuit.graph, ablated_outputs(model, tokens, each.how, other_tokens=other))
        assert torch.equal(each.circuit, runs.metric(circuit.kept, METRIC))
        assert each.random.shape == (50, 3)
        assert [unit.unit for unit in each.units] == [str(node) for node in circuit.nodes if str(node) not in ("embed", "logits")]
        name, effect = each.units[-1]
        without = circuit.graph.mask(
            edge for edge in circuit.edges if str(edge.sender) != name and not str(edge.receiver).startswith(name)
        )
        assert effect == pytest.approx(float((runs.metric(without, METRIC) - each.circuit).mean()))
        assert len(each.subsets) == 4
        assert each.incompleteness == max(abs(part.circuit - part.model) for part in each.subsets)
    said = json.loads(scores.to_json())
    assert said["ablations"][0]["faithfulness"] == scores.faithfulness[0].normalised
    assert "50 random circuits are further off" in scores.summary()
    assert f"circuit and model differ by {scores.faithfulness[0].difference:.3g} (|M-C|)" in scores.summary()
    assert scores.table()[0][-1] == "parts"
    assert "Parts is the largest difference between circuit and model without the same random part" in scores.summary()


def test_the_whole_model_is_complete_and_faithful(found):
    model, tokens, other, circuit, _ = found
    whole = Circuit.of_mask(circuit.graph, circuit.graph.has_edge)
    scores = evaluate_circuit(model, tokens, other, METRIC, whole, n_random=0, n_subsets=3, units=None, least_gap=1e-3).of(
        "resample"
    )
    assert scores.normalised == pytest.approx(1, abs=1e-10)
    assert scores.incompleteness == pytest.approx(0, abs=1e-10)
    assert scores.interval is None
    assert "3 pairs give no interval" in scores.no_interval


def test_an_edge_may_be_the_unit(found):
    model, tokens, other, circuit, _ = found
    scores = evaluate_circuit(model, tokens, other, METRIC, circuit, n_random=0, n_subsets=2, units="edge").of("resample")
    assert [each.unit for each in scores.units] == list(map(str, circuit.edges))


def test_an_empty_circuit_is_scored_too(found):
    model, tokens, other, circuit, _ = found
    scores = evaluate_circuit(model, tokens, other, METRIC, Circuit(circuit.graph, ()), least_gap=1e-3)
    assert scores.of("resample").normalised == pytest.approx(0, abs=1e-10)
    assert scores.of("resample").random is None


def test_the_curve_is_that_of_the_circuits_pruned(found):
    model, tokens, other, circuit, scores = found
    graph, told = circuit.graph, []
    curve = faithfulness_curve(
        model,
        tokens,
        other,
        METRIC,
        graph,
        scores,
        shares=(0.1, 0.3, 1),
        n_random=3,
        least_gap=1e-3,
        progress=lambda *each: told.append(each),
    )
    assert [each.how for each in curve.curves] == ["zero", "mean", "resample"]
    assert told[-1][0] == told[-1][1] == len(told)
    for each in curve.curves:
        runs = CircuitRuns(model, tokens, graph, ablated_outputs(model, tokens, each.how, other_tokens=other))
        for share, n_edges, n_dropped, found_rows, random in zip(
            (0.1, 0.3, 1), curve.n_edges, curve.n_dropped, each.circuits, each.random, strict=True
        ):
            pruned = prune_greedily(graph, scores, round(share * graph.n_edges))
            assert (n_edges, n_dropped) == (pruned.n_edges, pruned.n_dropped)
            assert torch.equal(found_rows, runs.metric(pruned.kept, METRIC))
            assert (random is None) == (share == 1), n_edges
        assert float(each.normalised[-1]) == pytest.approx(1, abs=1e-10)
    assert json.loads(curve.to_json())["curves"][2]["cpr"] == curve.of("resample").cpr
    for shares in ((), (0.5, 0.1), (0.0, 1.0), (0.5, 1.5)):
        with pytest.raises(ValueError, match="expected numbers that rise"):
            faithfulness_curve(model, tokens, other, METRIC, graph, scores, shares=shares)
    by_help = faithfulness_curve(model, tokens, other, METRIC, graph, scores, shares=(0.1, 1), ranking="help", ablations=["zero"])
    kept = prune_greedily(graph, scores, round(0.1 * graph.n_edges), ranking="help").kept
    runs = CircuitRuns(model, tokens, graph, ablated_outputs(model, tokens, "zero"))
    assert torch.equal(by_help.of("zero").circuits[0], runs.metric(kept, METRIC))
    assert not torch.equal(by_help.of("zero").circuits[0], curve.of("zero").circuits[0])
    assert (by_help.area_as_in_mib, curve.area_as_in_mib) == ("cpr", "cmd")
    assert "how much they help, as MIB does for CPR" in by_help.summary()


@pytest.mark.parametrize("method", ["eap", "eap-ig-inputs", "eap-ig-activations", "exact"])
def test_edges_are_not_scored_where_they_cannot_be(method):
    (tokens, other), bidirectional = two_runs(), small_model("bidirectional")
    with pytest.raises(ValueError, match="every position sees what rows are filled up with: run rows of one length at a time"):
        score_edges(bidirectional, tokens, other, METRIC, method=method, lengths=[9, 7])
    even, expected = (score_edges(bidirectional, tokens, other, METRIC, method=method, lengths=each) for each in ([9, 9], None))
    assert torch.equal(even.scores.nan_to_num(), expected.scores.nan_to_num())
    with pytest.raises(ValueError, match="a model without layers has one edge, embed->logits"):
        score_edges(small_model(n_layers=0), tokens, other, METRIC, method=method)
