"""Grokking in seconds: without weight decay a transformer does generalise, if its gradients may not make its weights grow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from cutaway.experiments.frame import Check, Experiment, Outcome, Recipe, Scale, Trial
from cutaway.experiments.modular_addition import Sums, learn_sums, make_model, turn_gradients

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "Config", "run", "draw"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which sums, which model, and how long it learns."""

    prime: int = 59
    train_fraction: float = 0.4
    d_model: int = 64
    n_heads: int = 4
    d_mlp: int = 256
    n_steps: int = 1800
    n_decay_steps: int = 600
    """Steps at the end over which the rate falls: accuracy wobbles where it does not."""
    learning_rate: float = 3e-3
    look_every: int = 25


def run(config: Config, trial: Trial) -> Outcome:
    """Train one model with gradients that turn weights, and the same one with gradients as they are."""
    sums = Sums.drawn(config.prime, config.train_fraction, generator=trial.generator("sums"))
    shape = {"d_model": config.d_model, "n_heads": config.n_heads, "d_mlp": config.d_mlp}
    recipe = Recipe(
        n_steps=config.n_steps,
        learning_rate=config.learning_rate,
        beta2=0.98,
        n_warmup_steps=10,
        n_decay_steps=config.n_decay_steps,
    )
    turned, plain = (make_model(config.prime, **shape, generator=trial.generator("weights")) for _ in range(2))
    curves = learn_sums(
        trial, "turned gradients", turned, sums, recipe, look_every=config.look_every, adjust=partial(turn_gradients, turned)
    )
    control = learn_sums(trial, "plain gradients", plain, sums, recipe, look_every=config.look_every)
    both, power = (curves["test accuracy"], control["test accuracy"]), curves["power of the key frequencies"]
    return Outcome(
        checks=(
            Check(
                name="test accuracy at the end", at_least=0.98,
                value=both[0][1, -1].item(), null=both[1][1, -1].item(), null_of="plain gradients",
            ),
            Check(
                name="share of the five key frequencies in the embedding's power", at_least=0.7,
                value=power[1, -1].item(), null=power[1, 0].item(), null_of="untrained",
            ),
            Check(
                name="test accuracy of plain gradients", at_most=0.5,
                value=both[1][1, -1].item(), null=both[0][1, -1].item(), null_of="turned gradients",
            ),
        ),
        arrays={"turned": both[0], "plain": both[1], "train": curves["train accuracy"]},
    )  # fmt: skip


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw the race of the two."""
    from cutaway.plots import lines

    names = {"test, turned": "turned", "test, plain": "plain", "train": "train"}
    curves = {name: (outcome.arrays[key][0].tolist(), outcome.arrays[key][1].tolist()) for name, key in names.items()}
    return {"Race": lines(curves, title="Gradients that turn weights, and plain ones", x_label="step", y_label="accuracy")}


EXPERIMENT = Experiment(
    id="grokking-without-decay",
    title="Grokking without weight decay",
    claim=(
        "Without weight decay a transformer that has memorised its sums stays there; if what lies along the weights is taken from "
        "their gradients, it learns to add."
    ),
    source="Prieto et al. 2025, Grokking at the Edge of Numerical Stability",
    scales={
        "small": Scale(config=Config(), minutes=1),
        "reduced": Scale(
            config=Config(prime=23, train_fraction=0.7, d_model=32, d_mlp=128, n_steps=600, n_decay_steps=200), minutes=0.2
        ),
    },
    run=run,
    draw=draw,
    is_fast=True,
)
