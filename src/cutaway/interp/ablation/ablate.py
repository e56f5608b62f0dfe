"""Units taken out one at a time, or heads together, and what that does to a metric: one sweep for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.ablation.measure import Measure, measure_of
from cutaway.interp.ablation.replacement import How, Replacement, make_replacement
from cutaway.interp.ablation.result import Ablation
from cutaway.interp.ablation.units import Unit, What, chosen_layers, units_of, written_by
from cutaway.interp.attention import head_label
from cutaway.interp.edits import Edit
from cutaway.interp.prompts import Target
from cutaway.interp.rows import Reference, Rows, Texts, model_of, rows_of, token_texts
from cutaway.interp.sweep import AnyMetric, sweep
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.views import without_dropout

__all__ = ["HeadSet", "ablate", "ablate_heads", "head_edits"]

HeadSet = Sequence[tuple[int, int]]
"""Heads as (layer, head)."""


def ablate(
    lm: LanguageModel | Transformer,
    texts: Texts,
    *,
    what: What = "head",
    how: How = "zero",
    metric: AnyMetric | None = None,
    correct: Target | None = None,
    wrong: Target | None = None,
    reference: Reference | None = None,
    by_position: bool = False,
    layers: int | Sequence[int] | None = None,
    pos: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Ablation:
    """Take out each unit of the model in turn, and return what that does to a metric: the loss on the texts' next tokens, in nats.

    - `what`: a head (its `z`), what `attn` or `mlp` of a layer writes or both (`layer`), a `neuron` (`mlp.post`; name the layers, as
      there are many), or the residual stream that enters a layer at one `position`.
    - `how`: `zero`; `mean` over the tokens of `reference`, or of the texts themselves, or with `by_position` of each position over
      rows; `resample`: the activation of another row of the texts, or of a row of `reference` that is drawn with `seed`.
    - `pos`: where it is taken out: everywhere, or at one position, from each row's end where negative.
    - Instead of the loss: `metric`, any of `cutaway.metrics` or a function of full logits; or at each row's end the log-probability of
      `correct`, or its logit less that of `wrong`, each a text or an id, for all rows or for each.

    `progress` is called as in `cutaway.sweep`. Raises ValueError for what the model has none of, and for references that do not fit.
    Source: Michel et al. 2019, section 3.2 (zero); Wang et al. 2022, section 2.1 (mean); Chan et al. 2022, "Causal Scrubbing"
    (resample).
    """
    model, rows = model_of(lm), rows_of(lm, texts)
    if what == "neuron" and layers is None and model.config.n_layers > 1:
        raise ValueError(f"there are {model.config.n_layers} layers of {model.config.d_mlp} neurons: name the layers meant")
    chosen = chosen_layers(model.config, layers)
    units = units_of(model.config, what, chosen, positions=_positions(rows, what, pos))
    names = {layer: written_by(model.config, what, layer) for layer in chosen}
    model = without_dropout(model)
    with torch.inference_mode():
        source = None if reference is None else rows_of(lm, reference)
        flat = [name for each in names.values() for name in each]
        replacement = make_replacement(model, rows, flat, how=how, reference=source, by_position=by_position, seed=seed)
        _check_pos(rows, replacement, by_position, pos)
        variants = [_edits_of(replacement, what, unit, names[unit.layer or 0], pos) for unit in units]
        measure = measure_of(lm, rows, metric, correct, wrong)
        found = _run(model, rows, variants, measure, progress)
    return Ablation(
        what=what,
        replacement=replacement.said,
        metric=measure.name,
        said=measure.said,
        pos=pos if what != "position" else None,
        units=tuple(units),
        base=found[0],
        scores=found[1:],
        tokens=tuple(token_texts(lm, rows.tokens[0])) if len(rows.tokens) == 1 else (),
    )


def ablate_heads(
    lm: LanguageModel | Transformer,
    heads: HeadSet | Mapping[str, HeadSet],
    texts: Texts,
    *,
    how: How = "zero",
    metric: AnyMetric | None = None,
    correct: Target | None = None,
    wrong: Target | None = None,
    reference: Reference | None = None,
    by_position: bool = False,
    pos: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Ablation:
    """Take out several heads at once, or each of several such sets by name, and return what that does to a metric.

    Arguments are those of `ablate`. Source: Olsson et al. 2022, "Argument 3: Direct Ablation".
    """
    model, rows = model_of(lm), rows_of(lm, texts)
    sets = dict(heads) if isinstance(heads, Mapping) else {_set_label(heads): heads}
    model = without_dropout(model)
    with torch.inference_mode():
        source = None if reference is None else rows_of(lm, reference)
        names = sorted({f"blocks.{layer}.attn.z" for each in sets.values() for layer, _ in _checked(model, each)})
        replacement = make_replacement(model, rows, names, how=how, reference=source, by_position=by_position, seed=seed)
        _check_pos(rows, replacement, by_position, pos)
        variants = [head_edits(replacement, _checked(model, each), pos=pos) for each in sets.values()]
        measure = measure_of(lm, rows, metric, correct, wrong)
        found = _run(model, rows, variants, measure, progress)
    return Ablation(
        what="head sets",
        replacement=replacement.said,
        metric=measure.name,
        said=measure.said,
        pos=pos,
        units=tuple(Unit(name) for name in sets),
        base=found[0],
        scores=found[1:],
        tokens=(),
    )


def head_edits(replacement: Replacement, heads: HeadSet, *, pos: int | None = None) -> list[Edit]:
    """Return the edits that take out heads, all at once: one a layer."""
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)
    return [
        replacement.edit(f"blocks.{layer}.attn.z", head=several if len(several) > 1 else several[0], pos=pos)
        for layer, several in by_layer.items()
    ]


def _run(
    model: Transformer,
    rows: Rows,
    variants: Sequence[Sequence[Edit]],
    measure: Measure,
    progress: Callable[[int, int], None] | None,
) -> Float[Tensor, "variant batch"]:
    """Return the metric without an edit, and under each variant."""
    lengths = None if rows.is_even else rows.lengths
    return sweep(model, rows.tokens, [[], *variants], measure.metric, lengths=lengths, progress=progress)


def _edits_of(replacement: Replacement, what: What, unit: Unit, names: Sequence[str], pos: int | None) -> list[Edit]:
    match what:
        case "head":
            return [replacement.edit(name, head=unit.index, pos=pos) for name in names]
        case "neuron":
            return [replacement.edit(name, index=unit.index, pos=pos) for name in names]
        case "position":
            return [replacement.edit(name, pos=unit.index) for name in names]
        case _:
            return [replacement.edit(name, pos=pos) for name in names]


def _positions(rows: Rows, what: What, pos: int | None) -> list[int]:
    n_pos = rows.tokens.shape[1]
    if what == "position" and not rows.is_even:
        raise ValueError(f"the rows have {sorted(set(rows.lengths))} tokens; to ablate positions give rows of one length")
    shortest = min(rows.lengths)
    if pos is not None and not -shortest <= pos < shortest:
        raise ValueError(f"there is no position {pos} in every row; the shortest has {shortest} tokens, 0 to {shortest - 1}")
    return list(range(n_pos)) if pos is None else [pos % n_pos]


def _check_pos(rows: Rows, replacement: Replacement, by_position: bool, pos: int | None) -> None:
    """Refuse to count from the end of rows where values are kept for positions counted from the beginning."""
    if pos is not None and pos < 0 and not rows.is_even and (by_position or replacement.how == "resample"):
        raise ValueError(f"pos is {pos}, and rows end at different positions: give rows of one length, or a mean over positions")


def _checked(model: Transformer, heads: HeadSet) -> list[tuple[int, int]]:
    """Return heads counted from 0, each once; raises ValueError for one that is not there."""
    n_layers, n_heads = model.config.n_layers, model.config.n_heads
    for layer, head in heads:
        if not (-n_layers <= layer < n_layers and -n_heads <= head < n_heads):
            raise ValueError(f"there is no head {head} of layer {layer}; there are {n_layers} layers of {n_heads} heads")
    return list(dict.fromkeys((layer % n_layers, head % n_heads) for layer, head in heads))


def _set_label(heads: HeadSet) -> str:
    names = [head_label(*head) for head in heads]
    return " ".join(names) if len(names) <= 4 else f"{len(names)} heads"
