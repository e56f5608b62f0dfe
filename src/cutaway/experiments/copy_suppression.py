"""Copy suppression: heads look for what was there and must not be said again, and write against it.

Unlike the head of McDougall et al., these are in the only layer: the trigger itself queries, with no prediction upstream of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from cutaway import LanguageModel, ModelConfig, Transformer, edits, run_with_cache, run_with_edits
from cutaway.experiments.frame import Check, Curves, Experiment, Outcome, Recipe, Scale, Trial
from cutaway.experiments.head_circuits import all_heads
from cutaway.experiments.used_candidates import Candidates, CandidateTexts, letters_of
from cutaway.interp.ablation import HeadSet, ablate_heads
from cutaway.interp.attention import head_label
from cutaway.interp.factored import full_ov
from cutaway.training.step import UNJUDGED, next_token_loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "Config", "run", "draw"]

_LEAST_RISE = 0.03  # of the probability of what is forbidden, without a head that is said to suppress


@dataclass(frozen=True, kw_only=True)
class Config:
    """What may follow what, and the model that learns it."""

    n_triggers: int = 16
    n_candidates: int = 16
    n_each: int = 8
    """How many candidates a trigger has."""
    p_again: float = 0.3
    n_turns: int = 12
    d_model: int = 64
    n_heads: int = 4
    d_head: int = 32
    n_steps: int = 600
    batch_size: int = 64
    n_judged: int = 256
    """On how many texts heads are found, and on how many others they are judged."""


class _Trained(NamedTuple):
    """A model, what it was taught, and texts that it is judged on, which heads are not chosen by."""

    candidates: Candidates
    model: Transformer
    judged: CandidateTexts
    curves: Curves


class _Found(NamedTuple):
    """Heads by what is lost without each, as (layer, head)."""

    suppressing: list[tuple[int, int]]
    """Those without which the forbidden is likelier, the strongest first; but for the one that repeats, which may do so too."""
    repeating: tuple[int, int]
    """The one without which most is lost on what comes again."""


class _Ablated(NamedTuple):
    """What is measured with all heads, and without some: by name, "all" for all heads."""

    forbidden: Mapping[str, float]
    """The probability of candidates that are forbidden, where there are any."""
    exposed: Mapping[str, float]
    """The loss after triggers where something is forbidden, nats."""
    free: Mapping[str, float]
    """The loss after triggers where nothing is."""
    again: Mapping[str, float]
    """The loss on what comes again, nats."""


def run(config: Config, trial: Trial) -> Outcome:
    """Train a model, find the heads that suppress on some texts, and judge them on others and by their weights."""
    trained = _train(config, trial)
    untrained = trained._replace(model=_model(config, trained.candidates, trial))
    heads = {head_label(*head): [head] for head in all_heads(trained.model.config)}
    finding = trained.candidates.texts(config.n_judged, config.n_turns, generator=trial.generator("finding"))
    found = _find(_ablated(trained.model, finding, trained.candidates, heads), all_heads(trained.model.config))
    sets = heads | {"all that suppress": found.suppressing}
    ablated = _ablated(trained.model, trained.judged, trained.candidates, sets)
    return Outcome(
        checks=(
            *_weight_checks(trained, untrained, found),
            *_attention_checks(trained, untrained, found),
            *_ablation_checks(ablated, found),
        ),
        numbers=_numbers(trained, untrained, ablated, found),
        arrays=_arrays(trained, ablated, found),
        models={"copy-suppression": LanguageModel(trained.model, trained.candidates.tokenizer)},
    )


def _model(config: Config, candidates: Candidates, trial: Trial) -> Transformer:
    shape = ModelConfig(
        d_vocab=candidates.d_vocab, n_ctx=2 * config.n_turns, n_layers=1, n_heads=config.n_heads, d_model=config.d_model,
        d_head=config.d_head, d_mlp=0, position="rotary", rotary_base=100.0, tie_embeddings=False,
    )  # fmt: skip
    model = Transformer(shape, generator=trial.generator("weights"))
    torch.nn.init.normal_(model.embed.W_E, std=0.5, generator=trial.generator("embedding"))
    return model


def _train(config: Config, trial: Trial) -> _Trained:
    candidates = Candidates.drawn(
        config.n_triggers, config.n_candidates, n_each=config.n_each, p_again=config.p_again,
        generator=trial.generator("candidates"),
    )  # fmt: skip
    model = _model(config, candidates, trial)
    judged = candidates.texts(config.n_judged, config.n_turns, generator=trial.generator("judged"))

    def loss(step: int) -> Float[Tensor, ""]:
        tokens = candidates.texts(config.batch_size, config.n_turns, generator=trial.generator("batch", step)).tokens
        targets = tokens[:, 1:].clone()
        targets[:, 1::2] = UNJUDGED  # which trigger comes next cannot be known
        return next_token_loss(model, tokens[:, :-1], targets)

    def watch(_: int) -> Mapping[str, float]:
        seen = judged.measured(model(judged.tokens), candidates.first)
        return {name: values.mean().item() for name, values in seen.items()}

    recipe = Recipe(
        n_steps=config.n_steps, learning_rate=5e-3, beta2=0.98, weight_decay=0.5, n_warmup_steps=100,
        n_decay_steps=round(0.4 * config.n_steps), max_grad_norm=1.0,
    )  # fmt: skip
    curves = trial.learn("model", model, loss, recipe, watch=watch, watch_every=20)
    return _Trained(candidates, model, judged, curves)


def _ablated(model: Transformer, texts: CandidateTexts, candidates: Candidates, sets: Mapping[str, HeadSet]) -> _Ablated:
    """Measure the model without each set of heads, which write their mean instead."""
    values = {}
    for name in ("forbidden", "something forbidden", "nothing forbidden", "again"):
        found = ablate_heads(
            model, sets, texts.tokens, how="mean", metric=lambda logits, name=name: texts.measured(logits, candidates.first)[name]
        )
        values[name] = {"all": found.base.mean().item()} | dict(zip(sets, found.scores.mean(-1).tolist(), strict=True))
    return _Ablated(*values.values())


def _find(ablated: _Ablated, heads: Sequence[tuple[int, int]]) -> _Found:
    """Return the head without which most is lost that comes again, and of the others those without which the forbidden is likelier."""
    again = torch.tensor(list(ablated.again.values()))[1:]
    repeating = int(again.argmax())
    rises = torch.tensor(list(ablated.forbidden.values()))[1:] - ablated.forbidden["all"]
    ranked = [place for place in rises.argsort(descending=True).tolist() if place != repeating]
    suppressing = [heads[place] for place in ranked if rises[place] >= _LEAST_RISE]
    return _Found(suppressing or [heads[ranked[0]]], heads[repeating])


@torch.no_grad()
def _unseen(trained: _Trained, heads: HeadSet, is_key: Bool[Tensor, "batch turn pos"]) -> float:
    """Return the probability of what is forbidden where these heads, from triggers, get nothing of what is at some keys."""
    is_hidden = torch.zeros(len(is_key), 2 * is_key.shape[1], is_key.shape[2], dtype=torch.bool)
    is_hidden[:, ::2] = is_key & ~trained.judged.is_again[..., None]
    hidden = [
        edits.apply(f"blocks.{layer}.attn.pattern", lambda pattern: pattern.masked_fill(is_hidden, 0), head=head)
        for layer, head in heads
    ]
    logits = run_with_edits(trained.model, trained.judged.tokens, hidden)
    return trained.judged.measured(logits, trained.candidates.first)["forbidden"].mean().item()


@torch.no_grad()
def _own(trained: _Trained, head: tuple[int, int]) -> Float[Tensor, "candidate candidate"]:
    """Return what looking at one candidate does to the logit of another, less what it does to all alike."""
    first = trained.candidates.first
    moved = full_ov(trained.model, *head, with_norm=True).AB[first:, first:]
    return moved - moved.mean(-1, keepdim=True)


def _eigenvalues(trained: _Trained, head: tuple[int, int]) -> Complex[Tensor, " candidate"]:
    eigenvalues: Tensor = torch.linalg.eigvals(_own(trained, head).double())
    return eigenvalues


def _score(trained: _Trained, head: tuple[int, int]) -> float:
    """Return the eigenvalues' sum over the sum of their sizes: 1 copies, -1 writes against."""
    eigenvalues = _eigenvalues(trained, head)
    return (eigenvalues.real.sum() / eigenvalues.abs().sum()).item()


