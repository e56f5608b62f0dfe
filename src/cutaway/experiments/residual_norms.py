"""The residual stream's growth with depth: nearer to an exponential than to powers of a line in a model that others trained.

There is one trained model: seeds redraw texts and the weights of the two that did not learn, not the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway import LanguageModel, Transformer, load
from cutaway.data import read_corpus
from cutaway.experiments.frame import Check, Experiment, Outcome, Scale, Trial
from cutaway.interp.residual import ResidualStream, stream
from cutaway.interp.sae import shuffled_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "Config", "Growth", "run", "draw"]

_CHARACTERS_A_TOKEN = 12  # more than any text has on average
_RATES = torch.logspace(-5, 5, 4001, dtype=torch.float64)
_POWERS = {"square root": 0.5, "linear": 1.0, "square": 2.0, "cube": 3.0, "fourth power": 4.0}
_KINDS = ("exponential", *_POWERS)
_DRAWN = ("exponential", "square root", "linear", "fourth power")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The model, and how much text its stream is measured on."""

    model: str = "smollm2-135m"
    corpus: str = "stdlib"
    n_windows: int = 24
    n_pos: int = 48


class Growth(NamedTuple):
    """How well a kind of growth describes lengths: each has a size and a rate, fitted to the logs by least squares."""

    fitted: Float[Tensor, "*series point"]
    """The logs of the lengths as the growth has them."""
    unexplained: Float[Tensor, "*series"]
    """The share of the variance of the logs that it leaves: 1 less R squared."""

    @classmethod
    def fit(cls, kind: str, lengths: Float[Tensor, "*series point"]) -> Growth:
        """Fit `a exp(r l)`, or a power of a line, `a (1 + r l)^p`, to positive lengths at the points l = 0, 1, ..."""
        logs, place = lengths.double().log(), torch.arange(lengths.shape[-1], dtype=torch.float64)
        deviation = logs - logs.mean(-1, keepdim=True)
        if kind == "exponential":
            centred = place - place.mean()
            shape = (deviation @ centred / centred.square().sum())[..., None] * centred
        else:
            shapes = (1 + _RATES[:, None] * place).log() * _POWERS[kind]
            shapes = shapes - shapes.mean(-1, keepdim=True)  # rate point
            best = (deviation[..., None, :] - shapes).square().sum(-1).argmin(-1)
            shape = shapes[best]
        rest = (deviation - shape).square().sum(-1) / deviation.square().sum(-1)
        return cls(logs.mean(-1, keepdim=True) + shape, rest)


class _Grown(NamedTuple):
    """The stream's lengths from after the first layer to the end, and how each kind of growth describes them."""

    lengths: Float[Tensor, " point"]
    """Mean over texts and all positions but the first."""
    growths: Mapping[str, Growth]
    of_positions: Mapping[str, Growth]

    @classmethod
    def of(cls, measured: ResidualStream) -> _Grown:
        """Read how a stream grows."""
        lengths, by_position = measured.mean_norms[1:], measured.norms[1:, 1:].T
        return cls(
            lengths,
            {kind: Growth.fit(kind, lengths) for kind in _KINDS},
            {kind: Growth.fit(kind, by_position) for kind in _KINDS},
        )

    def explained(self, kind: str) -> float:
        """Return R squared of a kind of growth."""
        return 1 - self.growths[kind].unexplained.item()

    @property
    def factor(self) -> float:
        """What the exponential multiplies the length with from layer to layer."""
        return self.growths["exponential"].fitted.diff()[0].exp().item()

    def factors(self, n_parts: int) -> list[float]:
        """Return what the length is multiplied with from layer to layer, the geometric mean in so many parts of the depth."""
        steps = self.lengths.double().log().diff()
        return [part.mean().exp().item() for part in steps.tensor_split(n_parts)]

    @property
    def against_others(self) -> float:
        """What the exponential leaves unexplained, over what the best of the powers does."""
        exponential, *others = (self.growths[kind].unexplained.item() for kind in _KINDS)
        return exponential / min(others)

    @property
    def bend(self) -> float:
        """How much length a layer of the later half adds in the mean, over what one of the earlier half does: 1 for a line."""
        earlier, later = self.lengths.diff().tensor_split(2)
        return (later.mean() / earlier.mean()).item()

    @property
    def share_of_positions(self) -> float:
        """Return at which share of the positions the exponential leaves least."""
        left = torch.stack([self.of_positions[kind].unexplained for kind in _KINDS])
        return (left.argmin(0) == 0).double().mean().item()


