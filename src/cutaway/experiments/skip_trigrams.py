"""Skip-trigrams: one layer of attention learns A ... B -> C, and its weights say which it has learnt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cutaway import LanguageModel, Transformer, edits, run_with_edits
from cutaway.experiments.frame import Check, Curves, Experiment, Outcome, Recipe, Scale, Trial
from cutaway.experiments.letters import letters
from cutaway.experiments.planted_trigrams import PlantedTexts, PlantedTrigrams
from cutaway.experiments.text_trigrams import FoundInText, TextTrigrams, find_in_text, text_check
from cutaway.experiments.trigram_circuits import attention_by_token, bare_layer, trigram_scores
from cutaway.interp.attention import head_label
from cutaway.interp.factored import copying_scores, full_ov
from cutaway.training.step import next_token_loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "Config", "run", "draw"]

_N_SHOWN = 24  # skip-trigrams of text


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is planted, and the models that find it; and a text that has skip-trigrams by itself."""

    d_vocab: int = 64
    n_destinations: int = 8
    n_ctx: int = 24
    p_target: float = 0.9
    d_model: int = 64
    n_heads: int = 4
    n_steps: int = 1000
    batch_size: int = 128
    n_judged: int = 2048
    """On how many texts a model's loss is measured."""
    text: TextTrigrams = field(default_factory=TextTrigrams)


class _Trained(NamedTuple):
    planted: PlantedTrigrams
    judged: PlantedTexts
    model: Transformer
    curves: Curves


def run(config: Config, trial: Trial) -> Outcome:
    """Train a model on planted skip-trigrams, one on such that copy their source, and one on text; read all off the weights."""
    moving, copying = (_train(config, trial, is_copying=is_copying) for is_copying in (False, True))
    untrained, in_text = _model(config, trial), find_in_text(config.text, trial)
    return Outcome(
        checks=(
            *_checks("moving", moving, untrained),
            *_checks("copying", copying, untrained),
            Check(
                name="copying (A ... B -> A): sum of OV's eigenvalues, from sources to sources, over the sum of their sizes",
                at_least=0.8,
                value=_copying_score(copying), null=_copying_score(moving), null_of="moving",
            ),
            text_check(in_text),
        ),
        numbers=_numbers("moving", moving) | _numbers("copying", copying) | _text_numbers(in_text),
        arrays=_arrays("moving", moving) | _arrays("copying", copying) | {f"lift {name}": each for name, each in in_text.lifts.items()},
        texts={"in text": in_text.names},
        models={"skip-trigrams-1l": LanguageModel(moving.model, letters(config.d_vocab))},
    )  # fmt: skip


def _model(config: Config, trial: Trial) -> Transformer:
    return bare_layer(
        config.d_vocab, config.n_ctx, d_model=config.d_model, n_heads=config.n_heads, generator=trial.generator("weights")
    )