@torch.no_grad()
def _pattern(trained: _Trained, head: tuple[int, int]) -> Float[Tensor, "batch q_pos k_pos"]:
    layer, place = head
    _, cache = run_with_cache(trained.model, trained.judged.tokens, names=f"blocks.{layer}.attn.pattern")
    return cache["pattern", layer][:, place]


def _looks(trained: _Trained, head: tuple[int, int]) -> Float[Tensor, "batch turn pos"]:
    """Return what a head looks at where a candidate is called for."""
    return _pattern(trained, head)[:, ::2]


def _looks_at(trained: _Trained, head: tuple[int, int]) -> Float[Tensor, " candidate"]:
    """Return what a head gives on average to a candidate that is forbidden where it looks from."""
    first, texts = trained.candidates.first, trained.judged
    looks, is_key = _looks(trained, head), texts.is_forbidden_key(first)
    chosen = [looks[is_key & (texts.tokens == token)[:, None]] for token in range(first, trained.candidates.d_vocab)]
    return torch.stack([each.mean() for each in chosen])


def _lowers_most(trained: _Trained, heads: HeadSet) -> float:
    """Return of which share of the candidates, looked back on, these heads lower the own logit more than any other candidate's."""
    moved = torch.stack([_looks_at(trained, head)[:, None] * _own(trained, head) for head in heads]).sum(0)
    was_due = ~moved.isnan().any(-1)  # of a candidate that never was forbidden there is no mean
    return (moved.argmin(-1) == torch.arange(len(moved)))[was_due].double().mean().item()


