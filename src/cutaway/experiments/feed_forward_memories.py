"""Feed-forward layers as memories: a key is on in contexts that are alike, and its value says what comes next in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway import LanguageModel, Transformer, run_with_cache
from cutaway.experiments.frame import Check, Experiment, Outcome, Scale, Trial
from cutaway.experiments.text_model import TextModel, spread_windows, train
from cutaway.interp.factored import W_U, W_out, read_through

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "Config", "Memories", "run", "draw"]

_AT_ONCE = 128  # windows
_N_SHOWN, _N_CHARACTERS = 10, 16  # keys in the figure, and characters of their contexts
_N_ENDINGS = 8  # characters of two contexts that are compared


@dataclass(frozen=True, kw_only=True)
class Config:
    """The model, and in how much text that it did not learn its keys' contexts are looked for."""

    model: TextModel = field(
        default_factory=lambda: TextModel(n_heads=4, d_mlp=512, act="relu", n_steps=300)  # ReLU, as in the paper
    )
    n_windows: int = 1500
    n_contexts: int = 20
    """The strongest of each key, at most one a window."""
    first: int = 8
    """So many first positions of a window are not looked at: what a key reads there is short."""


class Memories(NamedTuple):
    """The keys of one layer that fire in all their contexts: those in which each is strongest, and what its value says."""

    keys: Int[Tensor, " key"]
    """Their places in the layer: a key that is off in its contexts, which then are any, is left out."""
    rows: Int[Tensor, "context key"]
    """The windows of the contexts, strongest first."""
    positions: Int[Tensor, "context key"]
    """Where in its window each ends."""
    following: Int[Tensor, "context key"]
    """What comes after it."""
    said: Int[Tensor, " key"]
    """The likeliest token by the value's own logits."""
    confidence: Float[Tensor, " key"]
    """The probability that these give it, at the length that a normed stream has."""

    @classmethod
    @torch.no_grad()
    def of(cls, model: Transformer, windows: Int[Tensor, "window pos"], layer: int, *, n_contexts: int, first: int) -> Memories:
        """Find the contexts of a layer's keys in windows, of which the last token only follows."""
        found: list[tuple[Tensor, Tensor]] = []
        for part in windows.split(_AT_ONCE):
            name = f"blocks.{layer}.mlp.post"
            _, cache = run_with_cache(model, part[:, :-1], name, stop_after_layer=layer)
            found.append(cache[name][:, first:].max(dim=1))
        strongest, places = (torch.cat(each) for each in zip(*found, strict=True))  # window key
        strengths, rows = strongest.topk(n_contexts, dim=0)
        keys = (strengths[-1] > 0).nonzero()[:, 0]
        positions = (places.gather(0, rows) + first)[:, keys]
        rows = rows[:, keys]
        values = W_out(model, layer)[keys]
        logits = values @ read_through(model.unembed.ln_final, W_U(model))
        centred = values - values.mean(dim=-1, keepdim=True)
        logits = logits / centred.square().mean(dim=-1, keepdim=True).sqrt()  # as the norm divides
        probs, said = logits.softmax(-1).max(dim=-1)
        return cls(keys, rows, positions, windows[rows, positions + 1], said, probs)

    @property
    def surest(self) -> Int[Tensor, " shown"]:
        """The places of the keys whose values are surest."""
        return self.confidence.topk(min(_N_SHOWN, len(self.keys))).indices

    @property
    def agreement(self) -> float:
        """In which share of the contexts, over all keys, the value's likeliest token is the next; NaN where no key fires."""
        return (self.following == self.said).double().mean().item()

    @property
    def agreement_of_first(self) -> float:
        """The same of each key's strongest context alone, as in the paper."""
        return (self.following[0] == self.said).double().mean().item()

    @property
    def agreement_permuted(self) -> float:
        """The agreement that is expected when every value is given the contexts of one of these keys drawn at random."""
        n_tokens = int(torch.cat([self.following.flatten(), self.said, torch.zeros(1).long()]).max()) + 1
        shares = [torch.bincount(each.flatten(), minlength=n_tokens) / each.numel() for each in (self.following, self.said)]
        return (shares[0].double() @ shares[1].double()).item()

    def shared_ending(self, windows: Int[Tensor, "window pos"]) -> float:
        """Return how many last tokens two contexts of a key have in common, mean over neighbours in strength and keys."""
        return _common_ending(_endings(windows, self.rows, self.positions))


