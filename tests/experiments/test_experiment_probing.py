"""Texts against the rules that they are made by, the measure of closing, and the experiment at the reduced scale."""

import pytest
import torch

from cutaway import experiments
from cutaway.experiments.nested_words import NestedWords


def nested(deepest: int = 3) -> NestedWords:
    return NestedWords.drawn(30, deepest=deepest, generator=torch.Generator().manual_seed(0))


def test_words_are_dealt_to_three_roles() -> None:
    words = nested()
    assert words.roles.tolist().count(1) == words.roles.tolist().count(-1) == words.roles.tolist().count(0) == 10
    assert (words.roles[words.of_role(-1)] == -1).all()
    with pytest.raises(ValueError, match="d_vocab is 31; three roles"):
        NestedWords.drawn(31, deepest=3, generator=torch.Generator())


def test_depth_is_counted_and_keeps_its_bounds() -> None:
    words = nested()
    drawn = words.texts(400, 24, generator=torch.Generator().manual_seed(1))
    for row, depths in zip(drawn.tokens.tolist(), drawn.depths.tolist(), strict=True):
        depth = 0
        for token, after in zip(row, depths, strict=True):
            depth += int(words.roles[token])
            assert depth == after
    assert set(drawn.depths.flatten().tolist()) == {0, 1, 2, 3}
    assert drawn.tokens.unique().numel() == 30
    late = drawn.depths[:, 12:]
    odd = (late % 2 == torch.arange(12, 24) % 2).double().mean().item()
    assert odd == pytest.approx(0.5, abs=0.05)  # neutral words part depth from position


def test_next_role_comes_as_often_as_said() -> None:
    words = nested()
    drawn = words.texts(4000, 12, generator=torch.Generator().manual_seed(2))
    following, before = words.roles[drawn.tokens[:, 1:]], drawn.depths[:, :-1]
    for depth in range(4):
        due = words.next_role_probs(torch.tensor(depth)).tolist()
        came = [(following[before == depth] == role).double().mean().item() for role in (1, -1, 0)]
        assert came == pytest.approx(due, abs=0.03)  # over four standard errors of the rarest depth
        assert sum(due) == pytest.approx(1)


def test_log_odds_are_of_all_words_of_a_role() -> None:
    words = nested()
    logits = torch.randn(5, 30, generator=torch.Generator().manual_seed(3)).double()
    probs = logits.softmax(-1)
    expected = (probs[:, words.roles == -1].sum(-1) / probs[:, words.roles == 1].sum(-1)).log()
    torch.testing.assert_close(words.closing_log_odds(logits), expected)
    torch.testing.assert_close(words.role_log_probs(logits).exp().sum(-1), torch.ones(5).double())


@pytest.mark.slow
def test_reduced_experiment_passes() -> None:
    experiment = experiments.experiment("probing")
    result = experiments.run("probing", experiment.scale("reduced").config)
    assert result.passed, list(result.failures())
    assert not any(check.null_passes for check in result.outcomes[0].checks)
    assert len(result.figures()) == 3
    numbers = result.outcomes[0].numbers
    few, many = (numbers[f"linear probe{types}: on control tasks"] for types in (", three word types", ""))
    assert few > many + 0.3  # a label for each of three types takes no learning by heart
