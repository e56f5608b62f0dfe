"""Head pruning: some heads of a model cost little to take out, and a gradient tells which, as the size of weights does not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway import Transformer
from cutaway.experiments.frame import Check, Experiment, Outcome, Scale, Trial
from cutaway.experiments.text_model import TextModel, spread_windows, train
from cutaway.interp.ablation import ablate, ablate_heads, gradient_importance
from cutaway.interp.factored import ov_circuit
from cutaway.interp.ranks import rank_correlation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "Config", "run", "draw"]

_N_SHUFFLES = 2000
_N_RANKED = 3  # orders before the random ones
_N_POINTS = 8  # on a curve of pruning, beside none and all


@dataclass(frozen=True, kw_only=True)
class Config:
    """The model, how much of its heads is pruned, and on how much text."""

    model: TextModel = field(default_factory=lambda: TextModel(n_heads=16, n_steps=300, batch_size=24))
    share: float = 0.3
    """Of the heads, that is pruned."""
    n_windows: int = 64
    """Of the text learnt, from which gradients are, and as many of the text held out, on which the loss is measured."""
    n_random: int = 10
    """Random orders to prune in."""


class _Ranked(NamedTuple):
    """What a model's heads matter: by gradient on text that it learnt, and by what is lost without each on text that it did not."""

    by_gradient: Float[Tensor, " head"]
    """Not divided by its length over each layer's heads, as Michel et al. do: all heads are ranked together."""
    by_weights: Float[Tensor, " head"]
    """The Frobenius norm of what a head reads and writes, W_V W_O."""
    cost: Float[Tensor, " head"]

    def agreement(self, importance: Float[Tensor, " head"]) -> float:
        """Return the rank correlation of an importance with what is lost without each head."""
        return rank_correlation(importance, self.cost) or 0.0


def run(config: Config, trial: Trial) -> Outcome:
    """Train a model, rank its heads by gradient, and prune them in several orders."""
    trained = train(trial, config.model)
    model, n_pos = trained.lm.model, config.model.n_ctx
    learnt, held_out = (spread_windows(text, n_pos, n_windows=config.n_windows) for text in (trained.learnt, trained.held_out))
    ranked, untrained = (_rank(each, learnt, held_out) for each in (model, trained.untrained))
    order = ranked.by_gradient.argsort(stable=True)
    orders = {
        "least important first": order,
        "most important first": order.flip(0),
        "smallest weights first": ranked.by_weights.argsort(stable=True),
    }
    orders |= {
        f"random {number}": torch.randperm(len(order), generator=trial.generator("order", number))
        for number in range(config.n_random)
    }
    counts = _counts(len(order), config.share)
    costs = _pruned(model, held_out, orders, counts)
    at_share = costs[:, counts.index(round(config.share * len(order)))]
    by_chance = _shuffled(ranked, generator=trial.generator("shuffles"))
    return Outcome(
        checks=tuple(_checks(config, ranked, at_share)),
        numbers={
            "nats a character on held-out text": trained.held_out_loss(config.n_windows),
            "heads": len(order),
            "heads pruned": round(config.share * len(order)),
            **_interval(ranked.agreement(ranked.by_gradient), len(order)),
            "rank correlation, untrained": untrained.agreement(untrained.by_gradient),
            "rank correlation, gradients divided by their length over each layer": ranked.agreement(
                gradient_importance(model, learnt, normalize=True).flatten()
            ),
            "rank correlation that 1 of 20 random orders exceeds": by_chance.quantile(0.95).item(),
            "nats lost, random heads, the median": at_share[_N_RANKED:].median().item(),
            "nats lost, most important heads": at_share[1].item(),
            "nats lost, heads of the smallest weights": at_share[2].item(),
        },
        arrays={
            "by gradient": ranked.by_gradient.reshape(-1, config.model.n_heads),
            "cost": ranked.cost.reshape(-1, config.model.n_heads),
            "counts": torch.tensor(counts),
            "costs": costs,
        },
    )


def _rank(model: Transformer, learnt: Int[Tensor, "window pos"], held_out: Int[Tensor, "window pos"]) -> _Ranked:
    alone = ablate(model, held_out)
    weights = torch.cat([ov_circuit(model, layer).norm().detach() for layer in range(model.config.n_layers)])
    return _Ranked(gradient_importance(model, learnt).flatten(), weights, (alone.scores - alone.base).mean(dim=1))


def _counts(n_heads: int, share: float) -> list[int]:
    """Return how many heads are pruned at each point of a curve, from none to all, the share asked for among them."""
    return sorted({*(round(n_heads * place / _N_POINTS) for place in range(_N_POINTS + 1)), round(share * n_heads)})


def _pruned(
    model: Transformer, tokens: Int[Tensor, "window pos"], orders: Mapping[str, Int[Tensor, " head"]], counts: list[int]
) -> Float[Tensor, "order count"]:
    """Return the nats a token that are lost when the first heads of each order write nothing."""
    n_heads = model.config.n_heads
    sets = {
        f"{name}, {count}": [divmod(head, n_heads) for head in order[:count].tolist()]
        for name, order in orders.items()
        for count in counts
    }
    ablated = ablate_heads(model, sets, tokens)
    return (ablated.scores - ablated.base).mean(dim=1).reshape(len(orders), len(counts))


