"""Prompt pairs of different length: every number is that of each pair alone."""

from dataclasses import replace

import pytest
import torch

from cutaway import LanguageModel
from cutaway.interp import metrics
from cutaway.interp.circuits import (
    Circuit,
    CircuitRuns,
    Graph,
    ablated_outputs,
    circuit_metric,
    evaluate_circuit,
    faithfulness_curve,
    find_circuit,
    hash_data,
    hash_pairs,
    minimise_on_prompts,
    prune_greedily,
    read_pairs,
    run_on_prompts,
    score_edges,
    select_circuit,
    stored_pairs,
)
from cutaway.tokenizers import CharTokenizer
from interp.models import small_model, two_runs

LENGTHS = [9, 6, 7]
ANSWERS, WRONG = [3, 5, 8], [7, 2, 1]
METRIC = metrics.logit_diff(ANSWERS, WRONG)
ROUNDING = {"rtol": 0, "atol": 1e-10}  # float64, logits below 100: a longer row's sums come in another order


def filled(seed=0, fill=0):
    """Three pairs that differ from the third token on, filled up after 9, 6 and 7 tokens."""
    tokens, other = two_runs(n_rows=3, differ_at=2, seed=seed)
    other[:, 3:6] = (other[:, 3:6] * 7 + 5) % 50
    for row, n in enumerate(LENGTHS):
        tokens[row, n:] = other[row, n:] = fill
    return tokens, other


def alone(tokens, row):
    return tokens[[row], : LENGTHS[row]]


def one(row):
    return metrics.logit_diff(ANSWERS[row], WRONG[row])


@pytest.fixture(scope="module", params=["gpt2", "rotary, grouped, gated", "parallel"])
def model(request):
    return small_model(request.param)


@pytest.fixture(scope="module")
def circuit(model):
    graph = Graph(model.config)
    scores = torch.randn(graph.has_edge.shape, generator=torch.Generator().manual_seed(3))
    return Circuit.of_mask(graph, prune_greedily(graph, scores, 60).kept, scores)


@pytest.mark.parametrize("how", ["zero", "resample"])
def test_each_row_runs_as_if_alone(model, circuit, how):
    tokens, other = filled()
    found = circuit_metric(model, tokens, circuit, METRIC, ablation=how, other_tokens=other, lengths=LENGTHS)
    for row in range(3):
        expected = circuit_metric(model, alone(tokens, row), circuit, one(row), ablation=how, other_tokens=alone(other, row))
        torch.testing.assert_close(found[[row]], expected, **ROUNDING)
    wrong = circuit_metric(model, tokens, circuit, METRIC, ablation=how, other_tokens=other)
    assert not torch.allclose(found[1:], wrong[1:]), "without lengths the metric reads what fills rows up"
    refilled = [
        circuit_metric(model, *filled(fill=9)[:1], circuit, METRIC, ablation=how, other_tokens=filled(fill=9)[1], lengths=LENGTHS)
    ]
    torch.testing.assert_close(refilled[0], found, **ROUNDING)


def test_a_mean_counts_no_filling(model, circuit):
    """Over rows and positions: written out from each row alone."""
    tokens, other = filled()
    outside = ablated_outputs(model, tokens, "mean", other_tokens=other, lengths=LENGTHS, over_positions=True)
    singles = [ablated_outputs(model, alone(tokens, row), "resample", other_tokens=alone(other, row)) for row in range(3)]
    for name, found in outside.by_name().items():
        expected = torch.cat([each.by_name()[name][0] for each in singles]).mean(0)
        torch.testing.assert_close(found[0, 0], expected, **ROUNDING)
    with pytest.raises(ValueError, match="rows of different length have no mean at each position"):
        circuit_metric(model, tokens, circuit, METRIC, ablation="mean", other_tokens=other, lengths=LENGTHS)
    with pytest.raises(ValueError, match="rows of different length have no mean at each position"):
        score_edges(model, tokens, other, METRIC, ablation="mean", lengths=LENGTHS)


def test_everything_that_is_evaluated_is_of_rows_alone(model, circuit):
    tokens, other = filled()
    given = {"lengths": LENGTHS, "n_random": 2, "least_gap": 0}
    scores = evaluate_circuit(model, tokens, other, METRIC, circuit, ablations=["zero", "resample"], n_subsets=2, **given)
    curve = faithfulness_curve(
        model, tokens, other, METRIC, circuit.graph, torch.rand(circuit.kept.shape), shares=[0.2, 1.0], ablations=["zero"], **given
    )
    for row in range(3):
        pair = alone(tokens, row), alone(other, row), one(row)
        each = evaluate_circuit(model, *pair, circuit, ablations=["zero", "resample"], n_random=2, n_subsets=0, units=None)
        for how in ("zero", "resample"):
            for name in ("circuit", "model", "empty"):
                torch.testing.assert_close(getattr(scores.of(how), name)[row], getattr(each.of(how), name)[0], **ROUNDING)
            torch.testing.assert_close(scores.of(how).random[:, row], each.of(how).random[:, 0], **ROUNDING)
        torch.testing.assert_close(curve.of("zero").model[row], one(row)(model(pair[0]))[0], **ROUNDING)
    known = replace(circuit, pair_hashes=hash_pairs(alone(tokens, 1), alone(other, 1)))
    assert evaluate_circuit(model, tokens, other, METRIC, known, n_subsets=0, units=None, **given).n_known_pairs == 1


