"""Probes: what a direction reads, how much that is worth beside a control task, and whether it causes what it reads."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway import ModelConfig, Transformer, probing, run_with_cache
from cutaway.experiments.frame import Check, Curves, Experiment, Outcome, Recipe, Scale, Trial
from cutaway.experiments.nested_words import NestedTexts, NestedWords
from cutaway.interp.probing import MLP, Causation, Kind, Logistic, PlacedScore
from cutaway.training.step import next_token_loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "Config", "run", "draw"]

_PLACE, _BEHIND = "blocks.0.resid_mid", "blocks.0.resid_post"
"""What the first attention leaves, where the first MLP has yet to read it; and what that MLP leaves.

The place was chosen so that edits along the probe change what the model does. Behind the MLP they need not: the shares that flip there
are numbers of their own.
"""
_FIRST_READ = 12  # before, few texts are at every depth
_RULED_OUT = 3.0  # closing counts as ruled out where opening is so many times likelier
_LINEAR = Logistic()


@dataclass(frozen=True, kw_only=True)
class Config:
    """The words and the model that reads them.

    There are many more word types than dimensions, so that a linear probe cannot learn a label for each by heart: with few types a
    control task is as easy as looking at the word, and selectivity says nothing.
    """

    d_vocab: int = 384
    deepest: int = 4
    n_ctx: int = 32
    d_model: int = 32
    n_layers: int = 2
    n_heads: int = 2
    d_mlp: int = 64
    n_steps: int = 1500
    batch_size: int = 64
    n_texts: int = 300
    """That probes are fitted to and tested on."""
    n_edited: int = 600
    """Of which those are edited that end at the two depths in question."""
    d_hidden: int = 128
    n_mlp_steps: int = 200
    """Of the MLP probe."""
    n_draws: int = 2
    """Of shuffled labels and of control tasks."""


class _Probed(NamedTuple):
    """What a linear and an MLP probe read of the same activations."""

    linear: PlacedScore
    mlp: PlacedScore

    @property
    def lead(self) -> float:
        """How much more selective the linear probe is."""
        return _selectivity(self.linear) - _selectivity(self.mlp)


def run(config: Config, trial: Trial) -> Outcome:
    """Train a model to foretell words; probe how deep it is, before and after; edit it along what the probe reads."""
    words = NestedWords.drawn(config.d_vocab, deepest=config.deepest, generator=trial.generator("roles"))
    probed = words.texts(config.n_texts, config.n_ctx, generator=trial.generator("probed"))
    before = _probe(_model(config, trial), probed, probed.tokens, _LINEAR, config, trial)
    model, curves = _train(config, trial, words)
    kinds = (_LINEAR, MLP(d_hidden=config.d_hidden, n_steps=config.n_mlp_steps, seed=trial.seed))
    found = _Probed(*(_probe(model, probed, probed.tokens, kind, config, trial) for kind in kinds))
    by_role = _Probed(*(_probe(model, probed, words.roles[probed.tokens], kind, config, trial) for kind in kinds))
    edited = words.texts(config.n_edited, config.n_ctx, generator=trial.generator("edited"))
    far, near = _cause(model, words, edited, found.linear, trial)
    behind = _probe(model, probed, probed.tokens, _LINEAR, config, trial, place=_BEHIND)
    causes_behind = _cause(model, words, edited, behind, trial)
    moved_behind = {depth: each.at("flip") for depth, each in zip(("the deepest", "one"), causes_behind, strict=True)}
    return Outcome(
        checks=(*_reading_checks(found, by_role, before), *_causing_checks(far, near)),
        numbers={
            "nats a role costs above the least": curves["gap"][1, -1].item(),
            **_scores("linear probe", found.linear),
            **_scores("MLP probe", found.mlp),
            **_scores("linear probe, untrained", before),
            **_scores("linear probe, three word types", by_role.linear),
            **_scores("linear probe behind the first MLP", behind),
            **{
                f"texts moved between no depth and {depth} along the probe behind the first MLP: share that changes sides": flip.flipped
                for depth, flip in moved_behind.items()
            },
        },
        arrays={name: curves[name] for name in curves.points} | {"far": _pushes(far), "near": _pushes(near)},
    )


def _model(config: Config, trial: Trial) -> Transformer:
    """Return an untrained model. Its embedding starts large: which word it was is there from the beginning, and learnt about soon."""
    shape = ModelConfig(
        d_vocab=config.d_vocab, n_ctx=config.n_ctx, n_layers=config.n_layers, n_heads=config.n_heads, d_model=config.d_model,
        d_mlp=config.d_mlp, act="relu", tie_embeddings=False,
    )  # fmt: skip
    model = Transformer(shape, generator=trial.generator("weights"))
    torch.nn.init.normal_(model.embed.W_E, std=0.3, generator=trial.generator("embedding"))
    return model


def _train(config: Config, trial: Trial, words: NestedWords) -> tuple[Transformer, Curves]:
    model = _model(config, trial)
    judged = words.texts(64, config.n_ctx, generator=trial.generator("judged"))

    def loss(step: int) -> Float[Tensor, ""]:
        tokens = words.texts(config.batch_size, config.n_ctx + 1, generator=trial.generator("batch", step)).tokens
        return next_token_loss(model, tokens[:, :-1], tokens[:, 1:])

    recipe = Recipe(
        n_steps=config.n_steps, learning_rate=3e-3, beta2=0.98, n_warmup_steps=50, n_decay_steps=round(0.4 * config.n_steps)
    )
    curves = trial.learn("words", model, loss, recipe, watch=lambda _: _seen(model, words, judged), watch_every=50)
    return model, curves


def _seen(model: Transformer, words: NestedWords, judged: NestedTexts) -> Mapping[str, float]:
    logits = model(judged.tokens)
    role_log_probs, due = words.role_log_probs(logits), words.next_role_probs(judged.depths)
    odds = words.closing_log_odds(logits)
    return {
        "gap": (torch.xlogy(due, due) - due * role_log_probs).sum(-1).mean().item(),
        **{f"depth {depth}": odds[judged.depths == depth].mean().item() for depth in (0, 1, words.deepest)},
    }


def _probe(
    model: Transformer, probed: NestedTexts, types: Int[Tensor, "batch pos"], kind: Kind, config: Config, trial: Trial,
    *, place: str = _PLACE,
) -> PlacedScore:  # fmt: skip
    """Fit a probe of depth to the stream; a control task gives each of these types a label of its own."""
    _, cache = run_with_cache(model, probed.tokens, names=place)
    x = cache[place][:, _FIRST_READ:]
    found = probing.probe_rows(
        {place: x.flatten(0, 1)}, probed.depths[:, _FIRST_READ:].flatten(), words=types[:, _FIRST_READ:].flatten(),
        groups=torch.arange(len(x)).repeat_interleave(x.shape[1]), kind=kind, n_folds=2, n_nulls=config.n_draws, with_control=True,
        seed=trial.seed,
    )  # fmt: skip
    return found.best


def _cause(
    model: Transformer, words: NestedWords, edited: NestedTexts, found: PlacedScore, trial: Trial
) -> tuple[Causation, Causation]:
    """Move texts that end with nothing open to the deepest, and to depth one, and back: do the odds of closing change sides?"""
    last = edited.depths[:, -1]

    def between(depth: int, level: float) -> Causation:
        chosen = (last == 0) | (last == depth)
        return probing.cause(
            model, found.probe, edited.tokens[chosen], last[chosen].tolist(), between=(0, depth), pos=-1, seed=trial.seed,
            metric=lambda logits: words.closing_log_odds(logits[:, -1]) - level,
        )  # fmt: skip

    return between(words.deepest, 0.0), between(1, -math.log(_RULED_OUT))


def _pushes(found: Causation) -> Float[Tensor, "3 strength"]:
    """Return how far texts are pushed, what share flips, and what share along the random direction that flips most."""
    pushes = [each for each in found.interventions if each.label.startswith("push")]
    strengths = [float(each.label.split()[1]) for each in pushes]
    return torch.tensor([strengths, [each.flipped for each in pushes], [max(each.random) for each in pushes]])


def _scores(name: str, found: PlacedScore) -> dict[str, float]:
    validation = found.validation
    return {
        f"{name}: share read right": validation.held_out.value,
        f"{name}: on shuffled depths": validation.shuffled.value,
        f"{name}: on control tasks": _control(found),
    }


def _selectivity(found: PlacedScore) -> float:
    selectivity = found.validation.selectivity
    assert selectivity is not None  # control tasks are always asked for here
    return selectivity


def _reading_checks(found: _Probed, by_role: _Probed, before: PlacedScore) -> Iterator[Check]:
    """Yield whether depth is read, and more selectively by the probe that can learn less by heart."""
    linear = found.linear.validation
    yield Check(
        name="linear probe: accuracy on texts held out", at_least=0.95,
        value=linear.held_out.value, null=before.validation.held_out.value, null_of="untrained",
    )  # fmt: skip
    yield Check(
        name="linear probe: accuracy less that on random labels of words (selectivity)", at_least=0.3,
        value=_selectivity(found.linear), null=_selectivity(by_role.linear), null_of="random labels of three word types",
    )  # fmt: skip
    yield Check(
        name="selectivity of the linear probe less that of the MLP probe", at_least=0.2,
        value=found.lead, null=by_role.lead, null_of="random labels of three word types",
    )  # fmt: skip


def _control(found: PlacedScore) -> float:
    control = found.validation.control
    assert control is not None
    return control.value


def _causing_checks(far: Causation, near: Causation) -> Iterator[Check]:
    """Yield whether the model goes by what the probe reads: between the ends, and between neighbours."""
    for name, found in (("depth 0 and the deepest", far), ("depths 0 and 1", near)):
        flip = found.at("flip")
        yield Check(
            name=f"moved along the linear probe between {name}: share of texts whose next word changes sides", at_least=0.8,
            value=flip.flipped, null=max(flip.random), null_of="best of 10 random directions",
        )  # fmt: skip


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw how the model learns the bounds, what probes read beside control tasks, and what edits along the probe do."""
    from cutaway.plots import Panel, bars, lines, panels

    arrays, numbers = outcome.arrays, outcome.numbers
    odds = {name: tuple(arrays[name].tolist()) for name in arrays if name.startswith("depth ")}
    shown = {
        f"{short}, {said}": numbers[f"{probe}: {name}"]
        for short, probe in (("linear", "linear probe"), ("MLP", "MLP probe"), ("untrained", "linear probe, untrained"))
        for name, said in (
            ("share read right", "depth"),
            ("on control tasks", "control task"),
            ("on shuffled depths", "shuffled"),
        )
    }
    pushed = {
        f"{name}, {along}": (arrays[key][0].tolist(), arrays[key][row].tolist())
        for key, name in (("far", "0 and deepest"), ("near", "0 and 1"))
        for row, along in ((1, "probe"), (2, "best random"))
    }
    return {
        "Learning": panels(
            [
                Panel("", "nats above the least", {"loss": tuple(arrays["gap"].tolist())}, ("loss",)),
                Panel("", "log odds of closing", odds, tuple(odds)),
            ],
            title="When no word can close, and when none can open", x_label="step",
        ),
        "Accuracy of probes and of their controls": bars(
            list(shown.values()), labels=list(shown), title="What probes read, and what they learn by heart",
            label="accuracy", signed=False,
        ),
        "Moving the state along the probe": lines(
            pushed, title="Moved between two depths, by the probe or at random",
            x_label="how far, in distances between the depths' means",
            y_label="share of texts that change sides",
        ),
    }  # fmt: skip


