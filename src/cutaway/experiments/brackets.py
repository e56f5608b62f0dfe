"""Brackets: a small encoder tells balanced strings from others, and two of its parts together tell what is wrong with one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway import LanguageModel, ModelConfig, Transformer, edits, metrics, residual, run_with_cache, sweep
from cutaway.experiments.bracket_strings import BALANCED, UNBALANCED, BracketKinds, BracketStrings, Way, bracket_words
from cutaway.experiments.frame import Check, Curves, Experiment, Outcome, Recipe, Scale, Trial
from cutaway.interp.attention import entropy_share, head_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "Config", "run", "draw"]

_SAID = {"balanced": "other balanced strings", "total": "a wrong total", "elevation": "a wrong elevation"}
_LEARNT = {"balanced": "balanced", "total": "wrong total", "elevation": "wrong elevation"}
_APART = "chance to tell two kinds of strings apart (AUC), the least of three pairs:"
_EXPLAINED = "share of a neuron's variance that opening brackets explain"
_FIRST_HELD_OUT = 12  # brackets; of shorter strings there are so few that all are trained on


@dataclass(frozen=True, kw_only=True)
class Config:
    """The strings, the model and its training."""

    most_pairs: int = 10
    d_model: int = 32
    n_layers: int = 3
    n_heads: int = 2
    d_head: int = 8
    d_mlp: int = 32
    init_std: float = 0.1
    n_steps: int = 2500
    batch_size: int = 128
    n_judged: int = 16_000
    """Strings of the greatest length that are drawn to judge on, of which those count that are held out and differ."""
    n_patched: int = 200
    """Balanced strings into whose runs parts of others are put."""


def run(config: Config, trial: Trial) -> Outcome:
    """Train a model to tell balanced strings; judge it on strings held out, and find which parts tell the failures apart."""
    judged = _Judged.drawn(config, trial)
    model, curves = _train(config, trial, judged.strings)
    kinds, untrained = BracketKinds.of(judged.strings), _model(config, trial)
    apart, pair = _separation(model, kinds)
    dealt_anew = kinds.dealt_anew(trial.generator("dealt"))
    spread, inserted = _spread(model, judged.strings.of_rows(torch.arange(300))), _insert(model, kinds, config.n_patched)
    drawn = BracketStrings.drawn(500, config.most_pairs, way="random", generator=trial.generator("neuron"))
    (explained, neuron), (explained_before, _) = (_following_neuron(each, drawn) for each in (model, untrained))
    planes = {name: _contributions(model, each)[list(pair)] for name, each in kinds._asdict().items()}
    return Outcome(
        checks=(
            *_ability_checks(model, judged),
            *_part_checks(apart, _separation(untrained, kinds)[0], inserted),
        ),
        numbers={
            "strings judged": len(judged.strings),
            "near misses judged": len(judged.near),
            **_by_length(model, config, trial),
            f"{_APART} in the best single part": _separation(model, kinds, n_parts=1)[0],
            f"{_APART} in the best plane, failures dealt at random": _separation(model, dealt_anew)[0],
            **{f"{head_label(0, head)}: entropy over the most possible": share for head, share in enumerate(spread.tolist())},
            _EXPLAINED: explained,
            f"{_EXPLAINED}, untrained": explained_before,
            **_flips(inserted),
        },
        arrays={
            **{name: curves[name] for name in curves.points},
            **{f"plane {name}": values for name, values in planes.items()},
            "pair": torch.tensor(pair),
            "inserted": inserted.flipped.unflatten(0, (config.n_layers, -1)),  # layer part kind
            "neuron": neuron,
            **_shown(model, kinds, spread),
        },
        models={"brackets": LanguageModel(model, bracket_words())},
    )


def _by_length(model: Transformer, config: Config, trial: Trial) -> dict[str, float]:
    """Return the share told right of shorter strings that were held out too."""
    found = {}
    for n_pairs in range(_FIRST_HELD_OUT // 2, config.most_pairs):
        drawn = _kept(BracketStrings.mixed(config.n_judged // 4, n_pairs, generator=trial.generator("shorter", n_pairs)))
        found[f"share told right of {2 * n_pairs} brackets"] = _share_right(_answers(model, drawn), drawn)
    return found


def _flips(inserted: _Inserted) -> dict[str, float]:
    return {
        f"{label} of {_SAID[kind]}, put in: share told unbalanced": share
        for label, shares in zip(inserted.labels, inserted.flipped.tolist(), strict=True)
        for kind, share in zip(BracketKinds._fields, shares, strict=True)
    }


@torch.no_grad()
def _shown(model: Transformer, kinds: BracketKinds, spread: Float[Tensor, " head"]) -> dict[str, Tensor]:
    """Return what the widest and the most focused head of the first layer look at in one balanced string."""
    string = kinds.balanced.of_rows(torch.tensor([0]))
    _, cache = run_with_cache(model, string.tokens, names="blocks.0.attn.pattern")
    chosen = torch.stack([spread.argmax(), spread.argmin()])
    return {"heads": chosen, "patterns": cache["pattern", 0][0, chosen], "string": string.tokens[0]}


def _model(config: Config, trial: Trial) -> Transformer:
    shape = ModelConfig(
        d_vocab=bracket_words().d_vocab, d_vocab_out=2, n_ctx=2 * config.most_pairs + 1, n_layers=config.n_layers,
        n_heads=config.n_heads, d_model=config.d_model, d_head=config.d_head, d_mlp=config.d_mlp, act="relu", is_causal=False,
        tie_embeddings=False,
    )  # fmt: skip
    model = Transformer(shape)
    model.init_weights(trial.generator("weights"), std=config.init_std)
    return model


def _train(config: Config, trial: Trial, judged: BracketStrings) -> tuple[Transformer, Curves]:
    """Train on strings of all even lengths, half of the batches being of the greatest; those held out are not seen."""
    model = _model(config, trial)

    def loss(step: int) -> Float[Tensor, ""]:
        generator = trial.generator("batch", step)
        shorter = int(torch.randint(1, config.most_pairs + 1, (1,), generator=generator))
        drawn = BracketStrings.mixed(config.batch_size, config.most_pairs if step % 2 else shorter, generator=generator)
        drawn = drawn.of_rows(~drawn.is_held_out) if drawn.steps.shape[1] >= _FIRST_HELD_OUT else drawn
        resid = model.run_blocks(model.embed(drawn.tokens), n_last=1)  # the answer is read where the asking word stands
        return F.cross_entropy(model.unembed(resid)[:, 0], drawn.is_balanced.long())

    recipe = Recipe(
        n_steps=config.n_steps, learning_rate=3e-3, beta2=0.98, weight_decay=0.01, n_warmup_steps=100,
        n_decay_steps=config.n_steps // 2, max_grad_norm=1.0,
    )  # fmt: skip
    sample = judged.of_rows(torch.randperm(len(judged), generator=trial.generator("sample"))[:500])

    def watch(_: int) -> Mapping[str, float]:
        is_right = _answers(model, sample) == sample.is_balanced
        kinds = {"balanced": sample.is_balanced, "total": sample.fails_total, "elevation": sample.fails_elevation}
        return {name: is_right[chosen].double().mean().item() for name, chosen in kinds.items()}

    return model, trial.learn("brackets", model, loss, recipe, watch=watch, watch_every=50)


@torch.no_grad()
def _answers(model: Transformer, strings: BracketStrings) -> Bool[Tensor, " batch"]:
    """Return which strings a model takes for balanced."""
    answers: Tensor = model(strings.tokens)[:, -1].argmax(-1) == BALANCED
    return answers


def _contributions(model: Transformer, strings: BracketStrings) -> Float[Tensor, "part batch"]:
    """Return what each part adds by itself, where the answer is read, to the logit of unbalanced less that of balanced."""
    found = residual.attribute(model, strings.tokens, UNBALANCED, BALANCED, by="head")
    places = [found.labels.index(label) for label in _parts(model.config.n_layers, model.config.n_heads)]
    return found.contributions[places].double()


def _separation(model: Transformer, kinds: BracketKinds, *, n_parts: int = 2) -> tuple[float, tuple[int, ...]]:
    """Return how well the three kinds lie apart in the plane of two parts (or along one), and which two these are.

    The parts are chosen, and a line across their plane is fitted for each two kinds, on half of the strings; the others lie on its
    right side with probabilities of which the least is returned.
    """
    fitted, tested = ([_contributions(model, each) for each in kinds.half(which)] for which in (0, 1))
    chosen = combinations(range(len(fitted[0])), n_parts)
    best = max(chosen, key=lambda parts: _least_apart(fitted, fitted, parts))
    return _least_apart(fitted, tested, best), best


def _least_apart(fitted: Sequence[Tensor], tested: Sequence[Tensor], parts: Sequence[int]) -> float:
    """Return the least of the three kinds' chances to lie apart from each other, along lines fitted in the space of some parts."""
    chances = []
    for one, other in combinations(range(len(fitted)), 2):
        a, b = (fitted[kind][list(parts)] for kind in (one, other))
        spread = a.cov() + b.cov() + 1e-9 * torch.eye(len(parts), dtype=a.dtype)  # of one part, cov is a number
        direction = torch.linalg.solve(spread, b.mean(1) - a.mean(1))
        chances.append(_chance_above(direction @ tested[other][list(parts)], direction @ tested[one][list(parts)]))
    return min(chances)


