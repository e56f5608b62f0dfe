"""Counts against a count by hand, what is ranked and drawn, and a text in which one skip-trigram is planted."""

import math

import pytest
import torch

from cutaway.experiments.planted_trigrams import PlantedTrigrams
from cutaway.experiments.text_trigrams import FoundInText, TrigramCounts, _at_random, _ranked, _with_another_source, text_check
from cutaway.experiments.trigram_circuits import attention_by_token, bare_layer, trigram_scores

D_VOCAB = 7


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_counts_are_those_of_the_definition() -> None:
    windows = torch.randint(D_VOCAB, (40, 9), generator=generator())
    counts = TrigramCounts.of(windows, D_VOCAB)
    seen, pairs = torch.zeros(D_VOCAB, D_VOCAB, D_VOCAB), torch.zeros(D_VOCAB, D_VOCAB)
    for row in windows.tolist():
        for pos in range(8):
            pairs[row[pos], row[pos + 1]] += 1
            for source in set(row[:pos]):
                seen[source, row[pos], row[pos + 1]] += 1
    assert torch.equal(counts.seen, seen)
    assert torch.equal(counts.pairs, pairs)
    expected = seen[2, 3].sum() * pairs[3, 4] / pairs[3].sum()
    assert counts.expected[2, 3, 4].item() == pytest.approx(expected.item())
    assert counts.lift[2, 3, 4].item() == pytest.approx(math.log2((seen[2, 3, 4].item() + 1) / (expected.item() + 1)))


def test_what_is_planted_comes_oftener() -> None:
    planted = PlantedTrigrams.drawn(20, n_destinations=2, p_target=0.9, is_copying=False, generator=generator())
    lift = TrigramCounts.of(planted.texts(3000, 16, generator=generator(1)).tokens, 20).lift
    is_planted = torch.zeros(20, 20, 20, dtype=torch.bool)
    is_planted[planted.triples.unbind(1)] = True
    assert lift[is_planted].min() > 0.5
    assert lift[~is_planted].median().abs() < 0.1


def test_ranks_are_of_those_that_may_come() -> None:
    model = bare_layer(D_VOCAB, 8, d_model=8, n_heads=2, generator=generator())
    may_come = torch.rand(D_VOCAB, D_VOCAB, D_VOCAB, generator=generator(1)) < 0.3
    frequencies = torch.rand(D_VOCAB, generator=generator(2))
    frequencies /= frequencies.sum()
    ranked, scores = _ranked(model, may_come, 10, frequencies), trigram_scores(model, frequencies)
    assert may_come[ranked.unbind(1)].all()
    assert not torch.allclose(scores, trigram_scores(model))
    assert scores[ranked.unbind(1)].tolist() == scores[may_come].sort(descending=True).values[:10].tolist()


def test_other_choices_may_come_too() -> None:
    may_come = torch.rand(D_VOCAB, D_VOCAB, D_VOCAB, generator=generator(1)) < 0.3
    ranked = may_come.nonzero()[:50]
    others, drawn = _with_another_source(ranked, may_come, generator(2)), _at_random(may_come, 50, generator(3))
    assert torch.equal(others[:, 1:], ranked[:, 1:])
    assert not torch.equal(others[:, 0], ranked[:, 0])
    for triples in (others, drawn):
        assert may_come[triples.unbind(1)].all()
    assert len(drawn.unique(dim=0)) == 50


def test_the_check_is_against_the_best_of_other_choices() -> None:
    lifts = {
        "ranked first": torch.tensor([1.0, 2.0, 0.9, -1.0]),
        "with another A": torch.tensor([0.0, 0.0, 0.0, 0.0]),
        "at random": torch.tensor([1.5, 0.0, 0.0, 0.0]),
    }
    check = text_check(FoundInText(lifts, ["a … b → c"] * 4, 2.0))
    assert (check.value, check.null) == (0.5, 0.25)


def test_what_sources_add_in_the_mean_is_taken_off() -> None:
    model = bare_layer(D_VOCAB, 8, d_model=8, n_heads=1, generator=generator())
    frequencies = torch.eye(D_VOCAB)[3]
    beyond, plain, looks = trigram_scores(model, frequencies), trigram_scores(model), attention_by_token(model)[0]
    torch.testing.assert_close(beyond[3], torch.zeros(D_VOCAB, D_VOCAB), rtol=0, atol=1e-6)  # float32
    same_looks = looks.T[..., None] / looks[:, 3, None]  # source destination 1
    torch.testing.assert_close(beyond, plain - same_looks * plain[3], rtol=1e-4, atol=1e-6)
