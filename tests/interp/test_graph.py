import pytest

from cutaway import ModelConfig
from cutaway.interp.circuits import Graph
from cutaway.interp.nodes import Node


def config(**changes):
    return ModelConfig(**({"d_vocab": 11, "n_ctx": 8, "n_layers": 3, "n_heads": 4, "d_model": 16} | changes))


@pytest.mark.parametrize(
    ("changes", "kv", "n_receivers"),
    [
        ({}, "group", 3 * 13 + 1),
        ({"n_kv_heads": 2}, "group", 3 * 9 + 1),
        ({"n_kv_heads": 2}, "query-head", 3 * 13 + 1),
        ({"d_mlp": 0}, "group", 37),
    ],
)
def test_the_edges_are_those_of_the_equations(changes, kv, n_receivers):
    graph = Graph(config(**changes), kv)
    assert len(graph.receivers) == n_receivers
    assert {str(edge) for edge in graph.edges()} == set(by_hand(graph))
    assert graph.n_edges == len(by_hand(graph))


def by_hand(graph):
    """Every edge of a sequential model, from when its ends come."""
    after = {"embed": 0} | {f"L{layer}H{head}": 3 * layer + 2 for layer in range(3) for head in range(4)}
    after |= {f"mlp{layer}": 3 * layer + 3 for layer in range(3) if graph.config.d_mlp}
    reads = {str(node): 3 * node.layer + (2.5 if node.kind == "mlp" else 1) for node in graph.receivers} | {"logits": 99}
    return [f"{sender}->{receiver}" for sender, t in after.items() for receiver, u in reads.items() if t < u]


def test_in_a_parallel_block_an_mlp_does_not_read_its_own_layer():
    graph = Graph(config(block="parallel", tie_embeddings=False))
    with pytest.raises(ValueError, match="L1H0 writes after mlp1 reads"):
        graph.parse("L1H0->mlp1")
    assert graph.parse("L0H0->mlp1").sender == Node("head", 0, 0)


def test_edges_are_read_as_they_are_written():
    graph = Graph(config(n_kv_heads=2))
    for edge in graph.edges():
        assert graph.parse(str(edge)) == edge
    for text, said in {
        "L0H0": "is no edge",
        "L0H0->L1H0": "are three inputs",
        "L0H0->L1H0.k": "there is no L1H0.k in this graph",
        "L2H0->L1H0.q": "writes after",
        "L0H0->L9H0.q": "there is no layer 9",
    }.items():
        with pytest.raises(ValueError, match=said):
            graph.parse(text)
