"""Induction heads: two layers learn to go on as it went last time; one layer does not in as many steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway import LanguageModel, ModelConfig, Transformer, heads, metrics, run_with_cache
from cutaway.experiments.frame import Check, Curves, Experiment, Outcome, Recipe, Scale, Trial
from cutaway.experiments.letters import letters
from cutaway.experiments.repeated_segments import repeated_segments
from cutaway.interp.ablation import ablate_heads
from cutaway.interp.attention import head_label
from cutaway.interp.heads import HeadKind, HeadScores, RepeatedTokens, repeated_tokens
from cutaway.interp.path_patching import PathPatching, patch_paths
from cutaway.training.step import next_token_loss
from cutaway.watching.rises import find_rise, random_overlap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "Config", "run", "draw"]

_N_SHOWN = 12  # tokens of a copy in the figure
_RISING = {"prefix matching": "prefix", "in-context learning": "in context"}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The models, which differ in their layers alone, and how they are trained."""

    d_vocab: int = 64
    n_ctx: int = 64
    d_model: int = 64
    n_heads: int = 4
    n_steps: int = 1600
    batch_size: int = 64
    watch_every: int = 20
    n_sequences: int = 64
    """On how many repeated sequences a trained model is judged."""


class _Trained(NamedTuple):
    """A model, its way, and what its heads do in the end."""

    model: Transformer
    curves: Curves
    scores: HeadScores

    @property
    def prefix(self) -> float:
        return self.scores.scores["induction"].max().item()

    @property
    def losses(self) -> tuple[float, float]:
        """Nats a token on the first and on the second copy."""
        return self.scores.both_losses()


class _Found(NamedTuple):
    """Who is thought to make the circuit, as (layer, head), and the other heads of the first layer."""

    induction: list[tuple[int, int]]
    previous: list[tuple[int, int]]
    others: list[tuple[int, int]]


def run(config: Config, trial: Trial) -> Outcome:
    """Train both models; judge what they can, when they learnt it, and of which heads it is made."""
    seed = trial.seed_for("judged")
    untrained = heads.detect_heads(_model(config, trial, n_layers=2), n_sequences=config.n_sequences, seed=seed)
    two, one = _train(config, trial, n_layers=2), _train(config, trial, n_layers=1)
    found = _find(two.scores)
    undone, edges = _undone(two, found, seed=trial.seed_for("ablated")), _edges(two, seeds=(seed, trial.seed_for("other tokens")))
    shown = repeated_tokens(two.model, n_sequences=1, seq_length=_N_SHOWN, seed=two.scores.drawn.seed)
    return Outcome(
        checks=(
            *_ability_checks(two, one, untrained),
            *_course_checks(two.curves, one.curves, config.n_steps),
            *_circuit_checks(undone, edges, found),
        ),
        numbers=_numbers(two, one, found, undone) | _edge_numbers(edges, found),
        arrays=_arrays(two, one, found, undone, edges, shown),
        texts={"shown": list(letters(config.d_vocab).decode(shown.tokens[0].tolist()))},
        models={
            name: LanguageModel(each.model, letters(config.d_vocab))
            for name, each in (("induction-2l", two), ("induction-1l", one))
        },
    )


def _model(config: Config, trial: Trial, *, n_layers: int) -> Transformer:
    """Return an untrained model of attention alone. Its embedding starts large: what a head moves is there from the beginning."""
    shape = ModelConfig(
        d_vocab=config.d_vocab, n_ctx=config.n_ctx, n_layers=n_layers, n_heads=config.n_heads, d_model=config.d_model, d_mlp=0,
        position="rotary", rotary_base=100.0, tie_embeddings=False,
    )  # fmt: skip
    model = Transformer(shape, generator=trial.generator("weights", n_layers))
    torch.nn.init.normal_(model.embed.W_E, std=0.5, generator=trial.generator("embedding", n_layers))
    return model


def _train(config: Config, trial: Trial, *, n_layers: int) -> _Trained:
    model = _model(config, trial, n_layers=n_layers)

    def loss(step: int) -> Float[Tensor, ""]:
        generator = trial.generator("batch", step)
        tokens = repeated_segments(config.batch_size, config.n_ctx, d_vocab=config.d_vocab, generator=generator)
        return next_token_loss(model, tokens[:, :-1], tokens[:, 1:])

    recipe = Recipe(
        n_steps=config.n_steps, learning_rate=3e-3, beta2=0.98, n_warmup_steps=100, n_decay_steps=round(0.3 * config.n_steps)
    )
    seed = trial.seed_for("watched")
    name = f"{n_layers} layer{'s' * (n_layers > 1)}"
    curves = trial.learn(name, model, loss, recipe, watch=lambda _: _seen(model, seed), watch_every=config.watch_every)
    return _Trained(model, curves, heads.detect_heads(model, n_sequences=config.n_sequences, seed=trial.seed_for("judged")))


