"""The data, who is found in a circuit made by hand, and the experiment at the reduced scale."""

import math

import pytest
import torch

from cutaway import ModelConfig, Transformer, experiments, heads
from cutaway.experiments import handmade
from cutaway.experiments.frame import Curves
from cutaway.experiments.induction import (
    _circuit_checks,
    _edge_numbers,
    _edges,
    _find,
    _Found,
    _lead,
    _numbers,
    _strongest,
    _Trained,
    _undone,
)
from cutaway.experiments.repeated_segments import repeated_segments


def test_one_stretch_comes_twice() -> None:
    tokens = repeated_segments(300, 20, d_vocab=10_000, generator=torch.Generator().manual_seed(0))
    lengths, ends = set(), set()
    for row in tokens:
        same = {length: row[length:] == row[:-length] for length in range(4, 11)}
        length = max(same, key=lambda each: int(same[each].sum()))
        at = same[length].nonzero()[:, 0]
        assert len(at) == length  # of 10,000 tokens none comes twice by chance but rarely, and then beside
        assert torch.equal(at, torch.arange(at[0].item(), at[0].item() + length))
        lengths.add(length)
        ends.add(at[-1].item() + length)
    assert lengths == set(range(4, 11))
    assert max(ends) == 19  # the last place is used
    assert tokens.unique().numel() > 3000


def test_refuses_stretches_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="at least 11 tokens does not come twice in 20: give 1 to 10"):
        repeated_segments(1, 20, d_vocab=5, shortest=11, generator=torch.Generator())


def test_measures_find_the_circuit_that_was_made_by_hand() -> None:
    made = handmade.induction()
    roles = {role: tuple(head) for head, role in made.circuit.heads.items()}
    made_by_hand = _Trained(made.model, Curves(), heads.detect_heads(made.model))
    found = _find(made_by_hand.scores)
    assert found.induction == [roles["induction"]]
    assert found.previous == [roles["previous token"]]
    assert set(found.others) == {(0, head) for head in range(4)} - {roles["previous token"]}

    undone = _undone(made_by_hand, found, seed=1)
    assert undone["induction heads"] > 0.6  # not 1: where nothing comes again, the head that is left guesses, and is wrong
    assert undone["previous-token head"] > 0.6
    assert undone["rest of layer 0"] == pytest.approx(0, abs=1e-4)  # distractors write aside; float32

    edges = _edges(made_by_hand, seeds=(0, 1))
    assert _lead(edges, found, "k") > 1000
    assert _lead(edges, found, "q") < 2
    assert _edge_numbers(edges, found)["previous-token head to induction keys, nats"] == _strongest(
        edges, [roles["previous token"]], [roles["induction"]], "k"
    )


def test_where_no_head_is_left_over_the_checks_get_no_number() -> None:
    made = handmade.induction()
    trained = _Trained(made.model, Curves(), heads.detect_heads(made.model))
    found = _Found(_find(trained.scores).induction, [(0, head) for head in range(4)], [])
    undone, edges = _undone(trained, found, seed=1), _edges(trained, seeds=(0, 1))
    assert math.isnan(undone["rest of layer 0"])
    assert math.isnan(_lead(edges, found, "k"))
    checks = {check.name: check for check in _circuit_checks(undone, edges, found)}
    failed = [name for name, check in checks.items() if not check.passed]
    assert any("without the rest of layer 0" in name for name in failed)
    assert any("keys over that of other heads" in name for name in failed)


def test_numbers_are_there_where_nothing_rose() -> None:
    made = handmade.induction()
    flat = Curves()
    for step in (0, 20):
        flat.add(step, {"prefix": 0.1, "in context": 0.0})
    trained = _Trained(made.model, flat, heads.detect_heads(made.model))
    found = _find(trained.scores)
    numbers = _numbers(trained, trained, found, {})
    assert [name for name, value in numbers.items() if math.isnan(value)] == [
        f"{score} {what} at step"
        for what in ("begins to rise", "has risen")
        for score in ("prefix matching", "in-context learning")
    ] + [f"share of training in which {score} rises" for score in ("prefix matching", "in-context learning")]


def test_a_model_that_foretells_no_tokens_is_refused() -> None:
    shape = ModelConfig(d_vocab=20, d_vocab_out=3, n_ctx=16, n_layers=1, n_heads=1, d_model=4, d_mlp=0, tie_embeddings=False)
    with pytest.raises(ValueError, match="foretells none of the tokens"):
        heads.detect_heads(Transformer(shape, generator=torch.Generator().manual_seed(0))).both_losses()


@pytest.mark.slow
def test_reduced_experiment_passes() -> None:
    experiment = experiments.experiment("induction")
    result = experiments.run("induction", experiment.scale("reduced").config)
    assert result.passed, list(result.failures())
    assert not any(check.null_passes for check in result.outcomes[0].checks)
    assert len(result.figures()) == 4
    lm = result.outcomes[0].models["induction-2l"]
    text = "kibjdFaHgcme"
    assert lm.generate(text + text[0], max_new_tokens=4, temperature=0)[-4:] == text[1:5]
