"""The benchmark of circuits finds them, by the library's own functions, and prompts need a tokenizer that has the names."""

import pytest

from cutaway.experiments.handmade import HANDMADE, induction
from cutaway.experiments.ioi import ioi_prompts
from cutaway.language_model import LanguageModel

EXACT = ["ablation, zero", "ablation, mean", "patching z", "path patching", "attribution, top k", "attribution on a line, top k"]


@pytest.mark.parametrize("name", ["induction", "copying", "neuron"])
def test_methods_find_the_known_circuit(name: str) -> None:
    circuits = pytest.importorskip("benchmarks.circuits", reason="benchmarks/ is found from the root: run python -m pytest there")
    made = HANDMADE[name]()
    for method in EXACT:
        found = circuits.METHODS[method](made)
        assert circuits.precision_and_recall(found, set(made.circuit.heads)) == (1.0, 1.0), method


def test_precision_and_recall() -> None:
    circuits = pytest.importorskip("benchmarks.circuits", reason="benchmarks/ is found from the root: run python -m pytest there")
    assert circuits.precision_and_recall({(0, 1), (0, 2)}, {(0, 1), (1, 0), (1, 1), (1, 2)}) == (0.5, 0.25)
    assert circuits.precision_and_recall(set(), {(0, 1)}) == (None, 0.0)
    table = circuits.table({"none": lambda _: set()}, {"induction": induction})
    assert [line.split()[-2:] for line in table[-1:]] == [["-", "0.00"]]


def test_names_that_are_not_one_token_are_refused() -> None:
    made = induction()
    with pytest.raises(ValueError, match="fewer than 4 of the names"):
        ioi_prompts(LanguageModel(made.model, made.tokenizer), 2)
