"""Strings against their definition, measures against brute force and made-up parts, and the experiment at the reduced scale."""

from itertools import product

import pytest
import torch

from cutaway import ModelConfig, Transformer, experiments
from cutaway.experiments.bracket_strings import BracketKinds, BracketStrings, bracket_words
from cutaway.experiments.brackets import _chance_above, _insert, _least_apart


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def closes_what_it_opened(brackets: str) -> bool:
    while "()" in brackets:
        brackets = brackets.replace("()", "")
    return not brackets


def all_strings(n_brackets: int) -> BracketStrings:
    return BracketStrings(torch.tensor(list(product((1, -1), repeat=n_brackets))))


def written(strings: BracketStrings) -> list[str]:
    return ["".join("(" if step > 0 else ")" for step in row) for row in strings.steps.tolist()]


def test_verdicts_of_every_string_of_eight() -> None:
    strings = all_strings(8)
    assert strings.is_balanced.tolist() == [closes_what_it_opened(text) for text in written(strings)]
    assert strings.is_balanced.sum() == 14  # the fourth Catalan number
    elevation = [all(text[:at].count(")") <= text[:at].count("(") for at in range(9)) for text in written(strings)]
    assert (strings.lowest == 0).tolist() == elevation
    assert strings.fails_elevation.tolist() == [
        text.count("(") == 4 and not fine for text, fine in zip(written(strings), elevation, strict=True)
    ]
    assert strings.fails_total.tolist() == [
        text.count("(") != 4 and fine for text, fine in zip(written(strings), elevation, strict=True)
    ]


def test_balanced_strings_are_each_as_likely() -> None:
    drawn = BracketStrings.drawn(14_000, 4, way="balanced", generator=generator())
    assert drawn.is_balanced.all()
    counts = drawn.steps.unique(dim=0, return_counts=True)[1]
    assert len(counts) == 14
    assert (counts - 1000).abs().max() < 150  # over four standard errors of 31 each


def test_near_misses_are_one_change_away() -> None:
    flipped = BracketStrings.drawn(500, 6, way="one flipped", generator=generator())
    assert flipped.total.abs().unique().tolist() == [2]
    swapped = BracketStrings.drawn(500, 6, way="two swapped", generator=generator())
    assert (swapped.total == 0).all()
    assert swapped.fails_elevation.any()
    for row in swapped.steps[~swapped.is_balanced][:50]:
        exchanged = row.repeat(12 * 12, 1)
        for place, (one, other) in enumerate(product(range(12), repeat=2)):
            exchanged[place, [one, other]] = row[[other, one]]
        assert BracketStrings(exchanged).is_balanced.any()


def test_a_mixture_has_as_many_rows_as_asked_and_half_are_balanced() -> None:
    mixed = BracketStrings.mixed(1003, 8, generator=generator())
    assert len(mixed) == 1003
    assert 0.5 <= mixed.is_balanced.double().mean().item() < 0.6  # a few of the others happen to be
    assert mixed.fails_total.any()
    assert mixed.fails_elevation.any()


def test_held_out_are_an_eighth_of_each_kind_and_always_the_same() -> None:
    strings = all_strings(14)
    held_out = strings.is_held_out
    assert held_out.double().mean().item() == pytest.approx(1 / 8, abs=0.01)
    assert held_out[strings.is_balanced].double().mean().item() == pytest.approx(1 / 8, abs=0.05)
    order = torch.randperm(len(strings), generator=generator())
    assert torch.equal(strings.of_rows(order).is_held_out, held_out[order])


def test_tokens_are_what_the_tokenizer_reads() -> None:
    strings = BracketStrings(torch.tensor([[1, 1, -1, -1]]))
    assert bracket_words().encode("( ( ) ) ?") == strings.tokens[0].tolist()
    assert bracket_words().decode([0, 1]).split() == ["unbalanced", "balanced"]


def test_chance_above_counts_pairs() -> None:
    high, low = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([1.0, 0.0])
    pairs = [(a > b) + 0.5 * (a == b) for a in high.tolist() for b in low.tolist()]
    assert _chance_above(high, low) == pytest.approx(sum(pairs) / 6)


def test_kinds_lie_apart_where_two_parts_say_so() -> None:
    noise = [torch.randn(3, 200, generator=generator(seed)).double() for seed in range(3)]
    shifts = torch.tensor([[0.0, 0, 0], [8, 0, 0], [0, 8, 0]]).double()
    kinds = [each + shift[:, None] for each, shift in zip(noise, shifts, strict=True)]
    assert _least_apart(kinds, kinds, (0, 1)) > 0.99
    assert _least_apart(kinds, kinds, (0, 2)) < 0.7  # the third kind is like the first there


def test_only_the_part_that_decides_flips_what_it_is_put_into() -> None:
    model = counting_by_one_head()
    strings = BracketStrings.mixed(600, 5, generator=generator()).distinct()
    kinds = BracketKinds.of(strings)
    found = _insert(model, kinds, 20)
    assert found.labels == ["L0H0", "L0H1", "L0 mlp"]
    assert found.flipped[0].tolist() == [0, 1, 0]  # by balanced strings, a wrong total, a wrong elevation
    assert found.flipped[1:].abs().max() == 0  # nothing else says anything


def counting_by_one_head() -> Transformer:
    """Return a model that answers unbalanced where more open than close, by its first head's average and nothing else."""
    shape = ModelConfig(
        d_vocab=5, d_vocab_out=2, n_ctx=11, n_layers=1, n_heads=2, d_model=4, d_mlp=4, norm="none", position="none",
        is_causal=False, tie_embeddings=False, unembed_bias=True,
    )  # fmt: skip
    model = Transformer(shape)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.embed.W_E[2, 0], model.embed.W_E[3, 0] = 1.0, -1.0  # ( and )
        attn = model.blocks[0].attn
        attn.W_V.weight[0, 0] = 1.0
        attn.W_O.weight[1, 0] = 1.0
        model.unembed.W_U.weight[0, 1] = 1.0
        model.unembed.W_U.bias[1] = 0.05  # less than the average of a string in which two more open, 2 / 11
    return model


@pytest.mark.slow
def test_reduced_experiment_passes() -> None:
    experiment = experiments.experiment("brackets")
    result = experiments.run("brackets", experiment.scale("reduced").config)
    assert result.passed, list(result.failures())
    assert not any(check.null_passes for check in result.outcomes[0].checks)
    assert len(result.figures()) == 5
    lm = result.outcomes[0].models["brackets"]
    asked = lm.tokens("( ( ( ) ( ) ) ( ) ( ( ) ) ) ?")
    assert lm.text([int(lm.model(asked)[0, -1].argmax())]).strip() == "balanced"
