"""Attention, drawn and then put to the test: how much of what it does is a matter of where tokens stand, and not of which they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import mean
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway import Transformer, edits, metrics, run_with_cache, sweep
from cutaway.experiments.frame import Check, Experiment, Outcome, Scale, Trial
from cutaway.experiments.text_model import TextModel, spread_windows, train
from cutaway.interp.attention import entropy_share, head_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "Config", "run", "draw"]

_N_SHOWN = 24  # characters of the text in the figure


@dataclass(frozen=True, kw_only=True)
class Config:
    """The model of text, and on how much of the text that it did not learn its heads are looked at."""

    model: TextModel = field(default_factory=lambda: TextModel(n_layers=2))
    n_windows: int = 128
    """Half of them say where heads look; what it costs to change that is measured on the others."""
    furthest: int = 4
    """How many characters back a diagonal may be."""


class _Diagonals(NamedTuple):
    """Where each head looks: of all distances from 1 the one it attends to most, and how much it does."""

    distance: Int[Tensor, "layer head"]
    attention: Float[Tensor, "layer head"]


class _Lost(NamedTuple):
    """Nats a token lost with other patterns, in all heads at once and in one at a time."""

    averages: float
    swapped: float
    """With the averages of the layer's other heads: the mean over which head's come in the place of which."""
    turned: float
    """With the averages turned round, so that what was nearest is furthest."""
    uniform: float
    by_head: Float[Tensor, "layer head"]
    """With the average in one head."""


def run(config: Config, trial: Trial) -> Outcome:
    """Train the model, see where its heads look, and put what is the same on every text in the place of their patterns."""
    trained = train(trial, config.model)
    windows = spread_windows(trained.held_out, config.model.n_ctx, n_windows=config.n_windows)
    look, judge = windows[::2], windows[1::2]
    model = trained.lm.model
    patterns, untrained = _patterns(model, look), _patterns(trained.untrained, look)
    found, null = _diagonals(patterns, config.furthest), _diagonals(untrained, config.furthest)
    averages = patterns.mean(1)
    lost = _lost(model, judge, averages)
    own, swapped, turned = (1 - each / lost.uniform for each in (lost.averages, lost.swapped, lost.turned))
    entropies = {name: entropy_share(each).nanmean().item() for name, each in (("trained", patterns), ("untrained", untrained))}
    shown = judge[0, :_N_SHOWN]
    layer, head = divmod(int(found.attention.argmax()), config.model.n_heads)
    return Outcome(
        checks=(
            Check(
                name="entropy of attention over that of attention to all alike", at_most=0.75,
                value=entropies["trained"], null=entropies["untrained"], null_of="untrained",
            ),
            Check(
                name="share of its attention that the most regular head gives to one distance back", at_least=0.3,
                value=found.attention.max().item(), null=null.attention.max().item(), null_of="untrained",
            ),
            Check(
                name="share of what attention gains over attention to all alike that average patterns keep", at_least=0.3, at_most=0.7,
                value=own, null=turned, null_of="averages with near and far exchanged",
            ),
            Check(
                name="of that share, how much the averages of the layer's other heads keep", at_least=0.5,
                value=swapped / own, null=turned / own, null_of="averages with near and far exchanged",
            ),
        ),
        numbers={
            "the clearest head's layer": layer,
            "the clearest head": head,
            "characters back that it looks": found.distance[layer, head].item(),
            "share that the averages of the layer's other heads keep": swapped,
            "nats lost with averages for patterns": lost.averages,
            "nats lost with attention to all alike": lost.uniform,
            "nats a character on text held out": trained.held_out_loss(config.n_windows),
        },
        arrays={
            "patterns": _patterns(model, shown[None])[:, 0],
            "distances": found.distance,
            "attention": found.attention,
            "averaged heads": lost.by_head,
        },
        texts={"shown": list(trained.lm.tokenizer.decode(shown.tolist()))},
    )  # fmt: skip


@torch.no_grad()
def _patterns(model: Transformer, tokens: Int[Tensor, "window pos"]) -> Float[Tensor, "layer window head q_pos k_pos"]:
    _, cache = run_with_cache(model, tokens, names="blocks.*.attn.pattern")
    return torch.stack([cache["pattern", layer] for layer in range(model.config.n_layers)])


def _diagonals(patterns: Float[Tensor, "layer window head q_pos k_pos"], furthest: int) -> _Diagonals:
    """Return where heads look; queries before `furthest` do not count, as they do not have every distance."""
    by_distance = torch.stack(
        [patterns.diagonal(-back, -2, -1)[..., furthest - back :].mean((1, 3)) for back in range(1, furthest + 1)]
    )
    most = by_distance.max(0)
    return _Diagonals(most.indices + 1, most.values)


def _lost(model: Transformer, tokens: Int[Tensor, "window pos"], averages: Float[Tensor, "layer head q_pos k_pos"]) -> _Lost:
    """Return the nats a token that other patterns cost."""
    n_layers, n_heads, n_pos, _ = averages.shape
    uniform = _uniform(n_pos).to(averages).expand_as(averages)
    others = [averages.roll(places, dims=1) for places in range(1, n_heads)]
    at_once = [averages, _turned(averages), uniform, *others]
    variants = [[edits.replace(_name(layer), patterns[layer]) for layer in range(n_layers)] for patterns in at_once]
    variants += [
        [edits.replace(_name(layer), averages[layer, head], head=head)] for layer in range(n_layers) for head in range(n_heads)
    ]
    scores = sweep(model, tokens, [[], *variants], metrics.loss(tokens)).mean(1)
    lost = scores[1:] - scores[0]
    kept, turned, alike, *swapped = lost[: len(at_once)].tolist()
    return _Lost(kept, mean(swapped), turned, alike, lost[len(at_once) :].reshape(n_layers, n_heads))


def _name(layer: int) -> str:
    return f"blocks.{layer}.attn.pattern"


def _turned(patterns: Float[Tensor, "*batch q_pos k_pos"]) -> Float[Tensor, "*batch q_pos k_pos"]:
    """Return patterns that attend to the first token as these do to the query's own, to the second as to the one before, and so on."""
    place = torch.arange(patterns.shape[-1])
    back = (place[:, None] - place).clamp_min(0)
    return patterns.gather(-1, back.expand_as(patterns)).tril()