EXPERIMENT = Experiment(
    id="probing",
    title="Probes, control tasks, and causes",
    claim=(
        "After the first attention and before the first MLP a linear probe reads in texts held out how many words are open, and far "
        "better than random labels of the word types, which an MLP probe learns as well; and where the stream is moved there along the "
        "probe's direction, the model goes by the depth that it was moved to. To read is not to cause: behind that MLP a linear probe "
        "reads nearly as well, and moving the stream along it may leave what comes next as it was."
    ),
    source="Hewitt and Liang 2019, Designing and Interpreting Probes with Control Tasks; Marks and Tegmark 2023, The Geometry of Truth",
    scales={
        "small": Scale(config=Config(), minutes=0.4),
        "reduced": Scale(
            config=Config(d_vocab=240, n_steps=1000, batch_size=48, n_texts=200, n_edited=120, n_mlp_steps=100, n_draws=1),
        ),
    },
    run=run,
    draw=draw,
    captions={
        "Learning": (
            "Above: what the model's guess whether a word opens, closes or is neutral costs beyond the least there can be. Below: "
            "the odds that the next word closes one, by how many are open: with none open (depth 0) it cannot, at the greatest "
            "depth it must."
        ),
        "Accuracy of probes and of their controls": (
            "How many depths each probe reads right; beside it, how well the same probe learns a random label for each word "
            "(control task) and shuffled depths. The linear probe reads depth far better than random labels; an MLP learns these as "
            "well."
        ),
        "Moving the state along the probe": (
            "Texts at depth 0 and at another depth are moved towards each other: how many change sides in whether a word closes "
            "next. Along the probe most do at distance 1, fewer along the best of several random directions; pushed several times as "
            "far, along these most may too."
        ),
    },
)
