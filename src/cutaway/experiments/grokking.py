"""Grokking: a transformer that knows its training sums by heart learns to add long after, as waves of a few frequencies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway import Transformer
from cutaway.experiments.frame import Check, Curves, Experiment, Outcome, Scale, Trial
from cutaway.experiments.modular_addition import (
    KNOWN,
    N_PUBLISHED,
    PUBLISHED,
    Sums,
    SumsConfig,
    first_known,
    learn_sums,
    number_embedding,
    sum_of_squares,
    summing_model,
)
from cutaway.experiments.number_waves import along_waves, frequency_power, leading_frequencies, sum_waves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "run", "draw"]

_SETTLING = 600  # steps after which the embedding is looked at
_LEAD = 100  # steps before the test loss falls at which the others have moved


def run(config: SumsConfig, trial: Trial) -> Outcome:
    """Train one model with weight decay and one without; look back along the first with the frequencies it ended on."""
    sums = Sums.drawn(config, trial)
    model, control = (summing_model(config, trial).model for _ in range(2))
    looks_at = range(0, config.n_steps + 1, config.look_every)
    curves = learn_sums(trial, "with weight decay", model, sums, config, keep=looks_at)
    without = learn_sums(trial, "without weight decay", control, sums, replace(config, weight_decay=0.0))
    ranked = leading_frequencies(number_embedding(model))
    others = [ranked[N_PUBLISHED + i] for i in torch.randperm(len(ranked) - N_PUBLISHED, generator=trial.generator("others"))]
    looks = _looks(curves, model, sums, ranked[:N_PUBLISHED])
    by_others = _looks(curves, model, sums, others[:N_PUBLISHED])
    return Outcome(
        checks=(
            *_accuracy_checks(curves, without),
            *_mirror_checks(sums, model, control),
            *_progress_checks(config, curves, looks, by_others),
        ),
        numbers={
            "train accuracy is .99 at step (never: 0)": first_known(curves["train accuracy"]) or 0.0,
            "test accuracy is .99 at step (never: 0)": first_known(curves["test accuracy"]) or 0.0,
            "share of the five greatest frequencies in the power, without weight decay": without["power"][1, -1].item(),
            **{f"frequency {place + 1} of the five greatest": float(k) for place, k in enumerate(ranked[:N_PUBLISHED])},
            **_leads(config, curves, looks),
            "sum of squared weights, with weight decay": sum_of_squares(model),
            "sum of squared weights, without": sum_of_squares(control),
        },
        arrays={
            **looks,
            "excluded loss of others": by_others["excluded loss"],
            **{name: curves[name] for name in ("train accuracy", "test accuracy", "power")},
            "test accuracy without weight decay": without["test accuracy"],
            "spectrum": frequency_power(number_embedding(model)),
        },
    )


def _looks(curves: Curves, model: Transformer, sums: Sums, frequencies: Sequence[int]) -> dict[str, Float[Tensor, "2 look"]]:
    """Return the losses along a training: of train and test sums, with some frequencies' waves of a + b alone, and without them.

    Restricted: the test loss of logits that keep their means over pairs and these waves. Excluded: the train loss of logits without
    them. Source: Nanda et al. 2023.
    """
    waves = sum_waves(sums.prime, frequencies)
    past = Transformer(model.config)
    rows = []
    for step, weights in curves.kept.items():
        past.load_state_dict(weights)
        with torch.no_grad():
            logits = sums.logits(past).double()
        part = along_waves(logits, waves)
        restricted, excluded = sums.loss(part + logits.mean(0), sums.test), sums.loss(logits - part, sums.train)
        rows.append([step, sums.loss(logits, sums.train), sums.loss(logits, sums.test), restricted, excluded])
    steps, *losses = torch.tensor(rows, dtype=torch.float64).T
    names = ("train loss", "test loss", "restricted loss", "excluded loss")
    return {name: torch.stack([steps, values]) for name, values in zip(names, losses, strict=True)}


def _accuracy_checks(curves: Curves, without: Curves) -> Iterator[Check]:
    """Yield whether the sums that were not learnt from become known, late, and not in as many steps without weight decay."""
    yield Check(
        name="test accuracy at the end", at_least=KNOWN,
        value=curves["test accuracy"][1, -1].item(), null=without["test accuracy"][1, -1].item(), null_of="no weight decay",
    )  # fmt: skip
    yield Check(
        name="steps to a test accuracy of .99 over steps to a train accuracy of .99 (0 if never)", at_least=5.0,
        value=_delay(curves), null=_delay(without), null_of="no weight decay",
    )  # fmt: skip
    yield Check(
        name="test accuracy at the end, without weight decay", at_most=0.5,
        value=without["test accuracy"][1, -1].item(), null=curves["test accuracy"][1, -1].item(), null_of="weight decay",
    )  # fmt: skip


def _mirror_checks(sums: Sums, model: Transformer, control: Transformer) -> Iterator[Check]:
    """Yield whether sums are known whose mirror was not learnt from either: what the control knows, it knows by a + b = b + a."""
    with torch.no_grad():
        logits, by_control = sums.logits(model), sums.logits(control)
    at_chance = sums.accuracy(by_control, sums.without_mirror)
    yield Check(
        name="test accuracy on sums a + b of which b + a is not trained on either", at_least=KNOWN,
        value=sums.accuracy(logits, sums.without_mirror), null=at_chance, null_of="no weight decay",
    )  # fmt: skip
    yield Check(
        name="test accuracy on the same sums, without weight decay", at_most=0.05,
        value=at_chance, null=sums.accuracy(by_control, sums.with_mirror), null_of="where b + a is trained on",
    )  # fmt: skip


def _delay(curves: Curves) -> float:
    known, understood = (first_known(curves[f"{part} accuracy"]) for part in ("train", "test"))
    return understood / known if known and understood else 0.0


def _progress_checks(
    config: SumsConfig, curves: Curves, looks: Mapping[str, Tensor], by_others: Mapping[str, Tensor]
) -> Iterator[Check]:
    """Yield whether the waves are there in the end, and were on their way before the test loss fell.

    A loss has risen when it is that of guessing, and has fallen when it stays below half of it; what never comes is NaN.
    """
    power, understood = curves["power"], first_known(curves["test accuracy"])
    settled = power[1, power[0] >= understood + _SETTLING] if understood else power[1, :0]
    yield Check(
        name="share of the embedding's power in five frequencies, 600 steps after test accuracy is .99", at_least=0.8,
        value=settled[0].item() if len(settled) else math.nan, null=power[1, 0].item(), null_of="untrained",
    )  # fmt: skip
    guessing = math.log(config.prime)
    before = _stays_below(looks["test loss"], guessing / 2) - _LEAD
    yield Check(
        name=f"loss by key frequencies alone (restricted) over that of guessing, {_LEAD} steps before the test loss falls", at_most=0.5,
        value=_at(looks["restricted loss"], before) / guessing,
        null=_at(by_others["restricted loss"], before) / guessing, null_of="other frequencies",
    )  # fmt: skip
    yield Check(
        name=f"loss without key frequencies (excluded) over that of guessing, {_LEAD} steps before the test loss falls", at_least=1.0,
        value=_at(looks["excluded loss"], before) / guessing,
        null=_at(by_others["excluded loss"], before) / guessing, null_of="other frequencies",
    )  # fmt: skip


def _leads(config: SumsConfig, curves: Curves, looks: Mapping[str, Tensor]) -> dict[str, float]:
    """Return by how many steps the other losses go before the test loss, NaN where one of them never does."""
    guessing, memorised = math.log(config.prime), first_known(curves["train accuracy"])
    fallen = _stays_below(looks["test loss"], guessing / 2)
    risen = _rises_above(looks["excluded loss"], guessing, start=math.nan if memorised is None else memorised)
    return {
        "steps by which the restricted loss falls before the test loss": fallen
        - _stays_below(looks["restricted loss"], guessing / 2),
        "steps by which the excluded loss rises before the test loss falls": fallen - risen,
    }


def _stays_below(curve: Float[Tensor, "2 look"], bound: float) -> float:
    """Return the step of the first look from which on a loss is at most a bound, NaN where it is above at the last."""
    steps, losses = curve
    above = (losses > bound).nonzero()
    first = int(above[-1]) + 1 if len(above) else 0
    return float(steps[first]) if first < len(steps) else math.nan


def _rises_above(curve: Float[Tensor, "2 look"], bound: float, *, start: float) -> float:
    """Return the step of the first look, from `start` on, at which a loss is at least a bound, NaN where it never is."""
    steps, losses = curve
    risen = steps[(steps >= start) & (losses >= bound)]
    return float(risen[0]) if len(risen) else math.nan


def _at(curve: Float[Tensor, "2 look"], step: float) -> float:
    """Return a loss at the last look that is no later than a step, NaN where there is none."""
    steps, losses = curve
    so_far = losses[steps <= step]
    return float(so_far[-1]) if len(so_far) else math.nan


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw accuracies and losses over steps, and the spectrum of the embedding."""
    from cutaway.plots import Panel, bars, panels

    arrays = outcome.arrays

    def shown(names: Mapping[str, str]) -> dict[str, tuple[list[float], list[float]]]:
        return {label: (arrays[name][0].tolist(), arrays[name][1].tolist()) for label, name in names.items()}

    accuracies = {"test": "test accuracy", "train": "train accuracy", "test, no decay": "test accuracy without weight decay"}
    losses = {
        "test": "test loss", "restricted": "restricted loss", "excluded": "excluded loss",
        "excluded, control": "excluded loss of others",
    }  # fmt: skip
    pictures = [
        Panel("Accuracy", "share of the sums", shown(accuracies), tuple(accuracies)),
        Panel("What happens before the test loss falls", "loss, nats", shown(losses), tuple(losses)),
        Panel(
            "The embedding's five greatest frequencies",
            "share of its power",
            shown({"five frequencies": "power"}),
            ("five frequencies",),
            least=(0, 1),
        ),
    ]
    spectrum = arrays["spectrum"]
    return {
        "Accuracy and losses while training": panels(pictures, title="Known by heart at first, understood much later", x_label="step"),
        "Spectrum of the embedding": bars(
            spectrum.numpy(), labels=[f"frequency {k}" for k in range(1, len(spectrum) + 1)],
            title="The embedding is made of a few frequencies", label="share of its power", signed=False,
        ),
    }  # fmt: skip


