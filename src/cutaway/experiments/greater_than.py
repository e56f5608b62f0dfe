"""Greater-than: heads carry a year to where the next one is due, and MLPs know which years come after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway import LanguageModel, ModelConfig, Transformer, edits, means, run_with_cache, sweep
from cutaway.experiments.frame import Check, Curves, Experiment, Outcome, Recipe, Scale, Trial
from cutaway.experiments.head_circuits import Head, HeadCircuits, all_heads
from cutaway.experiments.year_spans import N_YEARS, SpanPrompts, YearSpans, span_words
from cutaway.interp.attention import head_label
from cutaway.interp.edits import Edit
from cutaway.interp.patching import patch_grid
from cutaway.interp.path_patching import PathPatching, patch_paths
from cutaway.training.step import next_token_loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "Config", "run", "draw"]

_LEAST_LOST = 0.1
"""The share that is lost without a head that is said to carry the year."""
_N_SHOWN = 4096  # prompts that the matrix is made of
_DEEPEST = 0.1
"""The probability of the matrix's deepest colour: near the ends few years are left, and likely."""
_N_PATHS = 128  # prompts on which paths are patched


@dataclass(frozen=True, kw_only=True)
class Config:
    """The model, what it never reads, and on how many prompts it is judged."""

    n_layers: int = 2
    d_model: int = 64
    n_heads: int = 2
    d_head: int = 8
    d_mlp: int = 256
    p_held_out: float = 0.25
    """Of the combinations of a noun and a year."""
    n_steps: int = 700
    batch_size: int = 128
    n_prompts: int = 512


class _Data(NamedTuple):
    """Prompts with combinations that were read in training, and with others."""

    known: SpanPrompts
    held_out: SpanPrompts


class _Trained(NamedTuple):
    model: Transformer
    curves: Curves


def run(config: Config, trial: Trial) -> Outcome:
    """Train a model with MLPs and one without; find the heads on known combinations, judge everything on those held out."""
    spans = YearSpans.drawn(config.p_held_out, generator=trial.generator("held out"))
    data = _Data(*(
        spans.prompts(config.n_prompts, is_held_out=each, generator=trial.generator("prompts", each)) for each in (False, True)
    ))  # fmt: skip
    untrained = _model(config, trial, d_mlp=config.d_mlp)
    trained, control = (_train(config, trial, spans, data, d_mlp=d_mlp) for d_mlp in (config.d_mlp, 0))
    model, prompts = trained.model, data.held_out
    carriers, circuits = _carriers(model, data.known), HeadCircuits(model, prompts.tokens, prompts.other_tokens, prompts.metric)
    without, paths = _without(model, prompts), _paths(model, prompts)
    return Outcome(
        checks=(
            *_ability_checks(model, untrained, prompts),
            _control_check(control.model, _model(config, trial, d_mlp=0), prompts),
            *_circuit_checks(circuits, carriers, without, paths),
        ),
        numbers=_numbers(carriers, paths),
        arrays={
            "with MLPs": trained.curves["held_out"],
            "without MLPs": control.curves["held_out"],
            "matrix": _matrix(model, spans.prompts(_N_SHOWN, generator=trial.generator("shown"))),
            "without": torch.tensor(list(without.values())),
            "shares": torch.tensor([circuits.share([head]) for head in circuits.heads]).unflatten(0, (-1, config.n_heads)),
            "paths": paths.recovery,  # in the order of the computation
        },
        models={"greater-than": LanguageModel(model, span_words())},
    )


def _model(config: Config, trial: Trial, *, d_mlp: int) -> Transformer:
    shape = ModelConfig(
        d_vocab=span_words().d_vocab, n_ctx=16, n_layers=config.n_layers, n_heads=config.n_heads, d_model=config.d_model,
        d_head=config.d_head, d_mlp=d_mlp, act="relu", tie_embeddings=False,
    )  # fmt: skip
    return Transformer(shape, generator=trial.generator("weights", d_mlp))


def _train(config: Config, trial: Trial, spans: YearSpans, data: _Data, *, d_mlp: int) -> _Trained:
    model = _model(config, trial, d_mlp=d_mlp)

    def loss(step: int) -> Float[Tensor, ""]:
        tokens = spans.sentences(config.batch_size, generator=trial.generator("batch", step))
        return next_token_loss(model, tokens[:, :-1], tokens[:, 1:])

    recipe = Recipe(
        n_steps=config.n_steps, learning_rate=4e-3, beta2=0.98, n_warmup_steps=50, n_decay_steps=round(0.4 * config.n_steps)
    )
    curves = trial.learn(
        "with MLPs" if d_mlp else "without MLPs", model, loss, recipe,
        watch=lambda _: {name: _difference(model, prompts) for name, prompts in data._asdict().items()}, watch_every=50,
    )  # fmt: skip
    return _Trained(model, curves)


