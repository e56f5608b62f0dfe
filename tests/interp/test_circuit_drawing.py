"""Circuits looked at, and run on prompts, by a tiny model that reads characters."""

import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from cutaway import LanguageModel, ModelConfig, Transformer
from cutaway.interp.circuits import (
    Circuit,
    Graph,
    draw_circuit,
    evaluate_circuit,
    find_circuit,
    read_pairs,
    run_circuit,
    run_on_prompts,
    score_edges,
    stored_pairs,
)
from cutaway.tokenizers import CharTokenizer
from interp.models import small_model

EDGES = (
    "embed->L0H1.q",
    "embed->L0G0.v",
    "embed->mlp0",
    "L0H1->mlp0",
    "mlp0->L1G1.k",
    "L1H2->logits",
    "L1H3->logits",
    "L0H1->logits",
)


@pytest.fixture
def circuit():
    graph = Graph(small_model(n_kv_heads=2).config)
    return Circuit(graph, tuple(map(graph.parse, EDGES)), scores=tuple(range(-4, 4)), model="tiny", method="hand")


@pytest.fixture
def lm():
    tokenizer = CharTokenizer("abcdefgh ")
    config = ModelConfig(d_vocab=tokenizer.d_vocab, n_ctx=16, n_layers=2, n_heads=2, d_model=16)
    model = Transformer(config, generator=torch.Generator().manual_seed(0)).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8)
    return LanguageModel(model, tokenizer)


@pytest.fixture
def pairs(lm):
    clean = ["abc abd", "cba bad", "aab bcd", "dcb aac"]
    return read_pairs(lm, clean, [text.replace("b", "g") for text in clean], ["a"] * 4, ["c"] * 4)


def test_a_terminal_shows_nodes_by_layer_and_edges_by_score(circuit):
    written = io.StringIO()
    draw_circuit(circuit).show(Console(width=80, file=written, no_color=True))
    text = written.getvalue()
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert f"8 of {circuit.graph.n_edges} edges" in text
    assert "Of tiny. Found by hand." in text
    assert "layer 0 L0H1 mlp0 4" in lines
    assert "logits logits 3" in lines
    assert max(map(len, text.splitlines()[2:])) <= 80
    order = [
        line.split()[2] for line in lines if line.count(" ") == 2 and line.split()[2][:1] in "+-" and line.split()[0] != "sender"
    ]
    assert [abs(float(score)) for score in order] == sorted((abs(float(score)) for score in order), reverse=True)


def test_the_picture_has_every_edge_a_group_s_into_each_of_its_heads(circuit, tmp_path):
    drawing = draw_circuit(circuit, tmp_path / "c.svg")
    figure = drawing.figures()[0]
    drawn = [patch for patch in figure.axes[0].patches if not patch.get_facecolor()[3]]
    assert len(drawn) == len(EDGES) + 1, "L1G1.k enters L1H2 and L1H3"
    assert (tmp_path / "c.svg").stat().st_size > 1000
    assert json.loads(drawing.to_json())["edges"]["L0H1->mlp0"] == -1
    with pytest.raises(ValueError, match="no edge, so there is nothing to draw"):
        draw_circuit(Circuit(circuit.graph, ()), tmp_path / "none.svg")
    assert not (tmp_path / "none.svg").exists()


def test_layers_without_nodes_are_named(circuit):
    assert "; none in layer 2: " in draw_circuit(circuit).figures()[0].get_label()
    whole = Circuit.of_mask(circuit.graph, circuit.graph.has_edge)
    assert "none in" not in draw_circuit(whole).figures()[0].get_label()
    graph = Graph(circuit.graph.config.replace(n_layers=7))
    few = Circuit(graph, tuple(map(graph.parse, ("embed->L1H0.q", "L1H0->mlp5", "mlp5->logits"))))
    assert draw_circuit(few).figures()[0].get_label().startswith("3 edges between 4 nodes; none in layers 0, 2 to 4, 6: ")


def test_what_the_circuit_says_is_what_its_logits_say(lm, pairs):
    graph = Graph(lm.config)
    whole, empty = Circuit.of_mask(graph, graph.has_edge), Circuit(graph, ())
    found = run_on_prompts(lm, pairs, whole)
    assert found.tokens[0] == found.tokens[1]
    torch.testing.assert_close(found.metric[0], found.metric[1])
    assert "say the same next token after 4 of 4 prompts" in found.summary()
    found = run_on_prompts(lm, pairs, empty)
    logits = run_circuit(lm.model, pairs.tokens, empty, other_tokens=pairs.other_tokens)
    torch.testing.assert_close(found.metric[1], pairs.metric(logits))
    torch.testing.assert_close(found.metric[2], found.metric[1])
    best = logits[:, -1].float().softmax(-1).max(-1)
    assert [tokens[0] for tokens in found.tokens[1]] == [lm.text([token]) for token in best.indices.tolist()]
    torch.testing.assert_close(found.probs[1, :, 0], best.values)