def _shuffled(ranked: _Ranked, *, generator: torch.Generator) -> Float[Tensor, " shuffle"]:
    """Return the rank correlations of random orders of the heads with what is lost without each."""
    n_heads = len(ranked.cost)
    found = [
        rank_correlation(torch.randperm(n_heads, generator=generator).double(), ranked.cost) or 0.0 for _ in range(_N_SHUFFLES)
    ]
    return torch.tensor(found)


def _interval(correlation: float, n_values: int) -> dict[str, float]:
    """Return between which values Spearman's correlation of so many pairs lies with 95 % confidence (Bonett & Wright 2000)."""
    error = math.sqrt((1 + correlation**2 / 2) / (n_values - 3))
    centre = math.atanh(correlation) if abs(correlation) < 1 else math.copysign(math.inf, correlation)
    low, high = (math.tanh(centre + sign * 1.96 * error) for sign in (-1, 1))
    return {"rank correlation, 95 % interval from": low, "rank correlation, 95 % interval to": high}


def _checks(config: Config, ranked: _Ranked, lost: Float[Tensor, " order"]) -> Iterator[Check]:
    share, (by_gradient, _, by_weights, *at_random) = f"{100 * config.share:g} %", lost.tolist()
    best = max(min(at_random), 0.0) or math.nan  # of draws that cost nothing there is no share, and the check fails
    yield Check(
        name="rank correlation of a head's importance by gradient with the loss added without it", at_least=0.7,
        value=ranked.agreement(ranked.by_gradient), null=ranked.agreement(ranked.by_weights), null_of="size of the weights",
    )  # fmt: skip
    yield Check(
        name=f"loss added without the {share} of heads that matter least by gradient, nats", at_most=0.05,
        value=by_gradient, null=best, null_of="random heads, the best draw",
    )  # fmt: skip
    yield Check(
        name=f"loss added without the {share} that matter least over that without a random {share}, the best draw", at_most=0.5,
        value=by_gradient / best, null=by_weights / best, null_of="heads of the smallest weights",
    )  # fmt: skip


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw what pruning costs in each order, both importances head by head, and how they agree."""
    from cutaway.plots import bands, heatmap, scatter

    arrays = outcome.arrays
    counts, costs = arrays["counts"].tolist(), arrays["costs"]
    (first, last, smallest), at_random = costs[:_N_RANKED].tolist(), costs[_N_RANKED:]
    of_layers = arrays["by gradient"], arrays["cost"]
    rows, columns = ([str(place) for place in range(size)] for size in of_layers[0].shape)
    shares = [100 * count / counts[-1] for count in counts]
    return {
        "Loss as heads are pruned": bands(
            {
                "least important first": (shares, first, first, first),
                "random order": (shares, *(values.tolist() for values in (at_random.median(0).values, *at_random.aminmax(dim=0)))),
                "smallest weights first": (shares, smallest, smallest, smallest),
                "most important first": (shares, last, last, last),
            },
            title="What pruning heads costs on text held out", x_label="heads pruned, %", y_label="nats lost a character",
        ),
        "Importance by gradient": heatmap(
            of_layers[0].numpy(), rows=rows, columns=columns, title="How much each head matters by its gradient",
            row_title="layer", column_title="head", label="|gradient of the loss|, nats",
        ),
        "Importance and loss without a head": scatter(
            {
                f"layer {layer}": (gradient.tolist(), cost.tolist())
                for layer, (gradient, cost) in enumerate(zip(*of_layers, strict=True))
            },
            title="Each head's gradient on text trained on, and its worth on text held out",
            x_label="importance by gradient, nats", y_label="nats a character lost without it",
        ),
    }  # fmt: skip


EXPERIMENT = Experiment(
    id="head-pruning",
    title="Head importance and pruning",
    claim=(
        "The gradient of a switch on each head, taken on text learnt, ranks heads much as taking each out of text held out does, and "
        "the 30 % of least gradient together cost less than half of what the best of ten random draws costs; the size of their "
        "weights tells neither."
    ),
    source="Michel et al. 2019, Are Sixteen Heads Really Better than One?",
    scales={
        "small": Scale(config=Config(), minutes=0.6),
        "reduced": Scale(
            config=Config(model=TextModel(n_heads=16, n_steps=150, batch_size=24), n_windows=32, n_random=3),
        ),
    },
    run=run,
    draw=draw,
    captions={
        "Loss as heads are pruned": (
            "Heads are taken out in four orders. By gradient, the least important first, much can go at little cost; in the "
            "opposite order the loss rises at once. The band spans random orders."
        ),
        "Importance by gradient": (
            "A cell is a head: how strongly the loss on text that was trained on would change if the head were turned down a "
            "little."
        ),
        "Importance and loss without a head": (
            "Each point is a head. The gradient, from text that was trained on, foretells what is lost on text held out when the "
            "head is taken out."
        ),
    },
)