def _endings(
    windows: Int[Tensor, "window pos"], rows: Int[Tensor, "context key"], positions: Int[Tensor, "context key"]
) -> Int[Tensor, "context key last"]:
    """Return the last tokens of contexts, the last first."""
    return windows[rows[..., None], positions[..., None] - torch.arange(_N_ENDINGS)]


def _common_ending(endings: Int[Tensor, "context key last"]) -> float:
    same = (endings[1:] == endings[:-1]).long().cumprod(dim=-1)
    return same.sum(-1).double().mean().item()


def run(config: Config, trial: Trial) -> Outcome:
    """Train a model, find what its keys are strongest in, and hold that against what their values say."""
    if config.first < _N_ENDINGS:
        raise ValueError(f"first is {config.first}; expected at least {_N_ENDINGS}, so that contexts have endings to compare")
    trained = train(trial, config.model)
    windows = spread_windows(trained.held_out, config.model.n_ctx + 1, n_windows=config.n_windows)
    memories, untrained = (
        [
            Memories.of(model, windows, layer, n_contexts=config.n_contexts, first=config.first)
            for layer in range(config.model.n_layers)
        ]
        for model in (trained.lm.model, trained.untrained)
    )
    endings = {
        name: [each.shared_ending(windows) for each in of_layers]
        for name, of_layers in (("trained", memories), ("untrained", untrained))
    }
    by_chance = _random_ending(memories[0], windows, config.first, generator=trial.generator("contexts"))
    return Outcome(
        checks=tuple(_checks(memories, untrained, endings)),
        numbers={
            "nats a character on held-out text": trained.held_out_loss(128),
            **{f"layer {layer}: agreement": each.agreement for layer, each in enumerate(memories)},
            **{f"layer {layer}: agreement, permuted keys": each.agreement_permuted for layer, each in enumerate(memories)},
            **{f"layer {layer}: agreement, strongest context": each.agreement_of_first for layer, each in enumerate(memories)},
            **{f"layer {layer}: keys that fire, share": len(each.keys) / config.model.d_mlp for layer, each in enumerate(memories)},
            **{f"layer {layer}: agreement, untrained": each.agreement for layer, each in enumerate(untrained)},
            **{
                f"layer {layer}: last characters shared, {name}": each
                for name, of_layers in endings.items()
                for layer, each in enumerate(of_layers)
            },
            "last characters shared, random contexts": by_chance,
        },
        arrays={
            "agreement": torch.tensor([each.agreement for each in memories]),
            "permuted keys": torch.tensor([each.agreement_permuted for each in memories]),
            "untrained": torch.tensor([each.agreement for each in untrained]),
            "shown keys": memories[-1].keys[memories[-1].surest],
        },
        texts=_texts(trained.lm, memories[-1], windows),
    )


def _random_ending(memories: Memories, windows: Int[Tensor, "window pos"], first: int, *, generator: torch.Generator) -> float:
    """Return what as many contexts drawn at random have in common."""
    shape = memories.rows.shape
    rows = torch.randint(len(windows), shape, generator=generator)
    positions = torch.randint(first, windows.shape[1] - 1, shape, generator=generator)
    return _common_ending(_endings(windows, rows, positions))


def _checks(memories: list[Memories], untrained: list[Memories], endings: Mapping[str, list[float]]) -> Iterator[Check]:
    over_permuted, over_permuted_untrained = (_mean(each) / _mean(each, "agreement_permuted") for each in (memories, untrained))
    yield Check(
        name="how often values' likeliest characters follow their keys' contexts, over the same with keys permuted, all layers",
        at_least=3.0,
        value=over_permuted, null=over_permuted_untrained, null_of="untrained",
    )  # fmt: skip
    by_layer, by_layer_untrained = (
        torch.tensor([each.agreement / each.agreement_permuted for each in of_layers]) for of_layers in (memories, untrained)
    )
    yield Check(
        name="how often values' likeliest characters follow their keys' contexts, over the same with keys permuted, lowest layer",
        at_least=2.0,
        value=by_layer.min().item(), null=by_layer_untrained.max().item(), null_of="untrained, highest layer",
    )  # fmt: skip
    yield Check(
        name="number of last characters that two contexts of a key share, mean over layers", at_least=2.5,
        value=sum(endings["trained"]) / len(memories), null=sum(endings["untrained"]) / len(memories), null_of="untrained",
    )  # fmt: skip