@torch.no_grad()
def _difference(model: Transformer, prompts: SpanPrompts, *, later: bool | None = None) -> float:
    """Return the mean probability difference, of prompts about a later or an earlier year alone where it is said."""
    values = prompts.metric(model(prompts.tokens))
    return values[slice(None) if later is None else prompts.is_later == later].mean().item()


def _ends(model: Transformer, prompts: SpanPrompts) -> tuple[float, float]:
    """Return the mean probability difference of prompts, and that by the same measure where the year leaves nearly all open."""
    with torch.no_grad():
        clean, other = (prompts.metric(model(tokens)).mean().item() for tokens in (prompts.tokens, prompts.other_tokens))
    return clean, other


def _carriers(model: Transformer, prompts: SpanPrompts) -> list[Head]:
    """Return the heads without which much is lost, when each by itself writes as if the year left nearly all open."""
    _, cache = run_with_cache(model, prompts.other_tokens, "blocks.*.attn.z")
    scores = patch_grid(model, prompts.tokens, cache, prompts.metric, site="z", by="head").mean(-1)
    clean, other = _ends(model, prompts)
    lost = dict(zip(all_heads(model.config), ((clean - scores) / (clean - other)).flatten().tolist(), strict=True))
    return [head for head, share in lost.items() if share >= _LEAST_LOST] or [max(lost, key=lost.__getitem__)]


def _without(model: Transformer, prompts: SpanPrompts) -> dict[str, float]:
    """Return the probability difference where MLPs write something else than what they make of the prompt.

    That is their mean at each position, over prompts about later and earlier years alike; what they write in the other prompts; or
    what they write of the same year in the same words about another noun and century.
    """
    names = [f"blocks.{layer}.mlp_out" for layer in range(model.config.n_layers)]
    found = means(model, prompts.tokens, names, over_positions=False)
    others, retold = (run_with_cache(model, tokens, names)[1] for tokens in (prompts.other_tokens, prompts.retold_tokens))
    variants: dict[str, list[Edit]] = {
        "as they are": [],
        "mean": [edits.mean(name, found[name]) for name in names],
        **{f"mean of MLP {layer}": [edits.mean(name, found[name])] for layer, name in enumerate(names)},
        "of 01 or 98": [edits.patch(name, others) for name in names],
        "of another noun": [edits.patch(name, retold) for name in names],
    }
    scores = sweep(model, prompts.tokens, list(variants.values()), prompts.metric).mean(-1)
    return dict(zip(variants, scores.tolist(), strict=True))


def _paths(model: Transformer, prompts: SpanPrompts) -> PathPatching:
    """Return what it does when one MLP, or the logits, hear one head or MLP as it is in the other prompts, and all else holds."""
    some = prompts.rows(_N_PATHS)
    layers = range(model.config.n_layers)
    return patch_paths(
        model, some.tokens, some.other_tokens, some.metric, mlps="frozen",
        senders=[*(head_label(*head) for head in all_heads(model.config)), *(f"mlp{layer}" for layer in layers)],
        receivers=[*(f"mlp{layer}" for layer in layers), "logits"],
    )  # fmt: skip


@torch.no_grad()
def _matrix(model: Transformer, prompts: SpanPrompts) -> Float[Tensor, "2 year next_year"]:
    """Return the mean probability of each second year after each first, where a later one comes and where an earlier one does."""
    probs = model(prompts.tokens)[:, -1].softmax(-1)[:, :N_YEARS]
    sums, counts = torch.zeros(2, N_YEARS, N_YEARS), torch.zeros(2, N_YEARS, 1)
    at = (1 - prompts.is_later.long(), prompts.years)
    sums.index_put_(at, probs, accumulate=True)
    counts.index_put_(at, torch.ones(len(probs), 1), accumulate=True)
    return sums / counts


def _ability_checks(model: Transformer, untrained: Transformer, prompts: SpanPrompts) -> Iterator[Check]:
    for later, name in ((True, "later"), (False, "earlier")):
        yield Check(
            name=f"unseen pairs of noun and year, {name} year due: probability of right years less that of wrong ones", at_least=0.8,
            value=_difference(model, prompts, later=later), null=_difference(untrained, prompts, later=later), null_of="untrained",
        )  # fmt: skip
    clean, other = _ends(model, prompts)
    yield Check(
        name="with 01 or 98 in place of the year: probability of years that were right less that of wrong ones",
        at_most=0.2,
        value=other,
        null=clean,
        null_of="with the year itself",
    )


def _control_check(control: Transformer, untrained: Transformer, prompts: SpanPrompts) -> Check:
    """Return whether a model that never had MLPs learns it."""
    return Check(
        name="trained without MLPs, unseen pairs of noun and year: probability of right years less that of wrong ones", at_least=0.8,
        value=_difference(control, prompts), null=_difference(untrained, prompts), null_of="untrained",
    )  # fmt: skip


