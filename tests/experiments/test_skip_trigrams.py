"""What is planted against its definition, who ranks what first on made-up scores, and the experiment at the reduced scale."""

import pytest
import torch

from cutaway import experiments
from cutaway.experiments.planted_trigrams import PlantedTexts, PlantedTrigrams


def planted(*, is_copying: bool = False, p_target: float = 0.9) -> PlantedTrigrams:
    generator = torch.Generator().manual_seed(0)
    return PlantedTrigrams.drawn(30, n_destinations=4, p_target=p_target, is_copying=is_copying, generator=generator)


def texts(of: PlantedTrigrams, batch_size: int = 200) -> PlantedTexts:
    return of.texts(batch_size, 16, generator=torch.Generator().manual_seed(1))


def test_triples_are_dealt_out() -> None:
    sources, destinations, targets = planted().triples.T.tolist()
    assert len({*sources, *targets}) == 16
    assert all(destinations.count(each) == 2 for each in destinations)
    assert not set(destinations) & {*sources, *targets}
    assert torch.equal(planted(is_copying=True).triples[:, 0], planted(is_copying=True).triples[:, 2])
    assert planted().frequencies.sum().item() == pytest.approx(1)
    with pytest.raises(ValueError, match="d_vocab is 10; 4 destinations need at least 20"):
        PlantedTrigrams.drawn(10, n_destinations=4, p_target=0.9, is_copying=False, generator=torch.Generator())


@pytest.mark.parametrize("is_copying", [False, True])
def test_probabilities_follow_from_the_tokens(is_copying: bool) -> None:
    made = planted(is_copying=is_copying)
    triples = made.triples.tolist()
    drawn = texts(made, 40)
    for row, log_probs, follows in zip(drawn.tokens.tolist(), drawn.log_probs, drawn.follows_destination, strict=True):
        for pos, token in enumerate(row):
            due = [
                target
                for source, destination, target in triples
                if pos and destination == row[pos - 1]
                for each in row[:pos]
                if each == source
            ]
            p = made.frequencies[token].item()
            p = 0.9 * due.count(token) / len(due) + 0.1 * p if due else p
            assert log_probs[pos].exp().item() == pytest.approx(p, rel=1e-5)
            assert follows[pos].item() == (pos > 0 and row[pos - 1] in {triple[1] for triple in triples})


def test_what_is_due_comes_as_often_as_said() -> None:
    drawn = texts(planted(), 4000)
    shares = drawn.log_probs.exp()[drawn.follows_destination]
    n_came, n_missed = (shares > 0.3).sum().item(), (shares < 0.01).sum().item()  # nothing else is so likely or so unlikely
    assert n_came + n_missed > 2000
    assert n_came / (n_came + n_missed) == pytest.approx(0.9, abs=0.03)  # over three standard errors, and 0.003 by chance


def test_same_random_numbers_give_the_same_texts() -> None:
    assert torch.equal(texts(planted()).tokens, texts(planted()).tokens)


def test_precision_counts_the_planted_on_top() -> None:
    made = planted()
    scores = torch.rand(30, 30, 30, generator=torch.Generator().manual_seed(2))
    assert made.precision(scores) == 0
    scores[tuple(made.triples[:6].T)] = 2
    assert made.precision(scores) == 6 / 8


def test_reduced_experiment_passes() -> None:
    experiment = experiments.experiment("skip-trigrams")
    result = experiments.run("skip-trigrams", experiment.scale("reduced").config)
    assert result.passed, list(result.failures())
    assert not any(check.null_passes for check in result.outcomes[0].checks)
    assert len(result.figures()) == 6