def _seen(model: Transformer, seed: int) -> Mapping[str, float]:
    scores = heads.detect_heads(model, n_sequences=16, seed=seed)
    first, second = scores.both_losses()
    return {
        "prefix": scores.scores["induction"].max().item(),
        "previous": scores.scores["previous"].max().item(),
        "first copy": first,
        "second copy": second,
        "in context": second - first,
    }


def _find(scores: HeadScores) -> _Found:
    previous, induction = _of_kind(scores, "previous", layer=0), _of_kind(scores, "induction", layer=1)
    others = [(0, head) for head in range(scores.scores["previous"].shape[1]) if (0, head) not in previous]
    return _Found(induction, previous, others)


def _of_kind(scores: HeadScores, kind: HeadKind, *, layer: int) -> list[tuple[int, int]]:
    """Return the heads of a layer that are of a kind, or the one that is nearest to it."""
    ranked = [each for each in scores.top(scores.scores[kind].numel(), kind) if each.layer == layer]
    found = [each for each in ranked if each.score >= scores.threshold] or ranked[:1]
    return [(each.layer, each.head) for each in found]


def _undone(two: _Trained, found: _Found, *, seed: int) -> dict[str, float]:
    """Return which share of what the second copy gains is lost without some heads, each writing its mean instead.

    The tokens are drawn anew: the heads were not chosen by them. NaN where there are no such heads.
    """
    sets = {"induction heads": found.induction, "previous-token head": found.previous, "rest of layer 0": found.others}
    sets |= {head_label(layer, head): [(layer, head)] for layer in (0, 1) for head in range(two.model.config.n_heads)}
    drawn = repeated_tokens(two.model, n_sequences=len(two.scores.drawn.tokens), seed=seed)
    ablated = ablate_heads(two.model, sets, drawn.tokens, how="mean", metric=_second_copy(drawn))
    first, second = heads.detect_heads(two.model, n_sequences=len(drawn.tokens), seed=seed).both_losses()
    shares = ((ablated.scores - ablated.base).mean(-1) / (first - second)).tolist()
    return {name: share if sets[name] else math.nan for name, share in zip(sets, shares, strict=True)}


def _second_copy(drawn: RepeatedTokens) -> metrics.Metric:
    return metrics.loss(drawn.tokens, first=drawn.start + drawn.seq_length)


def _edges(two: _Trained, *, seeds: tuple[int, int]) -> PathPatching:
    """Return what it does to the second copy when one input of a later head hears one earlier head as it is on other tokens."""
    drawn, other = (repeated_tokens(two.model, n_sequences=16, seed=seed) for seed in seeds)
    n_heads = range(two.model.config.n_heads)
    return patch_paths(
        two.model, drawn.tokens, other.tokens, _second_copy(drawn),
        senders=[head_label(0, head) for head in n_heads],
        receivers=[f"{head_label(1, head)}.{name}" for head in n_heads for name in "qkv"],
    )  # fmt: skip


def _lead(edges: PathPatching, found: _Found, name: str) -> float:
    """Return the strongest effect of the previous-token head through this input of an induction head over the others' to any keys."""
    layer = [(1, head) for head in range(edges.effects.shape[0])]
    return _ratio(_strongest(edges, found.previous, found.induction, name), _strongest(edges, found.others, layer, "k"))


def _ratio(one: float, other: float) -> float:
    return one / other if other else math.nan


def _strongest(edges: PathPatching, senders: list[tuple[int, int]], readers: list[tuple[int, int]], name: str) -> float:
    """Return the largest change in nats that any of these heads makes through one input of any of those; NaN for no heads."""
    wanted = {(head_label(*sender), f"{head_label(*reader)}.{name}") for sender in senders for reader in readers}
    return max((abs(edge.effect) for edge in edges.ranked() if (edge.sender, edge.receiver) in wanted), default=math.nan)


