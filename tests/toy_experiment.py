"""An experiment that takes no time: a number falls to nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import nn

from cutaway import LanguageModel, ModelConfig, Transformer
from cutaway.experiments.frame import Check, Experiment, Outcome, Recipe, Scale, Trial
from cutaway.plots import lines
from cutaway.tokenizers import WordTokenizer

__all__ = ["Config", "Scalar", "TRAINED", "TOY"]


@dataclass(frozen=True, kw_only=True)
class Config:
    n_steps: int = 30
    bound: float = 0.5
    sizes: tuple[int, ...] = (1, 2)


class Scalar(nn.Module):
    def __init__(self, start: float) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor(start))


TRAINED: list[str] = []
"""The models whose training began."""

STOPPED = {""}
"""The models at whose training somebody presses Ctrl-C."""


def run(config: Config, trial: Trial) -> Outcome:
    start = float(torch.rand((), generator=trial.generator("start")) + 1)
    models = [Scalar(start), Scalar(-start)]
    for name, model in zip(("first model", "second"), models, strict=True):

        def loss(step: int, model: Scalar = model, name: str = name) -> torch.Tensor:
            if step == 0:
                TRAINED.append(name)
            if name in STOPPED:
                raise KeyboardInterrupt
            return model.x**2

        curves = trial.learn(name, model, loss, Recipe(n_steps=config.n_steps, learning_rate=0.2))
    value = abs(models[0].x.item())
    return Outcome(
        checks=(Check(name="distance", value=value, at_most=config.bound, null=start, null_of="untrained"),),
        numbers={"start": start},
        arrays={"loss": curves["loss"]},
        models={"toy-model": language_model(trial)},
    )


def language_model(trial: Trial) -> LanguageModel:
    shape = ModelConfig(d_vocab=3, n_ctx=8, n_layers=1, n_heads=1, d_model=4)
    return LanguageModel(Transformer(shape, generator=trial.generator("transformer")), WordTokenizer(["a", "b", "c"]))


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    steps, values = outcome.arrays["loss"]
    return {"Loss": lines({"loss": (steps.tolist(), values.tolist())}, title="Loss", x_label="step", y_label="loss")}


TOY = Experiment(
    id="toy",
    title="A toy",
    claim="A number falls to nothing.",
    source="none",
    scales={"small": Scale(config=Config(), minutes=0.1), "paper": Scale(config=Config(), minutes=9, memory_gib=1e6)},
    run=run,
    draw=draw,
    captions={"Loss": "The first number falls to nothing."},
)
