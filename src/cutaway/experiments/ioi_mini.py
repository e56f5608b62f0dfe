"""Indirect objects, learnt from scratch: two people, one gives to the other, and heads know whose name comes last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway import LanguageModel, ModelConfig, Transformer, residual, run_with_cache
from cutaway.experiments.frame import Check, Curves, Experiment, Outcome, Recipe, Scale, Trial
from cutaway.experiments.head_circuits import Head, HeadCircuits, all_heads
from cutaway.experiments.name_sentences import NamePrompts, NameSentences, name_words
from cutaway.interp.attention import head_label
from cutaway.interp.path_patching import PathPatching, patch_paths
from cutaway.training.step import next_token_loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "Config", "run", "draw"]

_ENOUGH = 0.9
"""The share of the logit difference with which enough heads are found, on prompts of known pairs."""
_N_ORDERS = 21  # orders of heads that are drawn at random
_N_SHOWN = 8  # prompts of the figure: each template, either order


@dataclass(frozen=True, kw_only=True)
class Config:
    """The model, what it never reads, and on how many prompts it is judged."""

    n_layers: int = 2
    d_model: int = 64
    n_heads: int = 8
    p_held_out: float = 0.2
    """Of the pairs of names."""
    n_steps: int = 800
    batch_size: int = 128
    n_prompts: int = 256
    n_paths: int = 128
    """On how many prompts paths are patched."""


class _Data(NamedTuple):
    """Prompts with pairs that were read in training, and with others."""

    known: NamePrompts
    held_out: NamePrompts


class _Trained(NamedTuple):
    model: Transformer
    curves: Curves


def run(config: Config, trial: Trial) -> Outcome:
    """Train two models; find the heads of the one of two layers on pairs that it has read, and judge it and them on others."""
    texts = NameSentences.drawn(config.p_held_out, generator=trial.generator("held out"))
    data = _Data(*(
        texts.prompts(config.n_prompts, is_held_out=each, generator=trial.generator("prompts", each)) for each in (False, True)
    ))  # fmt: skip
    (model, curves), one = (_train(config, trial, texts, data, n_layers=n_layers) for n_layers in (config.n_layers, 1))
    finding, judging = (HeadCircuits(model, each.tokens, each.other_tokens, each.metric) for each in data)
    found = finding.enough(_ENOUGH)
    orders = finding.random_orders(_N_ORDERS, generator=trial.generator("orders"))
    direct, paths = _direct(model, data.held_out), _paths(model, data.held_out.rows(config.n_paths))
    shown = data.held_out.rows(_N_SHOWN)
    return Outcome(
        checks=(
            _ability_check(model, one.model, data.held_out),
            _head_check(judging, found, orders),
            _direct_check(direct, found),
            _path_check(paths, found),
        ),
        numbers={
            f"heads that bring about {_ENOUGH:.0%} of the logit difference, the most useful next": len(found),
            "the same in random order, the median": median(finding.n_enough(_ENOUGH, order) for order in orders),
            "share of what heads add directly that these heads add": _direct_share(direct, found),
            **_numbers(model, data.held_out, judging, found),
        },
        arrays={
            **{name: curves[name] for name in ("accuracy", "logit difference")},
            "alone": torch.tensor([judging.share([head]) for head in judging.heads]).unflatten(0, (-1, config.n_heads)),
            "direct": torch.stack(list(direct.values())),
            "paths": paths.recovery,
            "read": shown.tokens,
            "reading": _from_end(model, shown, found[0]),
            "reader": torch.tensor(found[0]),
        },
        models={"ioi-mini": LanguageModel(model, name_words())},
    )


def _model(config: Config, trial: Trial, *, n_layers: int) -> Transformer:
    """Return an untrained model of attention alone, without positions: it must tell from the words who gives."""
    shape = ModelConfig(
        d_vocab=name_words().d_vocab, n_ctx=16, n_layers=n_layers, n_heads=config.n_heads, d_model=config.d_model, d_mlp=0,
        position="none", tie_embeddings=False,
    )  # fmt: skip
    return Transformer(shape, generator=trial.generator("weights"))


def _train(config: Config, trial: Trial, texts: NameSentences, data: _Data, *, n_layers: int) -> _Trained:
    model, prompts = _model(config, trial, n_layers=n_layers), data.held_out

    def loss(step: int) -> Float[Tensor, ""]:
        tokens = texts.sentences(config.batch_size, generator=trial.generator("batch", step))
        return next_token_loss(model, tokens[:, :-1], tokens[:, 1:])

    def watch(_: int) -> Mapping[str, float]:
        logits = model(prompts.tokens)
        return {"accuracy": _accuracy(logits, prompts), "logit difference": prompts.metric(logits).mean().item()}

    recipe = Recipe(
        n_steps=config.n_steps, learning_rate=3e-3, beta2=0.98, n_warmup_steps=50, n_decay_steps=round(0.4 * config.n_steps)
    )
    name = "one layer" if n_layers == 1 else "model"
    return _Trained(model, trial.learn(name, model, loss, recipe, watch=watch, watch_every=50))


def _accuracy(logits: Float[Tensor, "batch pos d_vocab"], prompts: NamePrompts) -> float:
    """Return how often the receiver is the likeliest of all words."""
    return (logits[:, -1].argmax(-1) == prompts.receivers).double().mean().item()


def _direct(model: Transformer, prompts: NamePrompts) -> dict[Head, Float[Tensor, " 2"]]:
    """Return what each head adds straight to the receiver's logit and to the giver's, less that of somebody who is not there."""
    of_both = [
        residual.attribute(model, prompts.tokens, names.tolist(), prompts.strangers.tolist(), by="head")
        for names in (prompts.receivers, prompts.givers)
    ]
    places = {label: place for place, label in enumerate(of_both[0].labels)}
    return {head: torch.stack([each.mean[places[head_label(*head)]] for each in of_both]) for head in all_heads(model.config)}


def _paths(model: Transformer, prompts: NamePrompts) -> PathPatching:
    """Return what it does when one input of a last head hears the words, or a head before, as if a third person gave."""
    heads, last = range(model.config.n_heads), model.config.n_layers - 1
    return patch_paths(
        model, prompts.tokens, prompts.other_tokens, prompts.metric,
        senders=["embed", *(head_label(layer, head) for layer in range(last) for head in heads)],
        receivers=[*(f"{head_label(last, head)}.{name}" for head in heads for name in "qkv"), "logits"],
    )  # fmt: skip


def _through(paths: PathPatching, heads: Sequence[Head], name: str) -> float:
    """Return the shares of all paths into one kind of input of some heads, added up."""
    wanted = {f"{head_label(*head)}.{name}" for head in heads}
    return sum(path.recovery for path in paths.ranked() if path.receiver in wanted)


@torch.no_grad()
def _ability_check(model: Transformer, one_layer: Transformer, prompts: NamePrompts) -> Check:
    two, one = (_accuracy(each(prompts.tokens), prompts) for each in (model, one_layer))
    return Check(
        name="unseen pairs of names: share on which the receiver is the likeliest next word", at_least=0.95,
        value=two, null=one, null_of="trained with one layer",
    )  # fmt: skip


def _head_check(judging: HeadCircuits, found: Sequence[Head], orders: Sequence[Sequence[Head]]) -> Check:
    at_random = median(judging.share(order[: len(found)]) for order in orders)
    return Check(
        name="unseen pairs of names: share of the logit difference that the heads most useful on known pairs bring about", at_least=0.8,
        value=judging.share(found), null=at_random, null_of="as many at random, median",
    )  # fmt: skip


def _direct_check(direct: Mapping[Head, Float[Tensor, " 2"]], found: Sequence[Head]) -> Check:
    """Return whether the same heads take from the giver's logit."""
    by_found, by_all = (torch.stack([direct[head] for head in heads]).sum(0)[1].item() for heads in (found, direct))
    return Check(
        name="what the most useful heads take straight from the giver's logit, beyond an absent name's", at_least=2.0,
        value=-by_found, null=by_found - by_all, null_of="all other heads",
    )  # fmt: skip