def run(config: Config, trial: Trial) -> Outcome:
    """Measure the stream of the model on texts drawn from a corpus, and of two models that did not learn."""
    lm = load(config.model, device="cpu")
    tokens = _texts(lm, config, trial.generator("texts"))
    trial.report(0, 3, "the model")
    measured = stream(lm.model, tokens)
    trained = _Grown.of(measured)
    trial.report(1, 3, "untrained")
    untrained = _Grown.of(stream(Transformer(lm.config, generator=trial.generator("weights")), tokens))
    trial.report(2, 3, "with shuffled weights")
    shuffled = _Grown.of(stream(shuffled_model(lm.model, seed=trial.seed), tokens))
    of_models = {"model": trained, "untrained": untrained, "shuffled weights": shuffled}
    return Outcome(
        checks=tuple(_checks(trained, untrained, shuffled)),
        numbers={
            "length after the first layer": trained.lengths[0].item(),
            "length at the end": trained.lengths[-1].item(),
            "first position over the others, at most": measured.first_position()[0],
            **{f"R squared, {kind}, {name}": each.explained(kind) for name, each in of_models.items() for kind in _KINDS},
            **{f"times a layer, {name}": each.factor for name, each in of_models.items()},
            **{
                f"times a layer, {part} third, {name}": factor
                for name, each in of_models.items()
                for part, factor in zip(("first", "middle", "last"), each.factors(3), strict=True)
            },
        },
        arrays={name: each.lengths for name, each in of_models.items()} | {kind: trained.growths[kind].fitted for kind in _KINDS},
    )


def _texts(lm: LanguageModel, config: Config, generator: torch.Generator) -> Int[Tensor, "batch pos"]:
    """Return so many texts of as many tokens each, each from somewhere in the corpus."""
    text, n_characters = read_corpus(config.corpus).text, _CHARACTERS_A_TOKEN * config.n_pos
    begins = torch.randint(len(text) - n_characters, (config.n_windows,), generator=generator).tolist()
    rows = [lm.tokenizer.encode(text[begin : begin + n_characters])[: config.n_pos] for begin in begins]
    return torch.tensor(rows)


def _checks(trained: _Grown, untrained: _Grown, shuffled: _Grown) -> Iterator[Check]:
    controls = "untrained, or shuffled weights"
    yield Check(
        name="variance unexplained by an exponential of depth over that by the best power of a line, of 1/2 to 4", at_most=0.9,
        value=trained.against_others, null=min(untrained.against_others, shuffled.against_others), null_of=f"{controls}: the less",
    )  # fmt: skip
    yield Check(
        name="share of positions at which an exponential leaves least unexplained", at_least=0.9,
        value=trained.share_of_positions, null=max(untrained.share_of_positions, shuffled.share_of_positions),
        null_of=f"{controls}: the greater",
    )  # fmt: skip
    yield Check(
        name="length that a layer of the later half adds over that of one of the earlier half", at_least=2.0,
        value=trained.bend, null=max(untrained.bend, shuffled.bend), null_of=f"{controls}: the greater",
    )  # fmt: skip


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw the lengths with what each kind of growth makes of them, and beside those of models that did not learn."""
    from cutaway.plots import lines

    arrays = outcome.arrays
    layers = list(range(len(arrays["model"])))
    logs = {name: (layers, arrays[name].log10().tolist()) for name in ("model", "untrained", "shuffled weights")}
    fitted = {kind: (layers, (arrays[kind] / torch.tensor(10.0).log()).tolist()) for kind in _DRAWN}
    start = {name: (x, [value - y[0] for value in y]) for name, (x, y) in logs.items()}
    return {
        "Growth with depth": lines(
            {"measured": logs["model"], **fitted}, title="Length of the residual stream, but for the first position",
            x_label="after layer", y_label="log10 of the length",
        ),
        "Growth beside two controls": lines(
            start, title="Growth since the first layer", x_label="after layer", y_label="log10 of the length over the first",
        ),
    }  # fmt: skip


EXPERIMENT = Experiment(
    id="residual-norms",
    title="Residual-stream norms of SmolLM2",
    claim=(
        "The residual stream of SmolLM2 grows faster than a line: its later layers add more than its earlier ones. An exponential of "
        "depth describes it better than a line does, or a power of a line from the square root to the fourth, as a mean and at nine "
        "positions of ten (seeds redraw texts, not models). Neither holds before training, nor with its weights shuffled."
    ),
    source="Heimersheim & Turner 2023, Residual stream norms grow exponentially over the forward pass",
    scales={
        "small": Scale(config=Config(), minutes=0.3, memory_gib=3.0),
        "reduced": Scale(config=Config(n_windows=6, n_pos=24), memory_gib=2.0),
    },
    run=run,
    draw=draw,
    captions={
        "Growth with depth": (
            "The length of the residual stream after each layer, on a logarithmic scale, with the best exponential (a straight line "
            "here), square root, line, and fourth power of a line. The exponential is nearest as a whole."
        ),
        "Growth beside two controls": (
            "The same, from a common start, beside the model before training and with its weights shuffled, whose curves bend as "
            "those of a line or a root do."
        ),
    },
)