def _train(config: Config, trial: Trial, *, is_copying: bool) -> _Trained:
    planted = PlantedTrigrams.drawn(
        config.d_vocab, n_destinations=config.n_destinations, p_target=config.p_target, is_copying=is_copying,
        generator=trial.generator("planted"),
    )  # fmt: skip
    judged = planted.texts(config.n_judged, config.n_ctx, generator=trial.generator("judged"))
    model = _model(config, trial)

    def loss(step: int) -> Float[Tensor, ""]:
        tokens = planted.texts(config.batch_size, config.n_ctx, generator=trial.generator("batch", step)).tokens
        return next_token_loss(model, tokens[:, :-1], tokens[:, 1:])

    def watch(_: int) -> Mapping[str, float]:
        return {"gap": _gap(judged, model(judged.tokens)), "precision": planted.precision(trigram_scores(model))}

    recipe = Recipe(n_steps=config.n_steps, learning_rate=1e-2, n_warmup_steps=50, n_decay_steps=config.n_steps // 2)
    curves = trial.learn("copying" if is_copying else "moving", model, loss, recipe, watch=watch, watch_every=25)
    return _Trained(planted, judged, model, curves)


@torch.no_grad()
def _gap(texts: PlantedTexts, logits: Float[Tensor, "batch pos token"]) -> float:
    """Return how many nats a token after a destination costs above what it must."""
    log_probs = logits[:, :-1].log_softmax(-1).gather(-1, texts.tokens[:, 1:, None])[..., 0]
    return (texts.log_probs[:, 1:] - log_probs)[texts.follows_destination[:, 1:]].mean().item()


def _own(trained: _Trained) -> Float[Tensor, "source token"]:
    """Return what each source adds to the logits of all tokens as its own destination reads it."""
    sources, destinations, _ = trained.planted.triples.unbind(1)
    return trigram_scores(trained.model)[sources, destinations]


@torch.no_grad()
def _eigenvalues(trained: _Trained) -> Complex[Tensor, " source"]:
    """Return the eigenvalues of OV, summed over heads, from sources to sources; attention has no part in it."""
    sources = trained.planted.triples[:, 0]
    moved = full_ov(trained.model, 0).AB.sum(0)  # source target
    eigenvalues: Tensor = torch.linalg.eigvals(moved[sources][:, sources].double())
    return eigenvalues


def _copying_score(trained: _Trained) -> float:
    eigenvalues = _eigenvalues(trained)
    return (eigenvalues.real.sum() / eigenvalues.abs().sum()).item()


def _checks(name: str, trained: _Trained, untrained: Transformer) -> Iterator[Check]:
    """Yield whether the circuits name what was planted, and whether the model foretells all that can be."""
    planted, judged, model = trained.planted, trained.judged, trained.model
    said = {"moving": "moving (A ... B -> C)", "copying": "copying (A ... B -> A)"}[name]
    deaf = run_with_edits(model, judged.tokens, [edits.zero("blocks.0.attn_out")])
    yield Check(
        name=f"{said}: share of the skip-trigrams planted among as many that QK and OV rank first", at_least=0.9,
        value=planted.precision(trigram_scores(model)), null=planted.precision(trigram_scores(untrained)), null_of="untrained",
    )  # fmt: skip
    yield Check(
        name=f"{said}: loss after destinations above the least possible, nats", at_most=0.05,
        value=_gap(judged, model(judged.tokens)), null=_gap(judged, deaf), null_of="without attention",
    )  # fmt: skip


def _numbers(name: str, trained: _Trained) -> dict[str, float]:
    ranked = trigram_scores(trained.model).flatten().sort(descending=True).values
    n_planted = len(trained.planted.triples)
    judged = trained.judged
    return {
        f"{name}: the least possible loss after destinations, nats": -judged.log_probs[judged.follows_destination].mean().item(),
        f"{name}: the least logit among as many as were planted": ranked[n_planted - 1].item(),
        f"{name}: the next logit": ranked[n_planted].item(),
        **{
            f"{name}: copying score of {head_label(0, head)}": score
            for head, score in enumerate(copying_scores(trained.model)[0].tolist())
        },
    }


def _text_numbers(found: FoundInText) -> dict[str, float]:
    return {
        "text: nats a character on text held out": found.loss,
        **{f"text, {name}: share that comes twice as often as without A": found.share(name) for name in found.lifts},
        **{f"text, {name}: share that comes half as often": found.share(name, rarer=True) for name in found.lifts},
        **{f"text, {name}: how much oftener, log2, mean": lift.mean().item() for name, lift in found.lifts.items()},
    }


def _arrays(name: str, trained: _Trained) -> dict[str, Float[Tensor, "..."]]:
    sources, destinations, targets = trained.planted.triples.unbind(1)
    return {
        f"{name} gap": trained.curves["gap"],
        f"{name} precision": trained.curves["precision"],
        f"{name} triples": trained.planted.triples,
        f"{name} QK": attention_by_token(trained.model).sum(0)[destinations.unique_consecutive()][:, sources],
        f"{name} OV": _own(trained)[:, targets],
        f"{name} eigenvalues": torch.view_as_real(_eigenvalues(trained)),
    }


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw how the model learns, both circuits of what was planted, eigenvalues that tell copying from moving, and what text has."""
    from cutaway.plots import Panel, arrows, bars, heatmap, lines, panels

    arrays = outcome.arrays
    names = ("moving", "copying")
    shown: dict[str, dict[str, Any]] = {
        "loss above the least, nats": {name: tuple(arrays[f"{name} gap"].tolist()) for name in names},
        "share ranked first": {name: tuple(arrays[f"{name} precision"].tolist()) for name in names},
    }
    lifts = {
        name.removeprefix("lift "): each.sort(descending=True).values.tolist()
        for name, each in arrays.items()
        if name.startswith("lift ")
    }
    sources, destinations, targets = (
        [f"{letter}{token}" for token in column.unique_consecutive().tolist()]
        for letter, column in zip("ABC", arrays["moving triples"].unbind(1), strict=True)
    )
    return {
        "Learning": panels(
            [Panel("", y_label, curves, names) for y_label, curves in shown.items()],
            title="One layer learns what was planted", x_label="step",
        ),
        "QK of the moving model": heatmap(
            arrays["moving QK"].numpy(), rows=destinations, columns=sources, title="QK: where destinations look",
            row_title="destination", column_title="source", label="attention, summed over heads",
        ),
        "OV of the moving model": heatmap(
            arrays["moving OV"].numpy(), rows=sources, columns=targets, title="OV: what sources say, as their destinations read them",
            row_title="source", column_title="target", label="added to the logit", signed=True,
        ),
        "Eigenvalues of OV": arrows(
            {name: arrays[f"{name} eigenvalues"].numpy() for name in names}, title="Eigenvalues of OV, from sources to sources",
            axes_labels=("real", "imaginary"),
        ),
        "Skip-trigrams that come oftener": lines(
            {name: (list(range(1, len(lift) + 1)), lift) for name, lift in lifts.items()},
            title="Skip-trigrams in text held out", x_label="skip-trigrams, from the most lifted on",
            y_label="how much oftener than without A, log2",
        ),
        "Skip-trigrams of text": bars(
            arrays["lift ranked first"][:_N_SHOWN].numpy(), labels=outcome.texts["in text"][:_N_SHOWN],
            title="Those that QK and OV rank first in text", label="how much oftener than without A, log2",
        ),
    }  # fmt: skip


EXPERIMENT = Experiment(
    id="skip-trigrams",
    title="Skip-trigrams in one layer",
    claim=(
        "One layer of attention learns skip-trigrams A ... B -> C, and the products of its weights, QK and OV, name those that it has "
        "learnt; OV summed over heads, from sources to sources, has mostly positive eigenvalues where they copy, A ... B -> A. In "
        "text, at least one in eight of the 200 that they rank first comes twice as often as without A, and fewer of others."
    ),
    source="Elhage et al. 2021, A Mathematical Framework for Transformer Circuits",
    scales={
        "small": Scale(config=Config(), minutes=1),
        "reduced": Scale(config=Config(n_steps=300, batch_size=96, n_judged=512, text=TextTrigrams(n_steps=500))),
    },
    run=run,
    draw=draw,
    captions={
        "Learning": (
            "Above: the loss after destinations comes down to the least there can be. Below: the planted skip-trigrams are those "
            "that the weights rank first. Moving: A ... B is followed by C; copying: by A again."
        ),
        "QK of the moving model": "Where each destination B (row) looks among the sources A (columns): at its own two sources.",
        "OV of the moving model": (
            "What each source A (row) adds to the logit of each target C (column) when its destination looks at it: most to its own "
            "target, on the diagonal."
        ),
        "Eigenvalues of OV": (
            "Each line is an eigenvalue of OV from sources to sources. Where sources are copied the real parts are mostly positive "
            "(to the right), where they are moved they are not."
        ),
        "Skip-trigrams that come oftener": (
            "How much oftener C follows A ... B than B, counted in text that was not learnt, each kind sorted: those that the "
            "weights rank first; the same with another A; as many at random; and those that an untrained model ranks first. 1 is "
            "twice as often."
        ),
        "Skip-trigrams of text": (
            "The first of those that the weights rank first, in their order, and how much oftener C follows A ... B than B in text "
            "that was not learnt (blue; orange: more rarely). Some only name what B is followed by anyhow."
        ),
    },
)