def _chance_above(high: Float[Tensor, " a"], low: Float[Tensor, " b"]) -> float:
    """Return how likely one number is above another, one drawn of each kind, equal ones counting half: the area under the ROC curve."""
    ordered = low.sort().values
    high = high.contiguous()
    below = torch.searchsorted(ordered, high) + torch.searchsorted(ordered, high, right=True)
    return (below.double().mean() / (2 * len(low))).item()


def _parts(n_layers: int, n_heads: int) -> dict[str, tuple[str, int | None]]:
    """Return where each head, and each layer's MLP after its heads, writes: an activation's name, and which head of it."""
    places: dict[str, tuple[str, int | None]] = {}
    for layer in range(n_layers):
        places |= {head_label(layer, head): (f"blocks.{layer}.attn.z", head) for head in range(n_heads)}
        places[f"L{layer} mlp"] = f"blocks.{layer}.mlp_out", None
    return places


class _Inserted(NamedTuple):
    """Which share of balanced strings is taken for unbalanced when one part writes what it writes in other strings, of each kind."""

    labels: list[str]
    flipped: Float[Tensor, "part kind"]


@torch.no_grad()
def _insert(model: Transformer, kinds: BracketKinds, n: int) -> _Inserted:
    """Put into the runs of balanced strings what one head, or one layer's MLP, writes in strings of each kind, at every position."""
    places = _parts(model.config.n_layers, model.config.n_heads)
    halves = kinds.half(0), kinds.half(1)
    balanced = BracketStrings(halves[0].balanced.steps[:n])
    flipped = []
    for each in halves[1]:  # so that balanced strings are put into others
        rows = each.of_rows(torch.arange(len(balanced)) % len(each))
        _, cache = run_with_cache(model, rows.tokens, names=["blocks.*.attn.z", "blocks.*.mlp_out"])
        variants = [[edits.patch(name, cache, head=head)] for name, head in places.values()]
        scores = sweep(model, balanced.tokens, [[], *variants], metrics.logit_diff(UNBALANCED, BALANCED))
        was_right = scores[0] < 0
        flipped.append((scores[1:, was_right] > 0).double().mean(1))
    return _Inserted(list(places), torch.stack(flipped, dim=1))