EXPERIMENT = Experiment(
    id="grokking",
    title="Grokking modular addition",
    claim=(
        "A transformer that knows its training sums by heart learns to add only much later, and not in as many steps without "
        "weight decay; waves of a few frequencies are on their way a hundred steps and more before the test loss falls."
    ),
    source="Nanda et al. 2023, Progress measures for grokking via mechanistic interpretability; Power et al. 2022, Grokking",
    scales={
        "small": Scale(config=SumsConfig(), minutes=0.8),
        "paper": Scale(config=SumsConfig(**PUBLISHED), memory_gib=2),
        "reduced": Scale(
            config=SumsConfig(prime=43, train_fraction=0.5, d_mlp=128, n_steps=1200, learning_rate=8e-3, weight_decay=2.0),
        ),
    },
    run=run,
    draw=draw,
    captions={
        "Accuracy and losses while training": (
            "Above: train accuracy is there at once, test accuracy much later, and not in as many steps without weight decay. "
            "Middle: the test loss by waves of the key frequencies alone (restricted) falls, and the train loss without them "
            "(excluded) rises, before the test loss falls; without other frequencies it does not. Below: five frequencies take over "
            "the embedding."
        ),
        "Spectrum of the embedding": (
            "How the power of the trained embedding is shared out among frequencies: a few hold nearly all of it."
        ),
    },
)
