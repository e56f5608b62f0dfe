"""Circuits made smaller on some pairs and scored on others, in a model whose circuit is known."""

import pytest

from cutaway import LanguageModel
from cutaway.experiments.handmade import Head, induction
from cutaway.interp.circuits import Circuit, Graph, PromptPairs, minimise_on_prompts
from cutaway.interp.metrics import logit_diff
from cutaway.interp.patching import Question, Targets
from cutaway.tokenizers import CharTokenizer


@pytest.fixture(scope="module")
def made():
    return induction(n_prompts=6)


@pytest.fixture(scope="module")
def lm(made):
    d_vocab = made.model.config.d_vocab
    return LanguageModel(made.model, CharTokenizer("".join(chr(ord("!") + i) for i in range(d_vocab))))


@pytest.fixture(scope="module")
def pairs(made):
    correct, wrong = (Targets(tuple(map(int, ids)), tuple(map(str, ids)), ()) for ids in (made.answers, made.wrong_answers))
    question = Question(logit_diff(correct.ids, wrong.ids), "logit_diff", "logit difference", correct, wrong)
    return PromptPairs(made.tokens, made.corrupted_tokens, question)


def known_edges(made):
    """The circuit as the graph writes it: positions are added to queries and keys alone, and come from no sender."""
    assert made.model.config.position == "attention_only"
    for edge in made.circuit.edges:
        sender = f"L{edge.sender.layer}H{edge.sender.head}" if isinstance(edge.sender, Head) else "embed"
        receiver = f"L{edge.receiver.layer}H{edge.receiver.head}.{edge.input}" if isinstance(edge.receiver, Head) else "logits"
        if edge.sender != "pos_embed":
            yield f"{sender}->{receiver}"


def test_the_whole_graph_shrinks_to_the_known_circuit(made, lm, pairs):
    graph = Graph(made.model.config)
    whole = Circuit.of_mask(graph, graph.has_edge)
    found = minimise_on_prompts(lm, pairs, whole, ablation="zero", tolerance=0.001, command="cutaway ...")
    assert set(map(str, found.circuit.edges)) == set(known_edges(made))
    assert set(found.removed) | set(found.circuit.edges) == set(whole.edges)
    before, after = found.stages["before"], found.stages["after"]
    assert before.normalised == 1.0, "every edge kept is the model itself"
    assert after.normalised == pytest.approx(1.0, abs=0.01)
    assert (found.n_searched, len(after.circuit), found.is_held_out) == (3, 3, True)
    searched, others = pairs.split(0.5)
    assert found.circuit.pair_hashes == searched.hashes
    assert found.circuit.command == "cutaway ..."
    assert set(others.hashes).isdisjoint(found.circuit.pair_hashes)


def test_what_it_was_found_with_is_searched_and_the_rest_scores(made, lm, pairs):
    graph = Graph(made.model.config)
    known = pairs.hashes[:2]
    whole = Circuit.of_mask(graph, graph.has_edge, pair_hashes=known)
    found = minimise_on_prompts(lm, pairs, whole, ablation="zero")
    assert (found.n_searched, len(found.stages["after"].circuit)) == (2, 4)
    assert found.circuit.pair_hashes == known
    alone = minimise_on_prompts(lm, pairs.rows([0]), whole, ablation="zero")
    assert not alone.is_held_out
    assert "On the same pairs" in alone.summary()
    assert "|M-C| is how far the circuit is from the model, 0 at best." in alone.summary()