@torch.no_grad()
def _spread(model: Transformer, strings: BracketStrings) -> Float[Tensor, " head"]:
    """Return how evenly each head of the first layer looks at all positions: its entropy over the most possible, mean over queries."""
    _, cache = run_with_cache(model, strings.tokens, names="blocks.0.attn.pattern")
    return entropy_share(cache["pattern", 0], is_causal=False).double().mean((0, 2))


@torch.no_grad()
def _following_neuron(model: Transformer, strings: BracketStrings) -> tuple[float, Float[Tensor, "2 batch"]]:
    """Return which part of a neuron's variance the share of opening brackets explains, of the neuron with the most, and both numbers.

    Neurons are those of the first layer where the answer is read, before their nonlinearity.
    """
    _, cache = run_with_cache(model, strings.tokens, names="blocks.0.mlp.pre")
    pre = cache["blocks.0.mlp.pre"][:, -1].double().T  # neuron batch
    share = (strings.steps > 0).double().mean(1)
    explained = torch.corrcoef(torch.cat([share[None], pre]))[0, 1:] ** 2
    return explained.max().item(), torch.stack([share, pre[explained.argmax()]])


class _Judged(NamedTuple):
    """Strings that no model was trained on."""

    strings: BracketStrings
    near: BracketStrings
    """Unbalanced ones that one bracket, or the exchange of two, would make balanced."""

    @classmethod
    def drawn(cls, config: Config, trial: Trial) -> _Judged:
        generator, n_pairs = trial.generator("judged"), config.most_pairs
        strings = _kept(BracketStrings.mixed(config.n_judged, n_pairs, generator=generator))
        ways: tuple[Way, ...] = ("one flipped", "two swapped")
        misses = [BracketStrings.drawn(config.n_judged // 8, n_pairs, way=way, generator=generator).steps for way in ways]
        near = _kept(BracketStrings(torch.cat(misses)))
        order = torch.randperm(len(strings), generator=generator)
        return cls(strings.of_rows(order), near.of_rows(~near.is_balanced))


def _kept(strings: BracketStrings) -> BracketStrings:
    return strings.of_rows(strings.is_held_out).distinct()


def _share_right(answers: Bool[Tensor, " batch"], strings: BracketStrings) -> float:
    """Return the mean of the shares of balanced and of unbalanced strings that are taken for what they are.

    Raises ValueError where there are none of one kind.
    """
    is_right, kinds = (answers == strings.is_balanced).double(), (strings.is_balanced, ~strings.is_balanced)
    if not all(kind.any() for kind in kinds):
        raise ValueError(
            f"all of {len(strings)} strings that are held out are alike, balanced or not; draw more of them to judge on"
        )
    return sum(is_right[kind].mean().item() for kind in kinds) / 2


def _ability_checks(model: Transformer, judged: _Judged) -> Iterator[Check]:
    """Yield whether strings are told apart, beside what would be by their totals alone."""
    strings, near = judged
    yield Check(
        name="accuracy on strings held out, mean of that on balanced and on unbalanced ones", at_least=0.995,
        value=_share_right(_answers(model, strings), strings), null=_share_right(strings.total == 0, strings),
        null_of="counting alone",
    )  # fmt: skip
    yield Check(
        name="accuracy on strings held out that are one change away from balanced", at_least=0.99,
        value=(~_answers(model, near)).double().mean().item(), null=(near.total != 0).double().mean().item(),
        null_of="counting alone",
    )  # fmt: skip


def _part_checks(apart: float, apart_untrained: float, inserted: _Inserted) -> Iterator[Check]:
    """Yield whether two parts tell the failures apart, and whether the first layer's MLP carries both."""
    yield Check(
        name=f"{_APART} in the plane of two parts' contributions", at_least=0.9,
        value=apart, null=apart_untrained, null_of="untrained",
    )  # fmt: skip
    by_balanced, *by_failing = inserted.flipped[inserted.labels.index("L0 mlp")].tolist()
    yield Check(
        name="share of balanced strings called unbalanced with the first MLP's output of unbalanced ones, lesser of two failures",
        at_least=0.7, value=min(by_failing), null=by_balanced, null_of="output of other balanced strings",
    )  # fmt: skip


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw how the kinds are learnt, where they lie in the plane of two parts, who carries what, and the first layer's heads."""
    from cutaway.plots import Panel, attention, heatmap, panels, scatter

    arrays = outcome.arrays
    learnt = {said: tuple(arrays[name].tolist()) for name, said in _LEARNT.items()}
    n_layers, n_parts, _ = arrays["inserted"].shape
    parts = list(_parts(n_layers, n_parts - 1))
    first, second = (parts[place] for place in arrays["pair"].tolist())
    heads = [head_label(0, head) for head in arrays["heads"].tolist()]
    return {
        "Accuracy while training": panels(
            [Panel("", "accuracy", learnt, tuple(learnt))], title="Balanced strings, and strings with one failure each", x_label="step"
        ),
        "Strings placed by two parts of the model": scatter(
            {said: tuple(arrays[f"plane {name}"].tolist()) for name, said in _LEARNT.items()},
            title="What two parts add to the answer for three kinds of strings", x_label=f"{first}: added to the logit of unbalanced",
            y_label=f"{second}: added to the logit of unbalanced",
        ),
        "Parts patched into balanced strings": heatmap(
            arrays["inserted"].flatten(0, 1).numpy(), rows=parts,
            columns=list(_SAID.values()), title="A balanced string with one part of another", row_title="part",
            column_title="kind of the other string", label="share called unbalanced",
            texts=[[f"{share:.2f}" for share in row] for row in arrays["inserted"].flatten(0, 1).tolist()],
        ),
        "Attention in the first layer": attention(
            arrays["patterns"].numpy(), tokens=[bracket_words().words[token] for token in arrays["string"].tolist()],
            titles=[f"{head}, {kind}" for head, kind in zip(heads, ("widest", "most focused"), strict=True)],
            title="The first layer on a balanced string",
        ),
        "A neuron that follows the brackets": scatter(
            {"random strings": tuple(arrays["neuron"].tolist())},
            title=f"The neuron that follows the brackets' share most, R² {outcome.numbers[_EXPLAINED]:.2f}",
            x_label="share of opening brackets", y_label="input of the neuron",
        ),
    }  # fmt: skip


EXPERIMENT = Experiment(
    id="brackets",
    title="Balanced brackets",
    claim=(
        "A three-layer encoder tells balanced strings of brackets from others, near misses included. Strings whose total alone is "
        "wrong, strings whose elevation alone falls below 0, and balanced ones lie apart in the plane of what two of its parts add to "
        "the answer. The first MLP carries both failures: its output in a failing string, put into a balanced one, makes it unbalanced."
    ),
    source="the brackets exercise of ARENA 3.0, section 1.5.1 (which reads at the first position; here at the last)",
    scales={
        "small": Scale(config=Config(), minutes=0.4),
        "reduced": Scale(config=Config(most_pairs=8, n_steps=1500, n_judged=8000, n_patched=100)),
    },
    run=run,
    draw=draw,
    captions={
        "Accuracy while training": (
            "How many held-out strings of each kind are judged right. Of a wrong total, at least two more brackets open "
            "than close; a wrong elevation is a bracket that closes before it was opened, with the total right."
        ),
        "Strings placed by two parts of the model": (
            "Each point is a string, placed by what two parts of the model add to the answer that it is unbalanced. The three kinds "
            "lie mostly apart in this plane."
        ),
        "Parts patched into balanced strings": (
            "How many balanced strings are called unbalanced when one part writes what it writes in another string. The MLP of the "
            "first layer (L0 mlp) carries both failures, and far less when the other string is balanced too."
        ),
        "Attention in the first layer": (
            "Rows are brackets, and the question mark at the end where the answer is read; columns are what they look at. Of the "
            "heads of the first layer, these are the one that spreads its attention most and the one that does so least."
        ),
        "A neuron that follows the brackets": (
            "Each point is a random string: of the first MLP's neurons, the one whose input follows most closely how many of the "
            "brackets open. The title says how closely (R²), the numbers beside it how closely one does before training."
        ),
    },
)