def _circuit_checks(
    circuits: HeadCircuits, carriers: Sequence[Head], without: Mapping[str, float], paths: PathPatching
) -> Iterator[Check]:
    yield Check(
        name="probability of right years less that of wrong ones, all MLPs replaced by their mean", at_most=0.2, value=without["mean"],
        null=without["of another noun"], null_of="as for another noun",
    )  # fmt: skip
    yield Check(
        name="share of what the year does to the answer that MLPs and the heads that carry the year bring about alone", at_least=0.8,
        value=circuits.share(carriers),
        null=circuits.share(circuits.others(carriers)), null_of="all other heads",
    )  # fmt: skip
    to_logits, to_mlps = (
        sum(path.recovery for path in paths.ranked() if path.sender.startswith("L") and path.receiver.startswith(name))
        for name in ("logits", "mlp")
    )
    yield Check(
        name="share of what the year does to the answer that goes from heads straight to the logits", at_most=0.2,
        value=to_logits, null=to_mlps, null_of="from heads to MLPs",
    )  # fmt: skip


def _numbers(carriers: Sequence[Head], paths: PathPatching) -> dict[str, float]:
    return {
        "heads that carry the year": len(carriers),
        **{f"share through {each.sender} to {each.receiver}": each.recovery for each in paths.ranked()},
    }


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw which years are foretold, how that is learnt, what is left without MLPs and with some heads alone, and the paths."""
    from cutaway.plots import Panel, bars, heatmap, panels

    arrays = outcome.arrays
    curves = {name: tuple(arrays[name].tolist()) for name in ("with MLPs", "without MLPs")}
    years = [f"{year:02d}" for year in range(N_YEARS)]
    matrices = {
        f"Probabilities where {name} year is due": heatmap(
            matrix.numpy(), rows=years, columns=years, title=f"What comes where {name} year is due",
            row_title="first year", column_title="second year", label="probability", limit=_DEEPEST,
        )
        for name, matrix in zip(("a later", "an earlier"), arrays["matrix"], strict=True)
    }  # fmt: skip
    n_layers, n_heads = arrays["shares"].shape
    heads = [head_label(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    mlps = [f"mlp{layer}" for layer in range(n_layers)]
    senders = [name for layer, mlp in enumerate(mlps) for name in (*heads[layer * n_heads : (layer + 1) * n_heads], mlp)]
    return {
        **matrices,
        "Learning with and without MLPs": panels(
            [Panel("", "right less wrong", curves, tuple(curves), least=(0.0, 1.0))],
            title="Nouns and years that were never read together", x_label="step",
        ),
        "What MLPs are needed for": bars(
            arrays["without"].numpy(),
            labels=["as they are", "mean", *(f"mean, {each} alone" for each in mlps), "as after 01 or 98", "as for another noun"],
            title="What MLPs write instead", label="probability of right less wrong years",
        ),
        "What single heads carry": bars(
            arrays["shares"].flatten().numpy(), labels=heads, title="One head and the MLPs know of the year",
            label="share of the year's effect"
        ),
        "Who passes the year on to whom": heatmap(
            arrays["paths"].numpy(), rows=senders, columns=[*mlps, "logits"], title="Who is heard by whom", row_title="sender",
            column_title="receiver", label="share of the year's effect", signed=True,
        ),
    }  # fmt: skip


EXPERIMENT = Experiment(
    id="greater-than",
    title="Greater-than: later years and earlier ones",
    claim=(
        "A small transformer learns that a war which began in 1732 ended later: its heads carry the year to its MLPs, which turn it "
        "into the years that may come. MLPs are not needed: a model without any learns it too. And as every first year is read in "
        "training, with other nouns, a table of years would do as well as their order."
    ),
    source="Hanna et al. 2023, How does GPT-2 compute greater-than?",
    scales={
        "small": Scale(config=Config(), minutes=0.7),
        "reduced": Scale(config=Config()),  # fewer steps fall short
    },
    run=run,
    draw=draw,
    captions={
        "Probabilities where a later year is due": (
            "Each row is the year at the beginning, each column a year that may come: the probability lies to the right of the "
            "diagonal, on later years."
        ),
        "Probabilities where an earlier year is due": (
            "The same where the sentence asks for an earlier year: the probability lies to the left of the diagonal."
        ),
        "Learning with and without MLPs": (
            "The probability of right years less that of wrong ones, for nouns and years that were never read together. A model "
            "that has no MLPs learns it as well."
        ),
        "What MLPs are needed for": (
            "The same probability when MLPs write something else: their mean, which takes most of it, what they write where the "
            "year is 01 or 98 and leaves nearly all open, or what they write for another noun, which takes little."
        ),
        "What single heads carry": "How much of what the year does comes back when one head and the MLPs alone know of the year.",
        "Who passes the year on to whom": (
            "How much of what the year does goes from a part (row) directly to another (column): from heads to MLPs, from MLPs to "
            "the logits, and hardly from heads straight to the logits."
        ),
    },
)