def _ability_checks(two: _Trained, one: _Trained, untrained: HeadScores) -> Iterator[Check]:
    names = {"two layers": two, "one layer": one}
    prefix = {name: each.prefix for name, each in names.items()}
    loss = {name: each.losses[1] for name, each in names.items()}
    yield Check(
        name="two layers: prefix matching of the best head", at_least=0.75,
        value=prefix["two layers"], null=untrained.scores["induction"].max().item(), null_of="untrained",
    )  # fmt: skip
    yield Check(
        name="two layers: loss on the second copy, nats a token", at_most=1.0,
        value=loss["two layers"], null=loss["one layer"], null_of="one layer",
    )  # fmt: skip
    yield Check(
        name="one layer: prefix matching of the best head", at_most=0.15,
        value=prefix["one layer"], null=prefix["two layers"], null_of="two layers",
    )  # fmt: skip
    yield Check(
        name="one layer: loss on the second copy, nats a token", at_least=2.5,
        value=loss["one layer"], null=loss["two layers"], null_of="two layers",
    )  # fmt: skip


def _course_checks(curves: Curves, of_one: Curves, n_steps: int) -> Iterator[Check]:
    """Yield the checks of what happens when: both scores must rise in one window, and go together."""
    prefix, in_context = curves["prefix"], curves["in context"]
    rises = [rise for curve in (prefix, in_context) if (rise := find_rise(*curve.tolist()))]
    overlap, by_chance = (
        (rises[0].overlap(rises[1]), random_overlap(rises[0], rises[1], n_steps)) if len(rises) == 2 else (0.0, 0.0)
    )
    yield Check(
        name="overlap of the steps in which prefix matching and in-context learning rise", at_least=0.5,
        value=overlap, null=by_chance, null_of="random windows",
    )  # fmt: skip
    yield Check(
        name="correlation of prefix matching with in-context learning while training", at_least=0.8,
        value=_correlation(prefix[1], -in_context[1]), null=_correlation(of_one["prefix"][1], -of_one["in context"][1]),
        null_of="one layer",
    )  # fmt: skip


def _correlation(one: Float[Tensor, " point"], other: Float[Tensor, " point"]) -> float:
    return torch.corrcoef(torch.stack([one, other]))[0, 1].item()


def _circuit_checks(undone: Mapping[str, float], edges: PathPatching, found: _Found) -> Iterator[Check]:
    """Yield the checks of who does it: the two kinds of heads, the one through the keys of the other, and nobody else."""
    others = undone["rest of layer 0"]
    for name in ("induction heads", "previous-token head"):
        yield Check(
            name=f"share of the second copy's gain undone without the {name}",
            at_least=0.6,
            value=undone[name],
            null=others,
            null_of="rest of layer 0",
        )
    yield Check(
        name="share of the second copy's gain undone without the rest of layer 0", at_most=0.5,
        value=others, null=undone["previous-token head"], null_of="previous-token head",
    )  # fmt: skip
    yield Check(
        name="effect of the previous-token head on induction heads' keys over that of other heads on keys", at_least=2.0,
        value=_lead(edges, found, "k"), null=_lead(edges, found, "q"), null_of="to induction queries instead",
    )  # fmt: skip


def _numbers(two: _Trained, one: _Trained, found: _Found, undone: Mapping[str, float]) -> dict[str, float]:
    rises = {name: find_rise(*two.curves[curve].tolist()) for name, curve in _RISING.items()}
    windows = {name: (rise.first, rise.last) if rise else (math.nan, math.nan) for name, rise in rises.items()}
    n_steps = two.curves["prefix"][0, -1].item()
    return {
        "two layers: loss on the first copy": two.losses[0],
        "one layer: loss on the first copy": one.losses[0],
        "induction heads": len(found.induction),
        "previous-token heads": len(found.previous),
        "previous-token score of the best head": two.scores.scores["previous"][0].max().item(),
        **{f"{name} begins to rise at step": first for name, (first, _) in windows.items()},
        **{f"{name} has risen at step": last for name, (_, last) in windows.items()},
        **{f"share of training in which {name} rises": (last - first) / n_steps for name, (first, last) in windows.items()},
        **{f"gain undone without {name}": share for name, share in undone.items() if name.startswith("L")},
    }


def _edge_numbers(edges: PathPatching, found: _Found) -> dict[str, float]:
    """Return what the strongest edges change, in nats on the second copy."""
    inputs = {"queries": "q", "keys": "k", "values": "v"}
    senders = {"previous-token head": found.previous, "rest of layer 0": found.others}
    nats = {
        f"{sender} to induction {reader}, nats": _strongest(edges, these, found.induction, name)
        for sender, these in senders.items()
        for reader, name in inputs.items()
    }
    to_keys, to_values = (nats[f"previous-token head to induction {reader}, nats"] for reader in ("keys", "values"))
    return nats | {"previous-token head: effect on induction keys over that on induction values": _ratio(to_keys, to_values)}


