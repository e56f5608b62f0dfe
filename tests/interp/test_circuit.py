"""A circuit as a value: read, written, combined, refused."""

import json

import pytest
import torch

from cutaway.interp.circuits import Circuit, Graph, StoredPair, StoredPrompts, compare, hash_pairs, hash_tokens
from cutaway.weights import model_sha256
from interp.models import small_model

EDGES = ("embed->L0H1.v", "L0H1->mlp0", "mlp0->L1H0.k", "L1H0->logits", "L2H3->logits", "embed->L2H2.q")


def circuit_of(*edges, shape=None, **fields):
    graph = Graph((shape or small_model()).config)
    return Circuit(graph, tuple(map(graph.parse, edges)), **fields)


def test_json_gives_the_same_circuit_back(tmp_path):
    model = small_model("rotary, grouped, gated")
    graph = Graph(model.config)
    scores = torch.randn(graph.has_edge.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    circuit = Circuit.of_mask(
        graph, graph.has_edge & (scores > 1), scores, model="tiny", model_hash=model_sha256(model), method="eap, greedy",
        data_hash=hash_tokens(torch.arange(6).reshape(2, 3)), pair_hashes=("ab", "cd"), command="cutaway ...", settings={"steps": 5},
    )  # fmt: skip
    again = Circuit.from_json(circuit.to_json())
    assert again == circuit
    assert again.scores == circuit.scores
    assert Circuit.load(circuit.save(tmp_path / "circuit.json")) == circuit
    assert torch.equal(again.kept, graph.has_edge & (scores > 1))
    assert json.loads(circuit.to_json())["edges"][str(circuit.edges[0])] == circuit.scores[0]


def test_edges_stand_in_the_graph_s_order_once():
    circuit = circuit_of(*EDGES, *EDGES[:2])
    assert list(map(str, circuit.edges)) == ["embed->L0H1.v", "embed->L2H2.q", *EDGES[1:5]]
    assert list(map(str, circuit.nodes)) == ["embed", "L0H1", "mlp0", "L1H0", "L2H2", "L2H3", "logits"]
    assert circuit.layer_histogram == (2, 1, 1, 2)
    assert str(circuit) == f"6 of {circuit.graph.n_edges} edges, 7 nodes"
    with pytest.raises(ValueError, match="2 scores for 1 edges"):
        circuit_of(EDGES[0], scores=(1.0, 2.0))


def test_what_hangs_in_the_air_is_not_connected():
    circuit = circuit_of(*EDGES, scores=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0))
    assert list(map(str, circuit.connected().edges)) == list(EDGES[:4])
    assert circuit.connected().scores == (1.0, 2.0, 3.0, 4.0)


def test_sets_of_edges():
    first, second = circuit_of(*EDGES[:4]), circuit_of(*EDGES[2:])
    assert set(map(str, (first | second).edges)) == set(EDGES)
    assert list(map(str, (first & second).edges)) == list(EDGES[2:4])
    assert list(map(str, (first - second).edges)) == list(EDGES[:2])
    both = compare(first, second)
    assert (both.edge_jaccard, both.node_jaccard) == (2 / 6, 4 / 7)
    assert list(map(str, both.nodes)) == ["embed", "mlp0", "L1H0", "logits"]
    assert str(both).startswith("2 edges in both, 2 and 2 in one alone (Jaccard 0.33); 4 nodes in both of 7")
    assert compare(first, first).edge_jaccard == 1
    with pytest.raises(ValueError, match="the circuits are of different graphs: 3 layers of 4 heads"):
        compare(first, circuit_of(EDGES[0], shape=small_model(n_layers=1)))


def test_another_model_is_refused():
    model, trained, wide = small_model(), small_model(seed=1), small_model(n_heads=2)
    circuit = circuit_of(*EDGES, model_hash=model_sha256(model), model="tiny")
    circuit.check(model)
    with pytest.raises(
        ValueError, match=r"found in a model with other weights or settings \(tiny\), of the same shape: give that model, or force"
    ):
        circuit.check(trained)
    circuit.check(trained, force=True)
    for force in (False, True):
        with pytest.raises(
            ValueError, match="is of a model of another shape: 3 layers of 4 heads, sequential MLPs; this model has 3"
        ):
            circuit.check(wide, force=force)
    circuit_of(*EDGES).check(trained)  # without a hash the shape is all that is known


def test_hashes_of_tokens_tell_them_apart():
    rows = torch.arange(6).reshape(2, 3)
    assert len({hash_tokens(rows), hash_tokens(rows.T), hash_tokens(rows, rows), hash_tokens(rows + 1)}) == 4