def _uniform(n_pos: int) -> Float[Tensor, "q_pos k_pos"]:
    """Return the pattern of attention to all tokens so far alike."""
    seen = torch.ones(n_pos, n_pos).tril()
    return seen / seen.sum(1, keepdim=True)


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw every head's attention on one text, and what is lost with other patterns in its place."""
    from cutaway.plots import attention, heatmap

    arrays = outcome.arrays
    n_layers, n_heads = arrays["attention"].shape
    letters = outcome.texts["shown"]
    rows, columns = [f"layer {layer}" for layer in range(n_layers)], [f"head {head}" for head in range(n_heads)]
    titles = [
        f"{head_label(layer, head)}: {arrays['attention'][layer, head]:.0%} to {arrays['distances'][layer, head]} back"
        for layer in range(n_layers)
        for head in range(n_heads)
    ]
    averaged = arrays["averaged heads"]
    return {
        "Attention of every head": attention(
            arrays["patterns"].flatten(0, 1).numpy(), tokens=letters, titles=titles, title="Every head on text held out"
        ),
        "Loss with average patterns": heatmap(
            averaged.numpy(), rows=rows, columns=columns, title="One head at a time with its average pattern", signed=True,
            label="nats a character lost", texts=[[f"{value:.3f}" for value in row] for row in averaged.tolist()],
        ),
    }  # fmt: skip


EXPERIMENT = Experiment(
    id="attention-patterns",
    title="Attention patterns, drawn and tested",
    claim=(
        "Training makes attention sharp, and some head gives much of it to one distance back. The patterns' averages over texts, which "
        "know where tokens stand and not which they are, keep part of what attention gains over looking at all alike, from 0.3 to "
        "0.7 of it. At least half of that part is not a matter of the head: averages of the layer's other heads keep it, averages with "
        "near and far exchanged do not."
    ),
    source="Hassid et al. 2022, How Much Does Attention Actually Attend?; Clark et al. 2019, What Does BERT Look At?",
    scales={
        "small": Scale(config=Config(), minutes=0.3),
        "reduced": Scale(config=Config(model=TextModel(n_layers=2, n_steps=250), n_windows=32)),
    },
    run=run,
    draw=draw,
    captions={
        "Attention of every head": (
            "Each row is a character and shows which earlier ones it attends to. A panel's title says how many characters back the "
            "head looks most regularly, and how much of its attention goes there."
        ),
        "Loss with average patterns": (
            "What is lost when one head attends by its average over texts, which knows where characters stand and not which they "
            "are: the deeper the blue, the more that head goes by the characters themselves."
        ),
    },
)
