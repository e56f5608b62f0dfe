"""Learning to add without weight decay: gradients without what lies along the weights let a transformer generalise in fewer steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from cutaway.experiments.frame import Check, Experiment, Outcome, Scale, Trial
from cutaway.experiments.modular_addition import (
    Sums,
    SumsConfig,
    first_known,
    learn_sums,
    sum_of_squares,
    summing_model,
    turn_gradients,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "Config", "run", "draw"]


@dataclass(frozen=True, kw_only=True)
class Config(SumsConfig):
    """Which sums are learnt from, by which model; the rate falls in the end, as accuracy wobbles where it does not."""

    n_steps: int = 1200
    n_decay_steps: int = 400
    weight_decay: float = 0.0


def run(config: Config, trial: Trial) -> Outcome:
    """Train one model with gradients that turn its weights, and the same one with gradients as they are."""
    sums = Sums.drawn(config, trial)
    turned, plain = (summing_model(config, trial).model for _ in range(2))
    curves = learn_sums(trial, "turned gradients", turned, sums, config, adjust=partial(turn_gradients, turned))
    control = learn_sums(trial, "plain gradients", plain, sums, config)
    with torch.no_grad():
        logits, by_control = sums.logits(turned), sums.logits(plain)
    at_chance = sums.accuracy(by_control, sums.without_mirror)
    accuracy, without, power = curves["test accuracy"], control["test accuracy"], curves["power"]
    return Outcome(
        checks=(
            Check(
                name="test accuracy at the end, gradients perpendicular to the weights", at_least=0.98,
                value=accuracy[1, -1].item(), null=without[1, -1].item(), null_of="plain gradients",
            ),
            Check(
                name="test accuracy at the end, plain gradients", at_most=0.5,
                value=without[1, -1].item(), null=accuracy[1, -1].item(), null_of="perpendicular ones",
            ),
            Check(
                name="test accuracy on sums a + b of which b + a is not trained on either", at_least=0.98,
                value=sums.accuracy(logits, sums.without_mirror), null=at_chance, null_of="plain gradients",
            ),
            Check(
                name="test accuracy on the same sums, plain gradients", at_most=0.05,
                value=at_chance, null=sums.accuracy(by_control, sums.with_mirror), null_of="where b + a is trained on",
            ),
            Check(
                name="share of the embedding's power in its five greatest frequencies", at_least=0.7,
                value=power[1, -1].item(), null=control["power"][1, -1].item(), null_of="plain gradients",
            ),
        ),
        numbers={
            "train accuracy at the end, plain gradients": control["train accuracy"][1, -1].item(),
            "share of the five greatest frequencies, untrained": power[1, 0].item(),
            "train accuracy is .99 at step (never: 0)": first_known(curves["train accuracy"]) or 0.0,
            "test accuracy is .99 at step (never: 0)": first_known(accuracy) or 0.0,
            "sum of squared weights, untrained": sum_of_squares(summing_model(config, trial).model),
            "sum of squared weights, turned gradients": sum_of_squares(turned),
            "sum of squared weights, plain gradients": sum_of_squares(plain),
        },
        arrays={
            "test, turned": accuracy, "test, plain": without, "train, turned": curves["train accuracy"],
            "train, plain": control["train accuracy"], "turned": power, "plain": control["power"],
        },
    )  # fmt: skip


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw the race of the two, in accuracy and in the power of a few frequencies."""
    from cutaway.plots import Panel, panels

    shown = {
        name.replace("turned", "perpendicular"): (curve[0].tolist(), curve[1].tolist()) for name, curve in outcome.arrays.items()
    }
    pictures = [
        Panel(title, y_label, {name: shown[name] for name in names}, names, least=(0, 1))
        for title, y_label, names in (
            ("Accuracy", "share of the sums", ("test, perpendicular", "test, plain", "train, perpendicular", "train, plain")),
            ("The embedding's five greatest frequencies", "share of its power", ("perpendicular", "plain")),
        )
    ]
    return {
        "Accuracy and frequencies while training": panels(
            pictures, title="Gradients perpendicular to the weights, and plain ones", x_label="step"
        )
    }


EXPERIMENT = Experiment(
    id="grokking-without-decay",
    title="Learning to add without weight decay",
    claim=(
        "Without weight decay a transformer learns to add if what lies along the weights is taken from their gradients; with plain "
        "gradients it knows its training sums by heart and does not learn to add in as many steps."
    ),
    source="Prieto et al. 2025, Grokking at the Edge of Numerical Stability",
    scales={
        "small": Scale(config=Config(), minutes=0.5),
        "reduced": Scale(
            config=Config(prime=31, train_fraction=0.57, d_model=32, d_mlp=128, n_steps=1100, n_decay_steps=300),
        ),
    },
    run=run,
    draw=draw,
    captions={
        "Accuracy and frequencies while training": (
            "Above: with gradients made perpendicular to the weights test accuracy soon follows train accuracy; with plain ones the "
            "training sums are known by heart and others are not. Below: only in the first case do five frequencies take over the "
            "embedding."
        ),
    },
)
