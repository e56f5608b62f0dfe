"""The sentences against their words, the measure against its definition, a circuit made by hand, and the reduced experiment."""

import pytest
import torch

from cutaway import experiments, metrics
from cutaway.experiments.frame import Trial
from cutaway.experiments.greater_than import _carriers, _model
from cutaway.experiments.head_circuits import HeadCircuits
from cutaway.experiments.year_spans import N_YEARS, NOUNS, SpanPrompts, YearSpans, span_words


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spans(p_held_out: float = 0.3) -> YearSpans:
    return YearSpans.drawn(p_held_out, generator=generator())


def prompts(n: int = 200, *, is_held_out: bool = True) -> SpanPrompts:
    return spans().prompts(n, is_held_out=is_held_out, generator=generator(1))


def noun_and_year(row: list[int], years: int) -> tuple[int, int]:
    (noun,) = [token - N_YEARS for token in row if N_YEARS <= token < N_YEARS + len(NOUNS)]
    return noun, years


@pytest.mark.parametrize("is_held_out", [False, True])
def test_prompts_keep_to_their_combinations(is_held_out: bool) -> None:
    made = prompts(is_held_out=is_held_out)
    held_out = spans().held_out
    for row, year, later in zip(made.tokens.tolist(), made.years.tolist(), made.is_later.tolist(), strict=True):
        assert held_out[noun_and_year(row, year)] == is_held_out
        text = span_words().decode(row)
        assert later == any(word in text for word in ("lasted", "before", "then ended"))
        assert row[-1] in range(11, 19)
        assert row.count(row[-1]) >= 2  # the century twice
        assert f" {year:02d}" in text
    assert made.years.min() >= 1
    assert made.years.max() <= 98
    assert made.is_later.double().mean() == 0.5


def test_other_prompts_differ_in_what_they_say_they_do() -> None:
    made = prompts()
    changed = made.tokens != made.other_tokens
    assert changed.sum(1).max() == 1
    assert torch.equal(made.tokens[changed], made.years.repeat_interleave(changed.sum(1)))
    no_year = torch.where(made.is_later, 1, 98)
    assert torch.equal(made.other_tokens[changed], no_year.repeat_interleave(changed.sum(1)))
    retold = made.retold_tokens
    at_year = changed.float().argmax(1)
    told = torch.arange(len(retold)), at_year
    assert torch.equal(retold[told][changed.any(1)], made.years[changed.any(1)])
    assert (retold != made.tokens).sum(1).max() == 3  # the noun and both times the century
    assert (retold != made.tokens).any(1).double().mean() > 0.9


def test_sentences_end_with_right_years_alone() -> None:
    rows = spans().sentences(2000, generator=generator(2)).tolist()
    words, seen = span_words(), set()
    for row in rows:
        text = words.decode(row).split()
        later = "lasted" in text or "before" in text or "then" in text
        place = text.index(text[-2])  # the first time of the century
        first, second = int(text[place + 1]), int(text[-1])
        assert second > first if later else second < first
        assert not spans().held_out[noun_and_year(row[:-1], first)]
        seen.add(second)
    assert len(seen) > 90


def test_probability_difference_is_its_definition() -> None:
    made = prompts(6)
    logits = torch.randn(6, 12, span_words().d_vocab, generator=generator(3)).double()
    probs = logits[:, -1].softmax(-1)
    for value, row, year, later in zip(made.metric(logits), probs, made.years.tolist(), made.is_later.tolist(), strict=True):
        right = row[year + 1 : 100].sum() if later else row[:year].sum()
        assert value.item() == pytest.approx((2 * right - row[:100].sum()).item(), abs=1e-9)
    assert isinstance(made.metric, metrics.Metric)
    assert made.rows(2).metric(logits[:2]).tolist() == made.metric(logits)[:2].tolist()


def test_the_head_that_reads_the_year_is_found() -> None:
    """A head made by hand moves to the end whether a year is in the first half; all else is silent, and centuries say nothing."""
    config = experiments.experiment("greater-than").scale("reduced").config
    model, made = _model(config, Trial(seed=0), d_mlp=config.d_mlp), prompts(64)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        for norm in (model.blocks[1].ln1, model.unembed.ln_final):
            norm.weight.fill_(1)
        half = torch.where(torch.arange(N_YEARS) < N_YEARS // 2, -1.0, 1.0)
        half[2:20] = 0
        attn, d_head = model.blocks[1].attn, config.d_head
        model.embed.W_E[:N_YEARS, :2] = torch.stack([half, -half], dim=1)
        attn.W_V.weight[d_head, 0] = 1  # of head 1
        attn.W_O.weight[:2, d_head] = torch.tensor([20.0, -20.0])
        model.unembed.W_U.weight[:N_YEARS, 0] = torch.linspace(-5, 5, N_YEARS)
    assert _carriers(model, made) == [(1, 1)]
    circuits = HeadCircuits(model, made.tokens, made.other_tokens, made.metric)
    assert circuits.share([(1, 1)]) == pytest.approx(1, abs=1e-4)
    assert circuits.share(circuits.others([(1, 1)])) == pytest.approx(0, abs=1e-4)


@pytest.mark.slow
def test_reduced_experiment_passes() -> None:
    experiment = experiments.experiment("greater-than")
    result = experiments.run("greater-than", experiment.scale("reduced").config)
    assert result.passed, list(result.failures())
    assert not any(check.null_passes for check in result.outcomes[0].checks)
    assert len(result.figures()) == 6
    lm = result.outcomes[0].models["greater-than"]
    assert int(lm.generate("The war lasted from the year 17 90 to the year 17", max_new_tokens=1, temperature=0)[-2:]) > 90