def _direct_share(direct: Mapping[Head, Float[Tensor, " 2"]], found: Sequence[Head]) -> float:
    """Return which share of the logit difference that heads add directly some of them add."""
    by_found, by_all = (torch.stack([direct[head] for head in heads]).sum(0) for heads in (found, direct))
    return ((by_found[0] - by_found[1]) / (by_all[0] - by_all[1])).item()


def _path_check(paths: PathPatching, found: Sequence[Head]) -> Check:
    return Check(
        name="share of the logit difference that is lost when the most useful heads' values hear a third person as giver", at_least=0.6,
        value=_through(paths, found, "v"), null=_through(paths, found, "q"), null_of="their queries instead",
    )  # fmt: skip


@torch.no_grad()
def _numbers(model: Transformer, prompts: NamePrompts, judging: HeadCircuits, found: Sequence[Head]) -> dict[str, float]:
    logits, of_others = (model(tokens) for tokens in (prompts.tokens, prompts.other_tokens))
    alone = {f"share of {head_label(*head)} alone": judging.share([head]) for head in judging.heads}
    return {
        "logit of the receiver less that of the giver": prompts.metric(logits).mean().item(),
        "the same after a third giver": prompts.metric(of_others).mean().item(),
        "the receiver is the likeliest next word after a third giver": _accuracy(of_others, prompts),
        "the receiver is likelier than the giver": (prompts.metric(logits) > 0).double().mean().item(),
        "attention of the first of the heads from the end to the giver": _to_giver(model, prompts, found[0]),
        **alone,
    }