def test_a_circuit_is_found_on_one_part_of_the_pairs_and_scored_on_the_other(lm, pairs):
    found = find_circuit(lm, pairs, n_edges=20, name="tiny", command="cutaway ...")
    finding, others = pairs.split(0.5)
    assert found.is_held_out
    assert found.circuit.data_hash == finding.data_hash
    circuit = found.circuit
    logits = run_circuit(lm.model, others.tokens, circuit, other_tokens=others.other_tokens)
    torch.testing.assert_close(found.scores.of("resample").circuit, others.metric(logits))
    assert len(circuit) + found.n_dropped == 20
    assert found.scores.n_known_pairs == 0
    again = evaluate_circuit(
        lm.model, pairs.tokens, pairs.other_tokens, pairs.metric, circuit, n_random=0, n_subsets=0, units=None
    )  # of all pairs, half of which it was found with
    assert again.n_known_pairs == 2
    assert "2 of the pairs are among those it was found with: give others" in again.summary()
    assert repr(circuit) == f"Circuit({circuit}, of tiny, found by {circuit.method})"
    assert repr(pairs) == f"PromptPairs({len(pairs)} pairs of {pairs.tokens.shape[1]} tokens, {pairs.measured})"
    assert "A score is what the metric gains when the edge carries what the corrupted run has" in found.summary()
    into = found.to_dict()["circuit"]["layer_histogram"]
    assert sum(into.values()) == len(circuit)
    assert 0 not in into.values()
    assert (circuit.model, circuit.command, circuit.settings["n_pairs"]) == ("tiny", "cutaway ...", 2)
    whole = find_circuit(lm, pairs, n_edges=10**6, selection="largest", held_out=0)
    assert not whole.is_held_out
    assert len(whole.circuit) == whole.circuit.graph.n_edges
    assert "On the same prompts that it was found with" in whole.summary()
    renamed = replace(found, scores=replace(found.scores, measured="a; measured: b"))
    assert "measured: a; measured: b. Ablation resample: model" in renamed.summary()
    tried = find_circuit(lm, pairs, n_edges=20, exact_top=3).tried
    assert len(tried.exact) == 3
    assert tried.agreement().n_tried == 3
    with pytest.raises(ValueError, match="edges are to be tried beside their scores"):
        find_circuit(lm, pairs, selection="acdc", exact_top=3)


@pytest.mark.parametrize("how", ["zero", "mean"])
def test_a_circuit_is_of_edges_scored_under_its_ablation(lm, pairs, how):
    circuit = find_circuit(lm, pairs, method="eap", selection="largest", n_edges=10**6, ablation=how, held_out=0).circuit
    scores = score_edges(lm.model, pairs.tokens, pairs.other_tokens, pairs.metric, ablation=how)
    assert list(circuit.scores) == [scores.score(edge) for edge in circuit.edges]
    assert circuit.settings["ablation"] == how


def test_prompts_of_a_circuit_are_the_pairs_again(lm, pairs, tmp_path):
    circuit = find_circuit(lm, pairs, n_edges=20).circuit
    finding, others = pairs.split(0.5)
    again = Circuit.load(circuit.save(tmp_path / "circuit.json"))
    for part, expected in (("found_with", finding), ("held_out", others), (None, others)):
        found = stored_pairs(lm, again, part)
        assert torch.equal(found.tokens, expected.tokens)
        assert torch.equal(found.other_tokens, expected.other_tokens)
        logits = lm.model(found.tokens)
        assert torch.equal(found.metric(logits), expected.metric(logits))
        assert found.measured == expected.measured
    run = run_on_prompts(lm, stored_pairs(lm, again), again)
    assert run.n_known_pairs == 0
    assert "It was found with other prompts." in run.summary()
    assert "found with 2 of them: give others" in run_on_prompts(lm, pairs, again).summary()
    alone = find_circuit(lm, pairs.rows([0]), n_edges=20).circuit
    assert (len(alone.prompts.found_with), alone.prompts.held_out) == (1, ())
    with pytest.raises(ValueError, match="holds no prompts of the part held_out: it was found with all 1"):
        stored_pairs(lm, alone, "held_out")
    with pytest.raises(ValueError, match=r"the circuit holds no prompts \(it comes from an older version"):
        stored_pairs(lm, replace(alone, prompts=None))


def test_pairs_split_and_are_the_same_rows(lm, pairs):
    first, second = pairs.split(0.25, seed=3)
    assert (len(first), len(second)) == (1, 3)
    both = torch.cat([first.tokens, second.tokens])
    assert sorted(both.tolist()) == sorted(pairs.tokens.tolist())
    rows = pairs.rows([2, 0])
    logits = lm.model(pairs.tokens)
    torch.testing.assert_close(rows.metric(logits[[2, 0]]), pairs.metric(logits)[[2, 0]])
    for seed in range(5):
        some, rest = pairs.rows([0, 0, 1, 1, 2, 2]).split(0.5, seed=seed)
        assert set(some.hashes).isdisjoint(rest.hashes)
        assert len(some) + len(rest) == 6
    assert pairs.without(pairs.hashes[1:]).hashes == pairs.hashes[:1]
    with pytest.raises(ValueError, match=r"1 different pair cannot be split"):
        pairs.rows([0, 0, 0]).split()
    with pytest.raises(ValueError, match=r"1 pair cannot be split into 0\.5 and the rest"):
        first.split(0.5)


def test_prompts_of_another_length_are_told_where_they_first_differ(lm):
    with pytest.raises(
        ValueError, match=r"pair 1: the clean prompt has 3 tokens and the corrupted one 4; .* at position 3, nothing and d: give"
    ):
        read_pairs(lm, ["abc"], ["abcd"], ["a"])
    with pytest.raises(ValueError, match="there are 1 clean and 2 corrupted prompts"):
        read_pairs(lm, ["abc"], ["abd", "abc"], ["a"])
