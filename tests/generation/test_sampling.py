"""Sampling against the transformers library's processors, which were written apart from ours, and against closed forms."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from cutaway.generation import SAMPLING_PRESETS, RowStreams, Sampling, draw, shaped_log_probs

PLAIN: dict[str, Any] = {"temperature": 1.0}
LARGEST_BELOW_ONE = math.nextafter(1.0, 0.0)


def shaped(logits: Tensor, *, seen: list[list[int]] | None = None, **choices: Any) -> Tensor:
    return shaped_log_probs(logits, Sampling(**PLAIN | choices), seen=seen or [[0]] * len(logits))


def of_probs(*probs: float) -> Tensor:
    """One row of logits with these probabilities, up to a constant."""
    return torch.tensor([probs], dtype=torch.float64).log() + 3.0


def probs_of(log_probs: Tensor) -> list[float]:
    return [round(prob, 12) for prob in log_probs.exp()[0].tolist()]


def theirs(logits: Tensor, seen: list[list[int]], choices: dict[str, Any]) -> Tensor:
    """What the transformers library makes of it, its processors in the order in which its `generate` puts them."""
    oracle = pytest.importorskip("transformers", reason="transformers, the oracle here, is not installed")
    processors = {
        "repetition_penalty": oracle.RepetitionPenaltyLogitsProcessor,
        "temperature": oracle.TemperatureLogitsWarper,
        "top_k": oracle.TopKLogitsWarper,
        "top_p": oracle.TopPLogitsWarper,
        "min_p": oracle.MinPLogitsWarper,
    }
    rows = []
    for row, tokens in zip(logits.unbind(), seen, strict=True):
        scores = row[None]
        for name, processor in processors.items():
            if name in choices:
                scores = processor(choices[name])(torch.tensor([tokens]), scores)
        rows.append(scores)
    return torch.cat(rows).log_softmax(dim=-1)


CHOICES: dict[str, list[dict[str, Any]]] = {
    "temperature": [{"temperature": value} for value in (0.2, 0.8, 1.0, 3.0)],
    "top_k": [{"top_k": value} for value in (1, 2, 7, 39)],
    "top_p": [{"top_p": value} for value in (1e-9, 0.1, 0.5, 0.9, 0.999)],
    "min_p": [{"min_p": value} for value in (0.001, 0.1, 0.5, 1.0)],
    "repetition_penalty": [{"repetition_penalty": value} for value in (0.5, 1.3, 5.0)],
    "all": [
        {"repetition_penalty": 1.2, "temperature": 0.7, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
        {"repetition_penalty": 1.5, "temperature": 2.0, "top_k": 8, "top_p": 0.7, "min_p": 0.3},
        {"repetition_penalty": 0.8, "temperature": 1.1, "top_k": 3, "top_p": 0.99},
        {"temperature": 1.4, "top_p": 0.8, "min_p": 0.2},
        {"temperature": 0.5, "top_k": 12, "min_p": 0.02},
    ],
}


@pytest.mark.parametrize("kind", CHOICES)
def test_every_step_is_the_librarys(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20, 40, generator=generator, dtype=torch.float64)
    seen = torch.randint(40, (20, 6), generator=generator).tolist()
    for choices in CHOICES[kind]:
        expected = theirs(logits, seen, {"temperature": 1.0} | choices)
        got = shaped(logits, seen=seen, **choices)
        assert torch.equal(got.isinf(), expected.isinf()), choices  # the very same tokens are left out
        # float64: a few operations on numbers of size 10
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_the_result_is_a_distribution_in_float64() -> None:
    logits = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
    log_probs = shaped(logits, temperature=0.7, top_k=5)
    assert log_probs.dtype == torch.float64
    assert (log_probs.exp() > 0).sum(dim=-1).tolist() == [5, 5, 5]
    torch.testing.assert_close(log_probs.exp().sum(dim=-1), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-15)  # one rounding


def test_the_input_is_left_as_it_was() -> None:
    logits = torch.randn(1, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = logits.clone()
    shaped(logits, seen=[[1, 2]], repetition_penalty=2.0, temperature=0.5, top_k=4, top_p=0.5, min_p=0.1)
    assert torch.equal(logits, before)


def test_top_k_comes_before_top_p() -> None:
    # of the two kept 4/7 reach 0.55 alone; of all, 0.4 does not
    assert probs_of(shaped(of_probs(0.4, 0.3, 0.2, 0.1), top_k=2, top_p=0.55)) == [1, 0, 0, 0]


def test_top_p_comes_before_min_p() -> None:
    # of all, 0.4 and 0.3 reach 0.55 together; had min_p taken 0.2 and 0.1 away first, 4/7 would reach it alone
    got = probs_of(shaped(of_probs(0.4, 0.3, 0.2, 0.1), top_p=0.55, min_p=0.6))
    assert got == [round(4 / 7, 12), round(3 / 7, 12), 0, 0]


def test_temperature_comes_before_top_p() -> None:
    # at temperature 1/2 the probabilities are squared: 16/30 reaches one half alone
    assert probs_of(shaped(of_probs(0.4, 0.3, 0.2, 0.1), temperature=0.5, top_p=0.5)) == [1, 0, 0, 0]


def test_the_penalty_counts_for_greedy_too() -> None:
    logits = torch.tensor([[2.0, 1.9, -1.0]])
    assert probs_of(shaped(logits, seen=[[0]], temperature=0.0)) == [1, 0, 0]
    assert probs_of(shaped(logits, seen=[[0]], temperature=0.0, repetition_penalty=1.2)) == [0, 1, 0]


def test_the_penalty_makes_what_was_seen_less_likely_whatever_its_sign_and_how_often() -> None:
    logits = torch.tensor([[2.0, -2.0, 0.0, 1.0]], dtype=torch.float64)
    got = shaped(logits, seen=[[0, 1, 1, 0, 2]], repetition_penalty=2.0)
    torch.testing.assert_close(got, torch.tensor([[1.0, -4.0, 0.0, 1.0]], dtype=torch.float64).log_softmax(dim=-1))


def test_the_penalty_is_each_rows_own() -> None:
    logits = torch.ones(2, 3, dtype=torch.float64)
    got = shaped(logits, seen=[[0], [2, 1]], repetition_penalty=2.0)
    torch.testing.assert_close(got, torch.tensor([[0.5, 1, 1], [1, 0.5, 0.5]], dtype=torch.float64).log_softmax(dim=-1))


def test_the_penalty_passes_over_tokens_that_cannot_be_chosen() -> None:
    logits = torch.ones(1, 3, dtype=torch.float64)
    for seen in ([7, 1], [7]):
        got = shaped(logits, seen=[seen], repetition_penalty=2.0)
        expected = torch.tensor([[1.0, 0.5 if 1 in seen else 1.0, 1.0]], dtype=torch.float64).log_softmax(dim=-1)
        torch.testing.assert_close(got, expected)


def test_greedy_is_argmax_and_the_first_of_a_tie() -> None:
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = shaped(logits, temperature=0.0, top_p=0.5, top_k=3, min_p=0.5)
    assert torch.equal(draw(got, torch.rand(50, dtype=torch.float64)), logits.argmax(dim=-1))
    assert probs_of(shaped(torch.tensor([[1.0, 5.0, 5.0]]), temperature=0.0)) == [0, 1, 0]


def test_ties() -> None:
    equal = torch.zeros(1, 4, dtype=torch.float64)
    assert sorted(probs_of(shaped(equal, top_k=2))) == [0, 0, 0.5, 0.5]  # two, whichever they are
    assert sorted(probs_of(shaped(equal, top_p=0.5))) == [0, 0, 0.5, 0.5]  # the fewest that reach it
    assert probs_of(shaped(equal, min_p=1.0)) == [0.25] * 4


@pytest.mark.parametrize("choices", [{"top_k": 9}, {"top_k": 1000}, {"top_p": 1.0}, {"min_p": 0.0}, {"repetition_penalty": 1.0}])
def test_values_that_leave_everything_as_it_is(choices: dict[str, Any]) -> None:
    logits = 30 * torch.randn(4, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(shaped(logits, **choices), logits.log_softmax(dim=-1))


@pytest.mark.parametrize("choices", [{"top_k": 1}, {"top_p": 1e-300}, {"min_p": 1.0}, {"temperature": 1e-9}])
def test_the_likeliest_token_is_always_kept(choices: dict[str, Any]) -> None:
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = shaped(logits, **choices)
    assert torch.equal(got.argmax(dim=-1), logits.argmax(dim=-1))
    assert (got.exp() > 0).sum(dim=-1).tolist() == [1] * 50


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("top_p", value) for value in (0.0, 1.5, -0.1, math.nan)],
        *[("min_p", value) for value in (-1.0, 2.0, math.nan)],
        *[("temperature", value) for value in (-1.0, math.nan, math.inf)],
        *[("top_k", value) for value in (0, -3)],
        *[("repetition_penalty", value) for value in (0.0, -1.0, math.nan, math.inf)],
    ],
)
def test_values_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}; expected"):
        Sampling(**{name: value})


def test_presets() -> None:
    assert list(SAMPLING_PRESETS) == ["precise", "balanced", "creative"]
    assert Sampling.of("precise") == SAMPLING_PRESETS["precise"]
    changed = Sampling.of("creative", temperature=0.0, top_k=5, min_p=None)
    assert changed == Sampling(temperature=0.0, top_k=5, min_p=SAMPLING_PRESETS["creative"].min_p)
    with pytest.raises(ValueError, match="no sampling preset 'wild'; there are precise, balanced, creative"):
        Sampling.of("wild")
    with pytest.raises(ValueError, match="top_p is 3"):
        Sampling.of("precise", top_p=3)


def test_draw_follows_the_probabilities() -> None:
    probs = torch.tensor([0.3, 0.0, 0.15, 0.05, 0.5, 0.0], dtype=torch.float64)
    n_draws = 20_000
    uniforms = torch.rand(n_draws, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = draw(probs.log().expand(n_draws, -1), uniforms).bincount(minlength=6)
    assert counts[probs == 0].tolist() == [0, 0]
    expected = (n_draws * probs)[probs > 0]
    chi_square = ((counts[probs > 0] - expected) ** 2 / expected).sum().item()
    assert chi_square < 16.27  # three degrees of freedom: passed once in a thousand seeds


def test_draw_where_the_cumulative_probability_passes_the_uniform_number() -> None:
    log_probs = torch.tensor([[0.25, 0.5, 0.25]], dtype=torch.float64).log()
    uniforms = [0.0, math.nextafter(0.25, 0.0), 0.25, 0.5, math.nextafter(0.75, 0.0), 0.75, LARGEST_BELOW_ONE]
    tokens = draw(log_probs.expand(7, -1), torch.tensor(uniforms, dtype=torch.float64))
    assert tokens.tolist() == [0, 0, 1, 1, 1, 2, 2]


def test_draw_never_takes_what_was_left_out() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2000, 50, generator=generator, dtype=torch.float64)
    logits[torch.rand(logits.shape, generator=generator) < 0.8] = -math.inf
    logits[:, 17] = logits[:, 17].clamp(min=-1.0)  # one at least stays
    log_probs = logits.log_softmax(dim=-1)
    is_possible = log_probs > -math.inf
    first, last = is_possible.int().argmax(dim=-1), 49 - is_possible.flip(-1).int().argmax(dim=-1)
    zeros = torch.zeros(2000, dtype=torch.float64)
    assert torch.equal(draw(log_probs, zeros), first)
    assert torch.equal(draw(log_probs, zeros + LARGEST_BELOW_ONE), last)
    anywhere = draw(log_probs, torch.rand(2000, generator=generator, dtype=torch.float64))
    assert is_possible.gather(1, anywhere[:, None]).all()


def n_draws_of(streams: RowStreams, n_draws: int = 5) -> list[list[float]]:
    return torch.stack([streams.uniforms() for _ in range(n_draws)], dim=1).tolist()


def test_rows_with_the_same_prompt_differ() -> None:
    rows = n_draws_of(RowStreams(0, [(1, 2)] * 4))
    assert len({number for row in rows for number in row}) == 20


def test_a_rows_stream_is_independent_of_its_mates_and_its_place() -> None:
    a, b, c = (1,), (2, 3), (4,)
    (alone,) = n_draws_of(RowStreams(7, [b]))
    assert n_draws_of(RowStreams(7, [a, b, c]))[1] == alone
    assert n_draws_of(RowStreams(7, [b, a]))[0] == alone
    together = n_draws_of(RowStreams(7, [b, b, b]))
    mixed = n_draws_of(RowStreams(7, [a, b, b, c, b]))
    assert [mixed[row] for row in (1, 2, 4)] == together


def test_streams_follow_from_the_seed() -> None:
    prompts = [(1,), (1,)]
    torch.manual_seed(0)
    first = n_draws_of(RowStreams(5, prompts))
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert n_draws_of(RowStreams(5, prompts)) == first
    assert n_draws_of(RowStreams(6, prompts)) != first
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)  # the global state was neither read nor changed


def test_first_numbers_of_neighbouring_seeds_are_spread_evenly() -> None:
    firsts = torch.cat([RowStreams(seed, [(1,)]).uniforms() for seed in range(1000)])
    assert firsts.dtype == torch.float64
    counts = (firsts * 10).long().bincount(minlength=10)
    assert ((counts - 100) ** 2 / 100).sum().item() < 27.88  # chi-square, nine degrees of freedom: once in a thousand


@pytest.mark.parametrize("temperature", [1e-309, 5e-324, 1e-30])
def test_the_smallest_temperatures_take_the_likeliest(temperature: float) -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [-700.0, -900.0, -800.0]])
    log_probs = shaped_log_probs(logits, Sampling(temperature=temperature), seen=[[], []])
    assert draw(log_probs, torch.tensor([0.999, 0.5], dtype=torch.float64)).tolist() == [1, 0]
