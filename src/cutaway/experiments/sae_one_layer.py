"""A dictionary of a one-layer model's neurons: few features say what the neurons do, and what makes one fire is alike more often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway import LanguageModel, sae
from cutaway.experiments.frame import Check, Experiment, Outcome, Scale, Trial
from cutaway.experiments.text_model import TextModel, spread_windows, train
from cutaway.interp.sae import Dictionary, LearningCurve, TensorActivations

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "Config", "run", "draw"]

_NEURONS = "blocks.0.mlp.post"
_N_CONTEXTS = 10


@dataclass(frozen=True, kw_only=True)
class Config:
    """The model of one layer, and the dictionary of its neurons."""

    model: TextModel = field(default_factory=lambda: TextModel(n_layers=1, d_mlp=256, n_steps=600))
    width: int = 4
    """Features as a multiple of the neurons."""
    k: int = 12
    """Features that are on at once."""
    n_steps: int = 1500
    batch_size: int = 1024
    n_windows: int = 4000
    """Windows of the text that was learnt, on whose activations the dictionary learns."""
    n_held_out: int = 1024
    """Windows of the text that was not, on which everything is measured."""
    n_features: int = 200
    """Features, and neurons, whose strongest contexts are read."""


def run(config: Config, trial: Trial) -> Outcome:
    """Train the model and the dictionary; hold it against principal components, random directions and the neurons themselves."""
    trained = train(trial, config.model)
    held_out = spread_windows(trained.held_out, config.model.n_ctx, n_windows=config.n_held_out)
    windows = spread_windows(trained.learnt, config.model.n_ctx, n_windows=config.n_windows)
    activations = sae.TensorActivations.of(sae.ModelActivations(trained.lm, windows, _NEURONS))
    dictionary, curve = _learn(activations, config, trial)
    found = sae.evaluate(trained.lm, dictionary, held_out)
    null = sae.evaluate(trained.lm, _principal(activations.rows, config.k), held_out)
    untrained = sae.evaluate(trained.lm, _random(dictionary, activations, trial), held_out)
    features, neurons = (
        _agreement(trained.lm, each, held_out, config, trial.seed) for each in (dictionary, _neurons(config.model.d_mlp))
    )
    reconstruction = found.reconstruction
    return Outcome(
        checks=(
            Check(
                name="share of the neurons' variance that the dictionary leaves unexplained", at_most=0.2,
                value=reconstruction.fvu, null=null.reconstruction.fvu, null_of="as many principal components",
            ),
            Check(
                name="share of what the neurons are worth to the loss that the dictionary in their place recovers", at_least=0.9,
                value=found.recovered_of_mean or 0.0, null=null.recovered_of_mean or 0.0, null_of="as many principal components",
            ),
            Check(
                name="share of features of whose ten strongest contexts eight end in the same two characters", at_least=0.5,
                value=_share_agreeing(features), null=_share_agreeing(neurons), null_of="the neurons themselves",
            ),
        ),
        numbers={
            "neurons": config.model.d_mlp,
            "features": dictionary.config.d_sae,
            "features on at once": reconstruction.l0,
            "share of features that never fire": reconstruction.dead,
            "variance unexplained by as many random directions": untrained.reconstruction.fvu,
            "share of the loss that random directions recover": untrained.recovered_of_mean or 0.0,
            "nats a character": found.loss,
            "nats a character with the dictionary spliced in": found.spliced_loss,
            "nats a character with the neurons at their mean": found.mean_loss,
        },
        arrays={
            "features": features,
            "neurons": neurons,
            "unexplained": torch.tensor([[point.step, point.fvu] for point in curve.points]).T,
            "density": reconstruction.n_fired / reconstruction.n_rows,
        },
        models={"stdlib-1l": trained.lm},
    )  # fmt: skip


def _learn(activations: TensorActivations, config: Config, trial: Trial) -> tuple[Dictionary, LearningCurve]:
    d_in = config.model.d_mlp
    shape = sae.DictionaryConfig(kind="topk", d_in=d_in, d_sae=config.width * d_in, k=config.k, name=_NEURONS)
    return sae.train(
        sae.SAEConfig(dictionary=shape, n_steps=config.n_steps, batch_size=config.batch_size, seed=trial.seed),
        activations,
        checkpoints=None if trial.folder is None else trial.folder / "dictionary",
        progress=lambda done, n_all, point: trial.report(done, n_all, f"dictionary: {point.fvu:.1%} unexplained"),
    )


@torch.no_grad()
def _random(dictionary: Dictionary, activations: TensorActivations, trial: Trial) -> Dictionary:
    """Return a dictionary of the same kind and shape whose directions are drawn, around the centre of the activations."""
    made = sae.make_dictionary(dictionary.config, generator=trial.generator("random directions"))
    made.b_dec.copy_(activations.rows.mean(0))
    return made


def _principal(learnt: Float[Tensor, "row d"], k: int) -> Dictionary:
    """Return the dictionary that gives back the k principal components: two latents each, one for either sign, one of them on."""
    centre = learnt.double().mean(0)
    directions = torch.linalg.eigh((learnt.double() - centre).T @ (learnt.double() - centre)).eigenvectors[:, -k:].float()
    return _linear(torch.cat([directions, -directions], dim=1), centre.float())


def _neurons(d: int) -> Dictionary:
    """Return the dictionary whose latents are the neurons."""
    return _linear(torch.eye(d), torch.zeros(d))


@torch.no_grad()
def _linear(directions: Float[Tensor, "d latent"], centre: Float[Tensor, " d"]) -> Dictionary:
    """Return the dictionary that reads and writes along the same directions, around a centre."""
    d, d_sae = directions.shape
    made = sae.make_dictionary(sae.DictionaryConfig(kind="relu", d_in=d, d_sae=d_sae, name=_NEURONS))
    for weight, value in ((made.W_enc, directions), (made.W_dec, directions.T), (made.b_dec, centre)):
        weight.copy_(value)
    return made


def _agreement(
    lm: LanguageModel, dictionary: Dictionary, windows: Int[Tensor, "window pos"], config: Config, seed: int
) -> Float[Tensor, " latent"]:
    """Return, of latents that fire in ten windows, which share of their ten strongest contexts end in the same two characters."""
    found = sae.find_contexts(lm, dictionary, windows, n_features=config.n_features, n_contexts=_N_CONTEXTS, seed=seed)
    all_peaks = [found.peaks(place) for place in range(len(found.features))]
    peaks = [each for each in all_peaks if len(each) == _N_CONTEXTS]
    endings = [Counter(tuple(windows[at, pos - 1 : pos + 1].tolist()) for at, pos in each) for each in peaks]
    return torch.tensor([counts.most_common(1)[0][1] / _N_CONTEXTS for counts in endings])


def _share_agreeing(agreement: Float[Tensor, " latent"]) -> float:
    return (agreement >= sae.AGREES_FROM).float().mean().item()


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw how the dictionary learns, how often its features fire, and how often features and neurons agree."""
    from cutaway.plots import Panel, lines, panels

    arrays = outcome.arrays
    counts = list(range(11))
    shares = {
        name: (counts, [(arrays[name] >= count / 10 - 1e-6).double().mean().item() for count in counts])
        for name in ("features", "neurons")
    }
    fvu = {"dictionary": tuple(arrays["unexplained"].tolist())}
    return {
        "The dictionary learns": panels(
            [Panel("", "variance unexplained", fvu, tuple(fvu))], title="What the dictionary leaves unexplained", x_label="step"
        ),
        "Features and neurons whose contexts agree": lines(
            shares, title="Strongest contexts that end in the same two characters", x_label="contexts of the ten strongest, at least",
            y_label="share of features, of neurons",
        ),
    }  # fmt: skip


EXPERIMENT = Experiment(
    id="sae-one-layer",
    title="A sparse autoencoder of a one-layer model",
    claim=(
        "A few features at a time, of many more than there are neurons, give back what the neurons of a one-layer model say, better "
        "than as many principal components, and a feature's strongest contexts are alike more often than a neuron's."
    ),
    source="Bricken et al. 2023, Towards Monosemanticity",
    scales={
        "small": Scale(config=Config(), minutes=1.2, memory_gib=2.5),
        "reduced": Scale(
            config=Config(model=TextModel(n_layers=1, d_mlp=256, n_steps=500), n_steps=1100, n_windows=3000),
        ),
    },
    run=run,
    draw=draw,
    captions={
        "The dictionary learns": "The share of the neurons' variance that the dictionary leaves unexplained falls while it learns.",
        "Features and neurons whose contexts agree": (
            "Of the ten contexts in which a feature or a neuron is strongest, how many end in the same two characters: at each "
            "number, the share of features and of neurons that reach it. Features do so more often."
        ),
    },
)