def _preference(trained: _Trained, heads: HeadSet) -> float:
    """Return what these heads give to a used candidate that is forbidden over what they give to one that is not, after triggers."""
    first, texts = trained.candidates.first, trained.judged
    looks = torch.stack([_looks(trained, head) for head in heads]).mean(0)
    is_forbidden = texts.is_forbidden_key(first)
    is_other = texts.is_used_key(first) & ~is_forbidden & ~texts.is_again[..., None]
    return (looks[is_forbidden].mean() / looks[is_other].mean()).item()


def _weight_checks(trained: _Trained, untrained: _Trained, found: _Found) -> Iterator[Check]:
    yield Check(
        name="strongest suppressing head: sum of its OV eigenvalues over the sum of their sizes", at_most=-0.8,
        value=_score(trained, found.suppressing[0]), null=_score(trained, found.repeating), null_of="repeating head",
    )  # fmt: skip
    yield Check(
        name="share of candidates to which suppressing heads, looking at them, do most harm", at_least=0.75,
        value=_lowers_most(trained, found.suppressing), null=_lowers_most(untrained, found.suppressing), null_of="untrained",
    )  # fmt: skip


def _attention_checks(trained: _Trained, untrained: _Trained, found: _Found) -> Iterator[Check]:
    yield Check(
        name="suppressing heads' attention to forbidden candidates over that to others that were there", at_least=2.0,
        value=_preference(trained, found.suppressing), null=_preference(untrained, found.suppressing), null_of="untrained",
    )  # fmt: skip
    first, texts = trained.candidates.first, trained.judged
    is_due, base = texts.is_forbidden_key(first), _unseen(trained, [], texts.is_used_key(first))
    yield Check(
        name="rise of a forbidden candidate's probability when suppressing heads cannot look at it", at_least=0.1,
        value=_unseen(trained, found.suppressing, is_due) - base,
        null=_unseen(trained, found.suppressing, texts.is_used_key(first) & ~is_due) - base, null_of="cannot look at others",
    )  # fmt: skip


