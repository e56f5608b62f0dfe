"""The facts and their texts against their definition, the measures on effects made by hand, and the experiment at the reduced scale."""

import math

import pytest
import torch

from cutaway import experiments
from cutaway.experiments.factual_recall import _asked, _chance_lead, _Effects, _lead, _least_loss, _shuffled
from cutaway.experiments.synthetic_facts import FRAMES, RELATIONS, SyntheticFacts


def facts() -> SyntheticFacts:
    return SyntheticFacts.drawn(3, 5, generator=torch.Generator().manual_seed(0))


def test_everyone_has_a_word_of_each_relation() -> None:
    made = facts()
    assert len(set(made.people)) == 15
    assert {(person[0], person[-1]) for person in made.people} == {
        (first, last) for first in ("Ada", "Ben", "Eva") for last in ("Abel", "Bach", "Cole", "Dorn", "Ekman")
    }
    assert {len(person) for person in made.people} == {2, 3}
    assert made.values.shape == made.held_out.shape == (15, 4)
    assert set(made.values.unique().tolist()) <= set(range(16))
    assert made.held_out.max() < len(FRAMES) == 16
    words = [word for words in RELATIONS.values() for word in words]
    assert len(set(words)) == 64
    assert not set(words) & {name for person in made.people for name in person}
    with pytest.raises(ValueError, match="9 first and 5 family names; there are 1 to 8 and 2 to 30"):
        SyntheticFacts.drawn(9, 5, generator=torch.Generator())


def test_texts_tell_what_is_true_and_never_what_is_held_out() -> None:
    made, tokenizer = facts(), facts().tokenizer
    drawn = made.texts(400, p_entry=0.3, generator=torch.Generator().manual_seed(1))
    people = {" ".join(name): person for person, name in enumerate(made.people)}
    asked = {  # what a text says before its fact, but for who else is named, of all that may be told
        (person, relation, frame)
        for person in range(15)
        for relation in range(4)
        for frame in range(16)
        if frame != made.held_out[person, relation]
    }
    n_entries = 0
    for row, targets in zip(drawn.tokens.tolist(), drawn.targets.tolist(), strict=True):
        told = [place for place, target in enumerate(targets) if target >= 0]
        answers = [tokenizer.decode([targets[place]]).strip() for place in told]
        words = tokenizer.decode(row[: told[0] + 1]).split()
        if len(told) == 4:
            n_entries += 1
            person = people[" ".join(words)]
            assert told == list(range(told[0], told[0] + 4))
            expected = {list(RELATIONS.values())[relation][made.values[person, relation]] for relation in range(4)}
            assert set(answers) == expected
            continue
        found = [
            (person, relation, frame)
            for person, relation, frame in asked
            if matches(made, words, person, relation, frame)
            and list(RELATIONS.values())[relation][made.values[person, relation]] == answers[0]
        ]
        assert len(found) == 1
    assert 400 * 0.2 < n_entries < 400 * 0.4


def matches(made: SyntheticFacts, words: list[str], person: int, relation: int, frame: int) -> bool:
    """Whether a text is this fact in this frame, with anyone else where another is named."""
    text, said = " ".join(words), list(RELATIONS)[relation]
    before, _, after = FRAMES[frame].format(name="#", other="@", another="@", said=said).partition("#")
    name = " ".join(made.people[person])
    others = ["".join(each) for each in {" ".join(other) for other in made.people} - {name}]
    begins = {before.replace("@", other) for other in others}
    ends = {after.replace("@", other) for other in others}
    return any(text == begin + name + end for begin in begins for end in ends)


def test_the_best_guess_from_one_name() -> None:
    made = facts()
    shares = []
    for last in ("Abel", "Bach", "Cole", "Dorn", "Ekman"):
        rows = [row for row, person in zip(made.values.tolist(), made.people, strict=True) if person[-1] == last]
        for column in zip(*rows, strict=True):
            shares.append(max(column.count(value) for value in column) / 3)
    assert made.guess(by=-1) == pytest.approx(sum(shares) / len(shares))