def test_what_cannot_be_told_where_it_ends_is_refused(model, circuit):
    tokens, other = filled()
    with pytest.raises(ValueError, match="a function of full logits cannot tell where shorter rows end"):
        circuit_metric(model, tokens, circuit, lambda logits: logits[:, -1, 0], other_tokens=other, lengths=LENGTHS)
    with pytest.raises(ValueError, match="lengths are"):
        circuit_metric(model, tokens, circuit, METRIC, other_tokens=other, lengths=[9, 9])
    bidirectional = small_model("bidirectional")
    graph = Graph(bidirectional.config)
    outside = ablated_outputs(bidirectional, tokens, "zero")
    with pytest.raises(ValueError, match="every position sees what rows are filled up with"):
        CircuitRuns(bidirectional, tokens, graph, outside, lengths=LENGTHS)


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_a_circuit_is_selected_by_a_metric_of_one_s_own(model, how):
    """A bare model, tokens and a metric: the edges of scores that are the mean of those of each row alone."""
    tokens, other = filled()
    found = select_circuit(
        model, tokens, other, METRIC, method="eap", n_edges=40, ablation=how, lengths=LENGTHS, over_positions=True, name="mine"
    )
    outside = ablated_outputs(model, tokens, how, other_tokens=other, lengths=LENGTHS, over_positions=True)
    singles = []
    for row in range(3):
        ablation = outside if how == "mean" else how
        singles.append(score_edges(model, alone(tokens, row), alone(other, row), one(row), ablation=ablation).scores)
    expected = torch.stack(singles).mean(0)
    torch.testing.assert_close(found.edge_scores.scores, expected, equal_nan=True, **ROUNDING)
    assert torch.equal(found.circuit.kept, prune_greedily(found.circuit.graph, expected, 40).kept)
    assert found.circuit.pair_hashes == tuple(hash_pairs(alone(tokens, row), alone(other, row))[0] for row in range(3))
    assert found.circuit.data_hash == hash_data(*filled(fill=9), LENGTHS)
    assert (found.circuit.model, found.circuit.settings["n_pairs"], found.circuit.ablation) == ("mine", 3, how)


@pytest.fixture(scope="module")
def lm():
    tokenizer = CharTokenizer("abcdefghijklmnopqrstuvwxyz .")
    return LanguageModel(small_model(d_vocab=tokenizer.d_vocab), tokenizer)


CLEAN, CORRUPTED = ["abcd", "bcdaab", "cd", "dabca"], ["xbcd", "ycdaab", "zd", "wabca"]


@pytest.fixture(scope="module")
def pairs(lm):
    return read_pairs(lm, CLEAN, CORRUPTED, ["a", "b", "c", "d"], ["x", "y", "z", "w"])


def test_pairs_of_different_length_are_read_and_taken_apart(lm, pairs):
    assert pairs.lengths == (4, 6, 2, 5)
    assert [lm.text(ids) for ids in pairs.clean_ids] == CLEAN
    single = [read_pairs(lm, *([each[row]] for each in (CLEAN, CORRUPTED, "abcd", "xyzw"))) for row in range(4)]
    assert pairs.hashes == tuple(each.hashes[0] for each in single)
    some = pairs.rows([2, 0])
    assert (some.lengths, some.tokens.shape) == ((2, 4), (2, 4))
    assert pairs.rows([1]).lengths is None, "alone it is not filled up"
    assert pairs.rows([1]).data_hash == single[1].data_hash
    assert len(pairs.without(pairs.hashes)) == 0
    with pytest.raises(ValueError, match="expected one for each of the 4 pairs, 1 to 6"):
        replace(pairs, lengths=(1, 2, 3, 7))
    bidirectional = LanguageModel(small_model("bidirectional", d_vocab=lm.config.d_vocab), lm.tokenizer)
    with pytest.raises(ValueError, match="a bidirectional model would see what fills up the shorter rows"):
        read_pairs(bidirectional, CLEAN, CORRUPTED, "abcd", "xyzw")


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_a_circuit_of_them_is_found_kept_run_and_made_smaller(lm, pairs, how, tmp_path):
    found = find_circuit(lm, pairs, n_edges=60, ablation=how, seed=1)
    _, others = pairs.split(0.5, seed=1)
    if how != "mean":
        for row, value in enumerate(found.scores.of(how).circuit):
            alone = others.rows([row])
            expected = circuit_metric(
                lm.model, alone.tokens, found.circuit, alone.metric, ablation=how, other_tokens=alone.other_tokens
            )
            torch.testing.assert_close(value[None], expected, **ROUNDING)
    again = Circuit.load(found.circuit.save(tmp_path / "c.json"))
    assert again.pair_hashes == found.circuit.pair_hashes
    kept = stored_pairs(lm, again)
    assert kept.hashes == others.hashes
    run = run_on_prompts(lm, kept, again)
    assert run.texts == tuple(lm.text(ids) for ids in others.clean_ids)
    torch.testing.assert_close(run.metric[1], found.scores.of(how).circuit, **ROUNDING)
    best = lm.model(lm.tokens(run.texts[0]))[0, -1].argmax()
    assert run.tokens[0][0][0] == lm.text([int(best)])
    smaller = minimise_on_prompts(lm, pairs, again, tolerance=0.3)
    assert set(smaller.circuit.edges) <= set(again.edges)
    assert smaller.stages["after"].how == how