def _ablation_checks(ablated: _Ablated, found: _Found) -> Iterator[Check]:
    strongest, repeating = head_label(*found.suppressing[0]), head_label(*found.repeating)
    yield Check(
        name="probability given to forbidden candidates", at_most=0.06,
        value=ablated.forbidden["all"], null=ablated.forbidden[strongest], null_of="without the strongest suppressing head",
    )  # fmt: skip
    yield Check(
        name="loss added without the strongest suppressing head, nats", at_least=0.08,
        value=ablated.exposed[strongest] - ablated.exposed["all"], null=ablated.free[strongest] - ablated.free["all"],
        null_of="where nothing is forbidden",
    )  # fmt: skip
    yield Check(
        name="loss on candidates that are called for again, nats", at_most=0.1,
        value=ablated.again["all"], null=ablated.again[repeating], null_of="without the repeating head",
    )  # fmt: skip


def _numbers(trained: _Trained, untrained: _Trained, ablated: _Ablated, found: _Found) -> dict[str, float]:
    texts = trained.judged
    return {
        "suppressing heads, beside the repeating one": len(found.suppressing),
        "loss where something is forbidden, nats": ablated.exposed["all"],
        "the least possible there, nats": -texts.log_probs[texts.is_forbidden.any(-1)].mean().item(),
        "without suppressing heads: loss where something is forbidden, nats": ablated.exposed["all that suppress"],
        "without suppressing heads: loss on what comes again, nats": ablated.again["all that suppress"],
        "without suppressing heads: probability of what is forbidden": ablated.forbidden["all that suppress"],
        "untrained: eigenvalues' sum over that of their sizes": _score(untrained, found.suppressing[0]),
        "strongest suppressing head's number": found.suppressing[0][1],
        "repeating head's number": found.repeating[1],
        **{name: value for head in all_heads(trained.model.config) for name, value in _of_head(trained, ablated, head).items()},
    }


def _of_head(trained: _Trained, ablated: _Ablated, head: tuple[int, int]) -> dict[str, float]:
    """Return what every head is, whatever it is called: the repeating one may suppress as much as others."""
    label = head_label(*head)
    return {
        f"{label}: eigenvalues' sum over that of their sizes": _score(trained, head),
        f"{label}: attention to what is forbidden over that to the rest": _preference(trained, [head]),
        f"without {label}: probability of what is forbidden": ablated.forbidden[label],
        f"without {label}: nats lost where something is forbidden": ablated.exposed[label] - ablated.exposed["all"],
        f"without {label}: loss on what comes again, nats": ablated.again[label],
    }