def _to_giver(model: Transformer, prompts: NamePrompts, head: Head) -> float:
    """Return how much of its attention at the end a head gives to the giver where it is the giver."""
    patterns = _from_end(model, prompts, head)
    return (patterns * (prompts.tokens != prompts.other_tokens)).sum(-1).mean().item()


def _from_end(model: Transformer, prompts: NamePrompts, head: Head) -> Float[Tensor, "batch pos"]:
    layer, place = head
    _, cache = run_with_cache(model, prompts.tokens, f"blocks.{layer}.attn.pattern")
    return cache["pattern", layer][:, place, -1]


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw how it is learnt, what each head does by itself and directly, the paths, and what the strongest head reads."""
    from cutaway.plots import Panel, bars, heatmap, panels, token_grid

    arrays, words = outcome.arrays, name_words()
    n_layers, n_heads = arrays["alone"].shape
    heads = [head_label(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    curves = {name: tuple(arrays[name].tolist()) for name in ("accuracy", "logit difference")}
    receivers = [f"{head_label(n_layers - 1, head)}.{name}" for head in range(n_heads) for name in "qkv"]
    texts = [[words.words[token] for token in row] for row in arrays["read"].tolist()]
    to_names = {"to the receiver": arrays["direct"][:, 0], "to the giver": arrays["direct"][:, 1]}
    return {
        "Learning": panels(
            [Panel("", name, {name: curve}, (name,)) for name, curve in curves.items()],
            title="Pairs of names that were never read", x_label="step",
        ),
        "What a head reads": token_grid(
            texts, arrays["reading"].numpy(), rows=[str(1 + place) for place in range(len(texts))],
            columns=[str(place) for place in range(len(texts[0]))],
            title=f"Where {head_label(*arrays['reader'].tolist())} looks from the last word", row_title="prompt",
            column_title="position", label="attention",
        ),
        "What single heads bring about": bars(
            arrays["alone"].flatten().numpy(), labels=heads, title="One head alone knows who gives",
            label="share of the logit difference",
        ),
        "What heads write": bars(
            torch.stack(list(to_names.values()), dim=1).flatten().numpy(),
            labels=[f"{head} {name}" for head in heads for name in to_names], title="What heads add straight to logits",
            label="logit, less that of a name that is not there",
        ),
        "Who tells whom who gives": heatmap(
            arrays["paths"].numpy(), rows=["embed", *heads[:-n_heads]], columns=[*receivers, "logits"], title="Who is heard by whom",
            row_title="sender", column_title="receiver", label="share of the logit difference", signed=True,
        ),
    }  # fmt: skip


EXPERIMENT = Experiment(
    id="ioi-mini",
    title="Indirect objects from scratch",
    claim=(
        "Two layers of attention learn that when Mary and John meet and John gives, Mary receives, also of pairs they have never "
        "read; one layer does not in as many steps. Otherwise than in GPT-2, the heads that bring this about hear the giver's name "
        "through values, not queries, and take its logit down; how many they are, two or most, differs from seed to seed."
    ),
    source="Wang et al. 2022, Interpretability in the Wild",
    scales={
        "small": Scale(config=Config(), minutes=2.2),
        "reduced": Scale(config=Config()),
    },
    run=run,
    draw=draw,
    captions={
        "Learning": (
            "Pairs of names that were never read together: how often the receiver is the likeliest next word, and by how much its "
            "logit exceeds the giver's."
        ),
        "What a head reads": (
            "A row is a prompt, coloured by where the most useful head looks from its last word: at the name of the giver, who must "
            "not be the answer."
        ),
        "What single heads bring about": "The share of the logit difference that comes back when one head alone knows who gives.",
        "What heads write": (
            "What each head adds straight to the logits of receiver and giver, compared with a name that is not there. The useful "
            "heads take the giver's logit down (orange)."
        ),
        "Who tells whom who gives": (
            "What one input (q for queries, k for keys, v for values) of a head of the last layer does to the logit difference when "
            "it hears a part (row) as if a third person gave: what matters goes mostly to the values of the useful heads."
        ),
    },
)
