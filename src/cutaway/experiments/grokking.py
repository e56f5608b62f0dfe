"""Grokking: a transformer that knows its training sums by heart learns addition long after, as waves of a few frequencies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from cutaway.experiments.frame import Check, Curves, Experiment, Outcome, Recipe, Scale, Trial
from cutaway.experiments.modular_addition import (
    Sums,
    along_waves,
    frequency_power,
    key_frequencies,
    language_model,
    learn_sums,
    make_model,
    sum_waves,
)
from cutaway.model import Transformer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "Config", "run", "draw"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which sums, which model, and how long it learns from all of its training sums at once."""

    prime: int = 59
    train_fraction: float = 0.4
    d_model: int = 64
    n_heads: int = 4
    d_mlp: int = 256
    n_steps: int = 4000
    learning_rate: float = 3e-3
    weight_decay: float = 1.0
    look_every: int = 50
    """Steps between two looks."""


def run(config: Config, trial: Trial) -> Outcome:
    """Train one model with weight decay and one without; look back along the first with the frequencies it ended on."""
    sums = Sums.drawn(config.prime, config.train_fraction, generator=trial.generator("sums"))
    model, curves = _trained(config, trial, sums, weight_decay=config.weight_decay)
    control, without = _trained(config, trial, sums, weight_decay=0.0)
    looks = _along(config, model, sums, curves)
    memorised, grokked = (_first_step(curves[f"{part} accuracy"], 0.99) for part in ("train", "test"))
    power = curves["power of the key frequencies"]
    settled = power[1, power[0] >= min(grokked + 600, config.n_steps)][0].item() if grokked < config.n_steps else 0.0
    half = {name: _half_way(looks[name], start=memorised) for name in ("test loss", "restricted loss", "excluded loss")}
    return Outcome(
        checks=(
            Check(
                name="test accuracy at the end", at_least=0.99,
                value=curves["test accuracy"][1, -1].item(), null=without["test accuracy"][1, -1].item(), null_of="no weight decay",
            ),
            Check(
                name="steps to test accuracy .99 over steps to train accuracy .99", at_least=5.0,
                value=grokked / memorised if grokked < config.n_steps else 0.0, null=1.0, null_of="train accuracy itself",
            ),
            Check(
                name="share of the key frequencies in the embedding's power, 600 steps after", at_least=0.8,
                value=settled, null=power[1, 0].item(), null_of="untrained",
            ),
            Check(
                name="steps by which the restricted loss is half-way down before the test loss", at_least=1.0,
                value=half["test loss"] - half["restricted loss"], null=0.0, null_of="test loss itself",
            ),
            Check(
                name="steps by which the excluded loss is half-way up before the test loss is down", at_least=1.0,
                value=half["test loss"] - half["excluded loss"], null=0.0, null_of="test loss itself",
            ),
            Check(
                name="test accuracy without weight decay", at_most=0.5,
                value=without["test accuracy"][1, -1].item(), null=curves["test accuracy"][1, -1].item(), null_of="weight decay",
            ),
        ),
        numbers={"memorised at step": memorised, "grokked at step": grokked} | _squares({"with": model, "without": control}),
        arrays={
            **looks,
            **{name: curves[name] for name in ("train accuracy", "test accuracy", "power of the key frequencies")},
            "test accuracy without weight decay": without["test accuracy"],
            "power": frequency_power(model.embed.W_E[:-1]),
        },
        models={"modular-addition": language_model(model)},
    )  # fmt: skip


def _trained(config: Config, trial: Trial, sums: Sums, *, weight_decay: float) -> tuple[Transformer, Curves]:
    shape = {"d_model": config.d_model, "n_heads": config.n_heads, "d_mlp": config.d_mlp}
    model = make_model(config.prime, **shape, generator=trial.generator("weights"))
    recipe = Recipe(
        n_steps=config.n_steps, learning_rate=config.learning_rate, beta2=0.98, weight_decay=weight_decay, n_warmup_steps=10
    )
    name = "with weight decay" if weight_decay else "without weight decay"
    kept = range(0, config.n_steps + 1, config.look_every) if weight_decay else ()
    return model, learn_sums(trial, name, model, sums, recipe, look_every=config.look_every, keep=kept)