PROMPTS = StoredPrompts.of(
    "logit_diff",
    [StoredPair((1, 2, 3), (1, 5, 3), 7, 8, "a b c", "a [\n  4\n] c")],
    [StoredPair((4, 2, 3), (4, 5, 3), 8, 7)],
    source="pairs.jsonl",
)


def circuit_with_prompts():
    hashes = hash_pairs(torch.tensor([[1, 2, 3]]), torch.tensor([[1, 5, 3]]))
    return circuit_of(*EDGES, pair_hashes=hashes, prompts=PROMPTS)


def test_prompts_are_kept_a_line_each_and_come_back():
    circuit = circuit_with_prompts()
    text = circuit.to_json()
    assert '"clean": [1, 2, 3],' in text
    assert Circuit.from_json(text).prompts == PROMPTS
    assert Circuit.from_json(text) == circuit
    assert circuit.connected().prompts == PROMPTS


def test_a_file_of_the_first_version_is_read_without_prompts():
    circuit = circuit_of(*EDGES, data_hash="ab", pair_hashes=("cd",))
    values = json.loads(circuit.to_json())
    values["version"] = 1
    del values["data"]["prompts"]
    again = Circuit.from_json(json.dumps(values))
    assert again == circuit
    assert again.prompts is None


def test_very_many_prompts_are_left_out_in_a_sentence():
    pair = StoredPair(tuple(range(50)), tuple(range(50)), 1, 2)
    kept = StoredPrompts.of("log_prob", [pair] * 1000, [pair] * 1000, source="all.jsonl")
    assert (len(kept), kept.left_out) == (2000, "")
    too_many = StoredPrompts.of("log_prob", [pair] * 1000, [pair] * 1001, source="all.jsonl")
    said = "its 2,001 pairs have 200,100 tokens, and up to 200,000 are kept with a circuit; they are from all.jsonl"
    assert (len(too_many), too_many.left_out) == (0, said)
    assert Circuit.from_json(circuit_of(*EDGES, prompts=too_many).to_json()).prompts == too_many


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("[1, 2, 3]", "[1, 9, 3]"), "its prompts were changed: they are not those of the hashes"),
        (lambda text: text.replace("[4, 5, 3]", "[4, 5]"), "a pair has 3 and 2 tokens; expected as many, and 1 at least"),
        (lambda text: text.replace("[4, 5, 3]", "[4, 5, 99]"), "a prompt has the token 99; expected an id from 0 to 49"),
        (lambda text: text.replace("[4, 5, 3]", '["x"]'), "a prompt has the token 'x'"),
        (lambda text: text.replace('"correct": 8', '"correct": -1'), "a prompt has the token -1"),
        (lambda text: text.replace('"held_out"', '"others"'), "lacks a field or has one of the wrong kind: 'held_out'"),
        (lambda text: text.replace('"correct"', '"right"'), "lacks a field or has one of the wrong kind: .*'right'"),
    ],
)
def test_prompts_that_are_none_are_said(change, said):
    text = circuit_with_prompts().to_json()
    assert change(text) != text
    with pytest.raises(ValueError, match=said):
        Circuit.from_json(change(text))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[:100], "it is not JSON"),
        (lambda text: "[1]", "it is JSON but no circuit"),
        (
            lambda text: text.replace('"version": 2', '"version": 9'),
            "it is a circuit of version 9, and this cutaway reads 1 and 2: take",
        ),
        (lambda text: text.replace('"kv": "group"', '"kv": "heads"'), "kv is 'heads'"),
        (lambda text: text.replace("L2H3->logits", "L9H3->logits"), "there is no layer 9"),
        (lambda text: text.replace("L2H3->logits", "L2H3->L1H0.q"), "writes after"),
        (lambda text: text.replace('"method"', '"methods"'), "lacks a field or has one of the wrong kind: 'method'"),
        (lambda text: text.replace('"n_layers": 3', '"n_layers": 0.5'), "n_layers is 0.5"),
    ],
)
def test_a_file_that_is_none_is_said(tmp_path, change, said):
    path = tmp_path / "circuit.json"
    path.write_text(change(circuit_of(*EDGES).to_json()))
    with pytest.raises(ValueError, match=said) as raised:
        Circuit.load(path)
    assert str(raised.value).startswith(f"{path} holds no circuit: ")


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`cutaway interpret circuit find --out .*none.json` writes a circuit"):
        Circuit.load(tmp_path / "none.json")