def _arrays(
    two: _Trained, one: _Trained, found: _Found, undone: Mapping[str, float], edges: PathPatching, shown: RepeatedTokens
) -> dict[str, Float[Tensor, "..."]]:
    """Return what the figures are drawn of: curves, the patterns of two heads on one short sequence, shares, edges."""
    _, cache = run_with_cache(two.model, shown.tokens, names="blocks.*.attn.pattern")
    pair = [found.previous[0], found.induction[0]]
    return {
        **{f"two {name}": two.curves[name] for name in two.curves.points},
        **{f"one {name}": one.curves[name] for name in one.curves.points},
        "heads": torch.tensor(pair),
        "patterns": torch.stack([cache["pattern", layer][0, head] for layer, head in pair]),
        "undone": torch.tensor(list(undone.values())),
        "edges": edges.effects,
    }


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw the course of training, the two heads at work, what is lost without heads, and the edges between them."""
    from cutaway.plots import Panel, attention, bars, heatmap, panels

    arrays = outcome.arrays
    curves = {name: tuple(arrays[name].tolist()) for name in arrays if name.startswith(("two ", "one "))}
    shown = {
        "loss, nats": {
            "two layers": curves["two second copy"],
            "one layer": curves["one second copy"],
            "two layers, first copy": curves["two first copy"],
        },
        "difference, nats": {"two layers": curves["two in context"], "one layer": curves["one in context"]},
        "attention": {
            "prefix, two layers": curves["two prefix"],
            "prefix, one layer": curves["one prefix"],
            "previous, two layers": curves["two previous"],
        },
    }
    titles = (
        "Loss on the second copy",
        "Loss on the second copy less that on the first",
        "Best head: prefix matching, previous token",
    )
    n_heads = len(arrays["edges"])
    groups = ["induction heads", "previous-token head", "rest of layer 0"]
    labels = [*groups, *(head_label(layer, head) for layer in (0, 1) for head in range(n_heads))]
    kinds = ("previous token", "induction")
    return {
        "Learning": panels(
            [Panel(name, y_label, lines, tuple(lines)) for name, (y_label, lines) in zip(titles, shown.items(), strict=True)],
            title="Two layers learn induction, one layer does not", x_label="step",
        ),
        "Attention of the two heads at work": attention(
            arrays["patterns"].numpy(), tokens=outcome.texts["shown"],
            titles=[f"{head_label(*head)}, {kind}" for head, kind in zip(arrays["heads"].tolist(), kinds, strict=True)],
            title="Twelve random tokens, twice",
        ),
        "Loss without heads": bars(
            arrays["undone"].numpy(), labels=labels, title="Heads replaced by their mean",
            label="share of the second copy's gain undone"
        ),
        "First-layer heads to second-layer heads": heatmap(
            arrays["edges"].numpy(), rows=[head_label(0, head) for head in range(n_heads)],
            columns=[f"{head_label(1, head)}.{name}" for head in range(n_heads) for name in "qkv"],
            title="Who is heard by whom", row_title="sender", column_title="receiver",
            label="nats lost on the second copy", signed=True,
        ),
    }  # fmt: skip


EXPERIMENT = Experiment(
    id="induction",
    title="Induction heads",
    claim=(
        "Two layers of attention learn to repeat what came before, by heads that find what followed this token last time "
        "through a head that looks one token back; one layer does not learn it in as many steps."
    ),
    source="Olsson et al. 2022, In-context Learning and Induction Heads; Elhage et al. 2021, A Mathematical Framework",
    scales={
        "small": Scale(config=Config(), minutes=1.3),
        "reduced": Scale(config=Config(d_vocab=40, n_ctx=40, n_steps=700, batch_size=40)),
    },
    run=run,
    draw=draw,
    captions={
        "Learning": (
            "Above: on the second copy of random tokens the loss falls with two layers and hardly with one. Middle: that loss less "
            "the loss on the first copy (the in-context score). Below: the best head's attention to what followed this token last "
            "time (prefix matching), and to the token before; with two layers they rise together as the loss falls."
        ),
        "Attention of the two heads at work": (
            "Random tokens, then the same again; each row looks at columns. The first head looks one token back. In the second half "
            "the second one looks at the token that followed the same token the first time."
        ),
        "Loss without heads": (
            "How much of what the second copy gains over the first is lost when heads write their mean: most of it without the "
            "induction heads or the previous-token head."
        ),
        "First-layer heads to second-layer heads": (
            "What is lost on the second copy when one input (q for queries, k for keys, v for values) of a head of the second layer "
            "does not hear a head of the first: much where the keys of induction heads do not hear the previous-token head, and "
            "nearly as much where their values do not."
        ),
    },
)