def _arrays(trained: _Trained, ablated: _Ablated, found: _Found) -> dict[str, Float[Tensor, "..."]]:
    pair = [found.suppressing[0], found.repeating]
    return {
        **{name: trained.curves[name] for name in trained.curves.points},
        "heads": torch.tensor(pair),
        "all heads": torch.tensor(all_heads(trained.model.config)),
        "OV": torch.stack([_own(trained, head) for head in pair]),
        "eigenvalues": torch.stack([torch.view_as_real(_eigenvalues(trained, head)) for head in pair]),
        "forbidden without": torch.tensor(list(ablated.forbidden.values())),
        "tokens": trained.judged.tokens[0],
        "patterns": torch.stack([_pattern(trained, head)[0] for head in pair]),
        "n_triggers": torch.tensor(len(trained.candidates.allowed)),
    }


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw how both are learnt, what both heads write and where they look, and what is said again without heads."""
    from cutaway.plots import Panel, arrows, attention, bars, heatmap, panels

    arrays, n_triggers = outcome.arrays, int(outcome.arrays["n_triggers"])
    labels = [head_label(*head) for head in arrays["heads"].tolist()]
    kinds = [f"{label}, {kind}" for label, kind in zip(labels, ("suppressing", "repeating"), strict=True)]
    names = [chr(ord("a") + i) for i in range(arrays["OV"].shape[1])]
    lines = {name: tuple(arrays[name].tolist()) for name in ("forbidden", "something forbidden", "least possible", "again")}
    without = [f"without {head_label(*head)}" for head in arrays["all heads"].tolist()]
    limit = arrays["OV"].abs().max().item()
    return {
        "Learning": panels(
            [
                Panel("", "loss, nats", {name: lines[name] for name in list(lines)[1:]}, list(lines)[1:]),
                Panel("", "probability", {"forbidden": lines["forbidden"]}, ["forbidden"], least=(0.0, 0.1)),
            ],
            title="What was there is not said again, unless it is called for", x_label="step",
        ),
        **{
            f"What the {kind} head writes": heatmap(
                ov.numpy(), rows=names, columns=names, title=f"OV of the {kind} head", row_title="candidate looked at",
                column_title="candidate", label="added to the logit", signed=True, limit=limit,
            )
            for kind, ov in zip(("suppressing", "repeating"), arrays["OV"], strict=True)
        },
        "Eigenvalues of both heads": arrows(
            {name: values.numpy() for name, values in zip(kinds, arrays["eigenvalues"], strict=True)},
            title="Eigenvalues of OV, from candidates to candidates", axes_labels=("real", "imaginary"),
        ),
        "Attention of both heads": attention(
            arrays["patterns"].numpy(), tokens=letters_of(arrays["tokens"], n_triggers), titles=kinds,
            title="Where both heads look: triggers A, B, ..., candidates a, b, ...",
        ),
        "Forbidden candidates without heads": bars(
            arrays["forbidden without"].numpy(),
            labels=["all heads", *without, "without suppressing ones"],
            title="What was there already, said again", label="probability of forbidden candidates",
        ),
    }  # fmt: skip


EXPERIMENT = Experiment(
    id="copy-suppression",
    title="Copy suppression",
    claim=(
        "Candidates that were there and must not come again are suppressed by heads that attend to them from the trigger and write "
        "against them, by negative eigenvalues of OV; what is called for again is repeated all the same."
    ),
    source="McDougall et al. 2023, Copy Suppression: Comprehensively Understanding an Attention Head",
    scales={
        "small": Scale(config=Config(), minutes=0.1),
        "reduced": Scale(config=Config(n_steps=350, n_judged=128)),
    },
    run=run,
    draw=draw,
    captions={
        "Learning": (
            "Above: where something is forbidden the loss nears the least there can be, and what is called for again is foretold "
            "almost for certain. Below: the probability of forbidden candidates falls to a few per cent."
        ),
        "What the suppressing head writes": (
            "What a look at a candidate (row) adds to the logit of each candidate (column). An orange diagonal: what is looked at "
            "is made less likely itself."
        ),
        "What the repeating head writes": (
            "The same for the head that repeats the last candidate where that is called for: blue where it makes what it looks at "
            "likelier, orange where it takes part in suppressing."
        ),
        "Eigenvalues of both heads": (
            "Each line is an eigenvalue of one of the matrices above. To the left (negative real part) means that what is looked at "
            "is suppressed, to the right that it is said again."
        ),
        "Attention of both heads": (
            "Each row looks back at columns. A capital letter is a trigger and calls for one of its candidates, small letters, that "
            "was not there before; + calls for the last candidate again. From triggers the suppressing head looks more at "
            "candidates that are forbidden there than at others."
        ),
        "Forbidden candidates without heads": (
            "The probability of forbidden candidates with all heads, and with one head or all suppressing ones replaced by their "
            "mean: the longer a bar, the more was suppressed by what is missing."
        ),
    },
)