def _mean(memories: list[Memories], what: str = "agreement") -> float:
    return sum(float(getattr(each, what)) for each in memories) / len(memories)


def _texts(lm: LanguageModel, memories: Memories, windows: Int[Tensor, "window pos"]) -> dict[str, list[str]]:
    """Return of the keys whose values are surest the strongest context with what follows, and what the value says."""
    surest = memories.surest
    rows, ends = memories.rows[0, surest], memories.positions[0, surest]
    places = ends[:, None] + torch.arange(2 - _N_CHARACTERS, 2)
    contexts = windows[rows[:, None], places.clamp_min(0)]
    return {
        "contexts": [lm.tokenizer.decode(context) for context in contexts.tolist()],
        "said": [lm.tokenizer.decode([token]) for token in memories.said[surest].tolist()],
    }


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw the agreement by layer beside both nulls, and contexts of the last layer's surest keys with what their values say."""
    from cutaway.plots import lines, token_grid

    arrays = outcome.arrays
    layers = list(range(len(arrays["agreement"])))
    names = {"agreement": "keys and their values", "permuted keys": "permuted keys", "untrained": "untrained"}
    contexts, said = outcome.texts["contexts"] or [" " * _N_CHARACTERS], outcome.texts["said"] or [""]
    keys = [f"key {key}" for key in arrays["shown keys"].tolist()] or ["no key fires"]
    n_before = _N_CHARACTERS - 1
    is_right = torch.zeros(len(said), n_before + 2)
    is_right[:, -2:] = torch.tensor([context[-1] == value for context, value in zip(contexts, said, strict=True)])[:, None].float()
    return {
        "Agreement of keys and values": lines(
            {said: (layers, arrays[name].tolist()) for name, said in names.items()},
            title="How often a value's likeliest character comes next where its key is strongest", x_label="layer",
            y_label="share of contexts",
        ),
        "Strongest contexts of some keys": token_grid(
            [[*context, value] for context, value in zip(contexts, said, strict=True)], is_right.numpy(),
            rows=keys,
            columns=[*(str(place - n_before) for place in range(n_before)), "next", "value"],
            title="Strongest contexts of the last layer's keys with the surest values", label="1: the value's is the next",
            column_title="characters before the next, the next, and the value's",
        ),
    }  # fmt: skip


EXPERIMENT = Experiment(
    id="feed-forward-memories",
    title="Feed-forward layers as key-value memories",
    claim=(
        "In text held out, the contexts in which a key of a feed-forward layer is strongest end more alike than before training, and "
        "the likeliest character by its value comes next there at least three times as often as by another key's value. In "
        "every layer it is at least twice as often; ten times as often, the bound first set after the paper, is not reached."
    ),
    source="Geva et al. 2021, Transformer Feed-Forward Layers Are Key-Value Memories",
    scales={
        "small": Scale(config=Config(), minutes=0.3),
        "reduced": Scale(
            config=Config(
                model=TextModel(n_heads=4, d_mlp=256, act="relu", n_steps=180), n_windows=1200, n_contexts=10,
            ),
        ),
    },
    run=run,
    draw=draw,
    captions={
        "Agreement of keys and values": (
            "How often the character that a value makes likeliest really comes next, where its key is strongest. With the values of "
            "other keys (permuted keys), and before training, it does so far more rarely."
        ),
        "Strongest contexts of some keys": (
            "A row is a key: the text where it is strongest, the character that comes next there, and the one that its value makes "
            "likeliest, in blue where both are the same."
        ),
    },
)  # fmt: skip
