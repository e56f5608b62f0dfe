"""Induction in a model that others trained: SmolLM2 goes on as it went last time, and a few heads of its 270 carry that."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cutaway import LanguageModel, heads, load, metrics
from cutaway.experiments.frame import Check, Experiment, Outcome, Scale, Trial
from cutaway.interp.ablation import How, ablate_heads
from cutaway.interp.heads import HeadScores, RepeatedTokens, repeated_tokens
from cutaway.interp.sae import shuffled_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "Config", "run", "draw"]

_Heads = list[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Config:
    """The model, and on how many random tokens that come twice its heads are found and, on others, taken out."""

    model: str = "smollm2-135m"
    n_sequences: int = 16
    seq_length: int = 50
    n_reference: int = 32
    """Sequences over which what a head writes on average is measured."""
    n_draws: int = 20
    """How often as many other heads of the same layers are drawn."""
    matches_from: float = 0.5
    """The prefix matching from which a head is one of those that are taken out."""
    others_below: float = 0.1
    """The prefix matching below which a head may be drawn beside them."""


class _Taken(NamedTuple):
    """What it costs to take out the induction heads, and each draw of others: nats a token more, by the copy that is read."""

    found: Mapping[str, float]
    drawn: Mapping[str, list[float]]
    gain: float
    """What a token costs less in the second copy than in the first, with all heads."""

    @property
    def median(self) -> float:
        """What the draw in the middle costs the second copy."""
        return statistics.median(self.drawn["second"])


def run(config: Config, trial: Trial) -> Outcome:
    """Find the heads, take them out, and take out as many others of the same layers."""
    lm = load(config.model, device="cpu")
    trial.report(0, 4, "heads of the model with shuffled weights")
    seeds = torch.randint(2**31, (3,), generator=trial.generator("tokens")).tolist()
    null = _scores(LanguageModel(shuffled_model(lm.model, seed=seeds[0]), lm.tokenizer), config, seeds[1])
    trial.report(1, 4, "heads of the model")
    scores = _scores(lm, config, seeds[1])
    matching = scores.scores["induction"]
    induction = _where(matching >= config.matches_from)
    draws = _draws(induction, _where(matching < config.others_below), config.n_draws, trial.generator("heads"))
    trial.report(2, 4, "induction heads, and others, taken out")
    drawn = repeated_tokens(lm, n_sequences=config.n_sequences, seq_length=config.seq_length, seed=seeds[2])
    reference = _random_tokens(lm, config.n_reference, drawn.tokens.shape[1], trial.generator("reference"))
    taken = _take_out(lm, induction, draws, drawn, how="mean", reference=reference)
    trial.report(3, 4, "the same, with zeros")
    zeroed = _take_out(lm, induction, draws[:0], drawn, how="zero", reference=None)
    (first, second), (null_first, null_second) = scores.both_losses(), null.both_losses()
    return Outcome(
        checks=(
            Check(
                name="prefix matching of the best head", at_least=0.75,
                value=matching.max().item(), null=null.scores["induction"].max().item(), null_of="shuffled weights",
            ),
            Check(
                name="loss on the first copy less that on the second, nats a token", at_least=8.0,
                value=first - second, null=null_first - null_second, null_of="shuffled weights",
            ),
            *_ablation_checks(taken),
        ),
        numbers={
            "heads in the model": matching.numel(),
            f"heads with prefix matching of at least {config.matches_from:g}": len(induction),
            "loss on the first copy": first,
            "loss on the second copy": second,
            "share of the second copy's gain undone without them": taken.found["second"] / taken.gain,
            "second copy without the median draw": taken.median,
            "second copy without the worst draw": max(taken.drawn["second"]),
            "second copy without them, zeros for the mean": zeroed.found["second"],
            "first copy without them, zeros for the mean": zeroed.found["first"],
        },
        arrays={
            "matching": matching,
            "rises": torch.tensor([taken.found["second"], *taken.drawn["second"]]),
        },
    )  # fmt: skip


def _scores(lm: LanguageModel, config: Config, seed: int) -> HeadScores:
    return heads.detect_heads(lm, n_sequences=config.n_sequences, seq_length=config.seq_length, seed=seed)


def _ablation_checks(taken: _Taken) -> tuple[Check, ...]:
    return (
        Check(
            name="loss added on the second copy without the induction heads, nats a token", at_least=4.0,
            value=taken.found["second"], null=taken.median, null_of="other heads, the median draw",
        ),
        Check(
            name="loss added on the first copy without the induction heads, nats a token", at_most=0.5,
            value=taken.found["first"], null=taken.found["second"], null_of="second copy",
        ),
    )  # fmt: skip


def _where(chosen: Bool[Tensor, "layer head"]) -> _Heads:
    return [(layer, head) for layer, head in chosen.nonzero().tolist()]


def _draws(induction: _Heads, others: _Heads, n_draws: int, generator: torch.Generator) -> list[_Heads]:
    """Draw as many other heads of each layer as it has induction heads; raises ValueError for a layer that has not so many."""
    drawn: list[_Heads] = [[] for _ in range(n_draws)]
    for layer in sorted({layer for layer, _ in induction}):
        wanted = sum(each[0] == layer for each in induction)
        pool = [each for each in others if each[0] == layer]
        if len(pool) < wanted:
            raise ValueError(f"layer {layer} has {wanted} induction heads and {len(pool)} others to draw beside them")
        for each in drawn:
            each.extend(pool[place] for place in torch.randperm(len(pool), generator=generator)[:wanted].tolist())
    return drawn


def _random_tokens(lm: LanguageModel, n_sequences: int, n_pos: int, generator: torch.Generator) -> Int[Tensor, "batch pos"]:
    """Return runs of random tokens, none of a run twice."""
    return torch.stack([torch.randperm(lm.config.d_vocab, generator=generator)[:n_pos] for _ in range(n_sequences)])


def _take_out(
    lm: LanguageModel, induction: _Heads, draws: list[_Heads], drawn: RepeatedTokens, *, how: How, reference: Tensor | None
) -> _Taken:
    sets = {"induction": induction} | {f"draw {i}": draw for i, draw in enumerate(draws)}
    middle = drawn.start + drawn.seq_length
    copies = {"first": (drawn.tokens[:, :middle], drawn.start), "second": (drawn.tokens, middle)}
    found, others, base = {}, {}, {}
    for copy, (tokens, first) in copies.items():
        ablated = ablate_heads(lm, sets, tokens, how=how, metric=metrics.loss(tokens, first=first), reference=reference)
        base[copy] = ablated.base.mean().item()
        found[copy], *others[copy] = (ablated.scores - ablated.base).mean(-1).tolist()
    return _Taken(found, others, base["first"] - base["second"])


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw every head's prefix matching, and what it costs to take out the heads and each draw of others."""
    from cutaway.plots import bars, heatmap

    matching, rises = outcome.arrays["matching"], outcome.arrays["rises"]
    n_layers, n_heads = matching.shape
    return {
        "Prefix matching of every head": heatmap(
            matching.T.numpy(), rows=[f"head {head}" for head in range(n_heads)], columns=[str(layer) for layer in range(n_layers)],
            title="Attention to what followed this token last time", column_title="layer", label="prefix matching",
        ),
        "Loss without induction heads": bars(
            rises.numpy(), labels=["induction heads", *(f"other heads, draw {i + 1}" for i in range(len(rises) - 1))],
            title="Heads replaced by their mean", label="loss added on the second copy, nats a token",
        ),
    }  # fmt: skip


EXPERIMENT = Experiment(
    id="smollm2-induction",
    title="Induction heads of SmolLM2",
    claim=(
        "SmolLM2 foretells random tokens that come a second time, and far worse without its few heads that attend to what followed "
        "last time; what it makes of tokens that come first does not need them, and as many other heads of their layers matter less. "
        "A seed draws tokens and other heads: the model is one."
    ),
    source="Olsson et al. 2022, In-context Learning and Induction Heads",
    scales={
        "small": Scale(config=Config(), minutes=1.8, memory_gib=2.0),
        "reduced": Scale(config=Config(n_sequences=4, seq_length=25, n_reference=8, n_draws=10), memory_gib=2.0),
    },
    run=run,
    draw=draw,
    captions={
        "Prefix matching of every head": (
            "A cell is a head: on random tokens that come twice, its attention to the token that followed the last time. A few "
            "heads do it, about the middle of the model and after; most do not."
        ),
        "Loss without induction heads": (
            "What the second copy costs more when the induction heads write their mean, beside as many other heads of the same "
            "layers, drawn at random."
        ),
    },
)
