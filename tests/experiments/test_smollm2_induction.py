"""The measure on a circuit made by hand, the draws of other heads, and the experiment on SmolLM2 itself."""

import pytest
import torch

from cutaway import experiments
from cutaway.experiments import handmade
from cutaway.experiments.letters import letters
from cutaway.experiments.smollm2_induction import _draws, _take_out
from cutaway.interp.heads import repeated_tokens
from cutaway.language_model import LanguageModel


def test_others_are_drawn_from_the_same_layers() -> None:
    induction = [(1, 0), (3, 2), (3, 5)]
    others = [(layer, head) for layer in range(4) for head in range(8) if (layer, head) not in induction]
    drawn = _draws(induction, others, 50, torch.Generator().manual_seed(0))
    assert all([layer for layer, _ in each] == [1, 3, 3] for each in drawn)
    assert all(len(set(each)) == 3 and set(each) <= set(others) for each in drawn)
    assert {head for each in drawn for layer, head in each if layer == 3} == {0, 1, 3, 4, 6, 7}


def test_a_layer_without_enough_others_is_refused() -> None:
    with pytest.raises(ValueError, match="layer 1 has 2 induction heads and 1 others to draw beside them"):
        _draws([(1, 0), (1, 1)], [(0, 0), (1, 2)], 1, torch.Generator())


def test_taking_out_heads_undoes_what_they_were_made_for() -> None:
    made = handmade.induction()
    induction = next(tuple(head) for head, role in made.circuit.heads.items() if role == "induction")
    lm = LanguageModel(made.model, letters(made.model.config.d_vocab))
    drawn = repeated_tokens(lm, n_sequences=8)
    other = (induction[0], (induction[1] + 1) % made.model.config.n_heads)
    taken = _take_out(lm, [induction], [[other]], drawn, how="zero", reference=None)
    assert taken.found["second"] > 1.0
    assert taken.drawn["second"] == pytest.approx([0.0], abs=1e-4)  # a distractor, which writes aside; float32
    assert taken.median == taken.drawn["second"][0]


@pytest.mark.slow
@pytest.mark.usefixtures("smollm2_fetched")
def test_reduced_experiment_passes() -> None:
    result = experiments.run("smollm2-induction", experiments.experiment("smollm2-induction").scale("reduced").config)
    assert result.passed, list(result.failures())
    assert not any(check.null_passes for check in result.outcomes[0].checks)
    assert len(result.figures()) == 2