def _along(config: Config, model: Transformer, sums: Sums, curves: Curves) -> dict[str, Float[Tensor, "2 look"]]:
    """Return the losses along a training: of train and test sums, with the key frequencies' waves alone, and without them.

    Restricted: the test loss of logits that keep their means and the waves cos and sin of key frequencies times a + b. Excluded: the
    train loss of logits without these waves. Source: Nanda et al. 2023, section 5.1.
    """
    waves = sum_waves(config.prime, key_frequencies(model))
    rows = []
    with torch.no_grad():
        for step, weights in curves.kept.items():
            logits = functional_call(model, weights, sums.tokens)[:, -1].double()
            part = along_waves(logits, waves)
            restricted = sums.loss(part + logits.mean(0), sums.test)
            rows.append(
                [
                    step,
                    sums.loss(logits, sums.train),
                    sums.loss(logits, sums.test),
                    restricted,
                    sums.loss(logits - part, sums.train),
                ]
            )
    steps, *losses = torch.tensor(rows, dtype=torch.float64).T
    names = ("train loss", "test loss", "restricted loss", "excluded loss")
    return {name: torch.stack([steps, values]) for name, values in zip(names, losses, strict=True)}


def _first_step(curve: Float[Tensor, "2 look"], threshold: float) -> float:
    """Return the first step at which a curve is at a threshold or above, its last where it never is."""
    steps, values = curve
    reached = steps[values >= threshold]
    return float(reached[0] if len(reached) else steps[-1])


def _half_way(curve: Float[Tensor, "2 look"], *, start: float) -> float:
    """Return the first step from `start` on at which a curve is past the middle between its value there and its last."""
    steps, values = curve[:, curve[0] >= start]
    way = (values - values[0]) / (values[-1] - values[0])
    return float(steps[(way >= 0.5).nonzero()[0]])


def _squares(models: Mapping[str, Transformer]) -> dict[str, float]:
    return {
        f"sum of squared weights, {name} weight decay": float(sum(weight.detach().pow(2).sum() for weight in model.parameters()))
        for name, model in models.items()
    }


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw losses and accuracies over steps, and the spectrum of the embedding."""
    from cutaway.plots import bars, lines

    def curves(*names: str) -> dict[str, tuple[list[float], list[float]]]:
        return {name: (outcome.arrays[name][0].tolist(), outcome.arrays[name][1].tolist()) for name in names}

    power = outcome.arrays["power"]
    accuracies = curves("train accuracy", "test accuracy", "test accuracy without weight decay", "power of the key frequencies")
    return {
        "Accuracy": lines(accuracies, title="By heart at first, understood much later", x_label="step", y_label="share"),
        "Progress": lines(
            curves("train loss", "test loss", "restricted loss", "excluded loss"),
            title="What happens before the test loss falls", x_label="step", y_label="loss, nats",
        ),
        "Spectrum": bars(
            power, labels=[f"frequency {k}" for k in range(1, len(power) + 1)], title="The embedding's power by frequency",
            label="share of the power", signed=False,
        ),
    }  # fmt: skip


EXPERIMENT = Experiment(
    id="grokking",
    title="Grokking modular addition",
    claim=(
        "A transformer that has memorised its training sums learns to add only much later, if its weights decay; waves of a few "
        "frequencies have formed long before the test loss falls."
    ),
    source="Nanda et al. 2023, Progress measures for grokking via mechanistic interpretability; Power et al. 2022",
    scales={
        "small": Scale(config=Config(), minutes=3),
        "paper": Scale(
            config=Config(
                prime=113, train_fraction=0.3, d_model=128, d_mlp=512, n_steps=40_000, learning_rate=1e-3, look_every=200
            ),
            minutes=240,
            memory_gib=4,
        ),
        "reduced": Scale(
            config=Config(prime=23, train_fraction=0.7, n_steps=900, look_every=25, d_model=32, d_mlp=128), minutes=0.3
        ),
    },
    run=run,
    draw=draw,
)