def test_asks_in_the_frame_that_is_held_out_and_beside_it_about_someone_else() -> None:
    made = facts()
    asked = _asked(made, torch.Generator().manual_seed(0))
    assert len(asked) == 60
    for place, each in enumerate(asked):
        person, relation = divmod(place, 4)
        assert matches(made, each.prompt.text.split(), person, relation, int(made.held_out[person, relation]))
        assert each.prompt.name == " ".join(made.people[person])
        assert each.prompt.answer == list(RELATIONS.values())[relation][made.values[person, relation]]
        assert len(each.other.text.split()) == len(each.prompt.text.split())
        assert each.other.answer != each.prompt.answer
        assert each.prompt.text.count(each.prompt.name) == 1  # nobody is named twice, so that a trace finds the right one
        assert each.other.text == each.prompt.text.replace(each.prompt.name, each.other.name)


@pytest.mark.parametrize("p_entry", [0.0, 0.5, 1.0])
def test_the_least_loss_is_of_the_order_of_entries(p_entry: float) -> None:
    made = facts()
    drawn = made.texts(4000, p_entry=p_entry, generator=torch.Generator().manual_seed(2))
    told = (drawn.targets >= 0).sum(1)
    surprise = {1: 0.0, 4: math.log(4) + math.log(3) + math.log(2)}  # of one relation less each time; who knows all knows the last
    expected = sum(surprise[count] for count in told.tolist()) / int(told.sum())
    assert _least_loss(p_entry) == pytest.approx(expected, rel=0.02)  # three times the deviation of how many are entries


def effects(n_pos: int, **at: float) -> _Effects:
    """Effects of two layers that are 0.1 at every position from the name on, but where they are given; a name of two tokens at 1."""
    by_pos = torch.zeros(2, n_pos)
    by_pos[:, 1:] = 0.1
    for name, value in at.items():
        layer, pos = (int(part) for part in name.strip("_").split("_"))
        by_pos[layer, pos] = value
    return _Effects(by_pos, 1, 2, n_pos - 1)


def test_the_lead_is_over_the_next_place_however_it_is_counted() -> None:
    rows = [effects(6, _0_2=0.8, _1_4=0.2), effects(7, _0_2=0.8, _1_4=0.2)]
    assert _lead(rows, "last of the subject", "all") == pytest.approx(4)  # two after the name's end, in both
    rows = [effects(6, _0_2=0.8, _1_4=0.2), effects(7, _0_2=0.8, _1_5=0.2)]
    assert _lead(rows, "last of the subject", "all") == pytest.approx(4)  # one before the prompt's end, in both
    rows = [effects(6, _0_2=0.8, _1_5=0.4), effects(7, _0_2=0.8, _1_6=0.4)]
    assert _lead(rows, "last of the prompt", "all") == pytest.approx(0.5)
    assert _lead(rows, "last of the subject", "the end") == pytest.approx(2)
    assert _lead(rows, "last of the subject", "the rest") == pytest.approx(8)


def test_a_lead_has_bounds() -> None:
    rows = [effects(6, _0_2=0.8, _0_5=-0.1, _1_5=-0.2)]
    assert _lead(rows, "last of the subject", "the end") == pytest.approx(100)  # a ratio to what is below 0 says nothing
    rows = [effects(6, _0_2=-0.8, _1_2=-0.1)]
    assert _lead(rows, "last of the subject", "all") == 0


def test_shuffled_positions_lead_nowhere() -> None:
    rows = [effects(9, _0_2=1.0) for _ in range(200)]
    mixed = _shuffled(rows, torch.Generator().manual_seed(0))
    assert all(each.by_pos[:, 0].tolist() == [0, 0] for each in mixed)
    assert all(torch.equal(each.by_pos.sort(dim=1).values, rows[0].by_pos.sort(dim=1).values) for each in mixed)
    assert _lead(rows, "last of the subject", "all") == pytest.approx(10)
    assert 0.5 < _chance_lead(rows, "last of the subject", "all", torch.Generator().manual_seed(0)) < 1.1


@pytest.mark.slow
def test_reduced_experiment_passes() -> None:
    experiment = experiments.experiment("factual-recall")
    result = experiments.run("factual-recall", experiment.scale("reduced").config)
    assert result.passed, list(result.failures())
    assert not any(check.null_passes for check in result.outcomes[0].checks)
    assert len(result.figures()) == 7
