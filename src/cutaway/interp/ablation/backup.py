"""What other heads do in response when one is taken out: backup heads, and heads that push the other way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.ablation.replacement import How, make_replacement
from cutaway.interp.attention import head_label
from cutaway.interp.cache import ActivationCache
from cutaway.interp.prompts import Prompts, Target
from cutaway.interp.residual.norms import recorded_scale
from cutaway.interp.residual.projections import head_projections, logit_directions
from cutaway.interp.residual.question import Answers
from cutaway.interp.result import Result
from cutaway.interp.rows import Reference, Texts, rows_of
from cutaway.interp.running import run_with_cache
from cutaway.language_model import LanguageModel
from cutaway.model import NoNorm, Transformer
from cutaway.report import grid, table
from cutaway.views import without_dropout

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["BackupEffects", "backup_effects"]

_N_SHOWN, _N_LISTED, _N_BARS = 10, 50, 20


@dataclass(frozen=True, eq=False, repr=False)
class BackupEffects(Result):
    """Direct contributions to an answer's logit before and after one head is taken out.

    All are divided by the last norm's scale of the run before, so that they add up: what all of them change is what the logit would
    change if that scale stayed.
    """

    title: ClassVar[str] = "Backup effects"
    source: ClassVar[str] = (
        'Wang et al. 2022, "Interpretability in the Wild", section 3.4 (backup name movers); McGrath et al. 2023, "The Hydra Effect"'
    )

    layer: int
    head: int
    replacement: str
    """What took the head's place, in words."""
    asked: str
    """What they contribute to: `logit of ·Mary less ·John`."""
    said: tuple[str, ...]
    """How answers were taken where not as given."""
    heads_before: Float[Tensor, "layer head batch"]
    heads_after: Float[Tensor, "layer head batch"]
    mlps_before: Float[Tensor, "layer batch"]
    """Zero in layers without an MLP."""
    mlps_after: Float[Tensor, "layer batch"]
    logit_before: Float[Tensor, " batch"]
    logit_after: Float[Tensor, " batch"]
    """What the model itself gave, its last norm recomputed."""

    @property
    def lost(self) -> float:
        """What the head itself no longer adds, mean over rows."""
        return float((self.heads_before - self.heads_after)[self.layer, self.head].mean())

    @property
    def changes(self) -> Float[Tensor, "layer head"]:
        """How much more each other head adds than before, mean over rows; 0 for the head itself."""
        changes = (self.heads_after - self.heads_before).mean(dim=2)
        changes[self.layer, self.head] = 0
        return changes

    @property
    def mlp_changes(self) -> Float[Tensor, " layer"]:
        """How much more each MLP adds than before, mean over rows."""
        return (self.mlps_after - self.mlps_before).mean(dim=1)

    @property
    def restored(self) -> float:
        """Which share of what was lost all other heads and MLPs add in response; NaN where nothing was lost."""
        response = float(self.changes.sum() + self.mlp_changes.sum())
        return response / self.lost if self.lost else float("nan")

    def ranked(self, *, top: int | None = None) -> list[tuple[int, int, float]]:
        """Return (layer, head, change) of the other heads, those that changed most first."""
        changes = self.changes
        order = changes.abs().flatten().argsort(descending=True, stable=True)[:top].tolist()
        heads = [divmod(place, changes.shape[1]) for place in order]
        return [(*each, float(changes[each])) for each in heads if each != (self.layer, self.head)]

    def summary(self) -> str:
        """Return what the head added, what the others do about it, and which of them."""
        name, fall = head_label(self.layer, self.head), float((self.logit_after - self.logit_before).mean())
        strongest = ", ".join(f"{head_label(layer, head)} {change:+.2f}" for layer, head, change in self.ranked(top=3))
        said = "".join(f" {each[0].upper()}{each[1:]}." for each in self.said)
        if not self.lost:
            return f"{name} adds nothing itself to the {self.asked}; that changes by {fall:+.2f} without it.{said}"
        return (
            f"{name} itself adds {self.lost:+.2f} to the {self.asked} (beside {self.replacement}). Without it the heads and MLPs "
            f"after it add {self.restored * self.lost:+.2f}, {100 * self.restored:.0f} % of that; most is changed in {strongest}. In "
            f"all it changes by {fall:+.2f}; the contributions leave the last norm's scale as it was, the model does not.{said}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all contributions before and after, mean over rows."""
        return {
            "layer": self.layer,
            "head": self.head,
            "replacement": self.replacement,
            "asked": self.asked,
            "notes": list(self.said),
            "lost": self.lost,
            "restored": None if self.lost == 0 else self.restored,
            "logit_before": self.logit_before.tolist(),
            "logit_after": self.logit_after.tolist(),
            **{
                name: getattr(self, name).mean(dim=-1).tolist()
                for name in ("heads_before", "heads_after", "mlps_before", "mlps_after")
            },
        }

    def figures(self) -> list[Figure]:
        """Return the changes as a map of layers by heads, and those of the MLPs."""
        from cutaway.plots import bars, heatmap

        changes, name = self.changes, head_label(self.layer, self.head)
        cells = heatmap(
            changes.numpy(force=True),
            rows=[f"L{layer}" for layer in range(len(changes))],
            columns=[str(head) for head in range(changes.shape[1])],
            title=f"What other heads add in response to the loss of {name}",
            row_title="layer",
            column_title="head",
            label="logits",
            signed=True,
        )
        mlps = self.mlp_changes.numpy(force=True)
        labels = [f"L{layer} mlp" for layer in range(len(mlps))]
        return [cells, bars(mlps, labels=labels, title=f"What MLPs add in response to the loss of {name}", label="logits")]

    def views(self) -> list[RenderableType]:
        """Return the heads that change most, and a map of those layers that can."""
        headers, rows = self.table()
        listed = table(*headers, right=headers[1:])
        for row in rows[:_N_SHOWN]:
            listed.add_row(*row)
        changes, first = self.changes, self.layer + 1
        if first == len(changes):
            return [listed]
        cells = grid(
            changes[first:].numpy(force=True),
            rows=[str(layer) for layer in range(first, len(changes))],
            columns=[str(head) for head in range(changes.shape[1])],
            signed=True,
            corner="layer",
        )
        return [listed, cells]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return what the heads that change most add before and after."""
        before, after = self.heads_before.mean(dim=2), self.heads_after.mean(dim=2)
        rows = [
            (head_label(layer, head), f"{before[layer, head]:+.3f}", f"{after[layer, head]:+.3f}", f"{change:+.3f}")
            for layer, head, change in self.ranked(top=_N_LISTED)
        ]
        return ("head", "before", "after", "change"), rows


def backup_effects(
    lm: LanguageModel | Transformer,
    texts: Texts,
    head: tuple[int, int],
    *,
    correct: Target | None = None,
    wrong: Target | None = None,
    pos: int = -1,
    how: How = "zero",
    reference: Reference | None = None,
    everywhere: bool = False,
    seed: int = 0,
) -> BackupEffects:
    """Take out one head, (layer, head), and return what it and all others add to the answer's logit before and after.

    The logit is that of `correct`, the model's own answer unless given, less that of `wrong` if given, at `pos`. The head is taken
    out at that position alone, or `everywhere`; `how` and `reference` are those of `ablate`. Contributions are direct: along the
    answer's direction over the last norm's scale in the run before. Raises ValueError for a head that is not there.
    Source: Wang et al. 2022, section 3.4; McGrath et al. 2023, "The Hydra Effect".
    """
    rows = rows_of(lm, texts)
    if not rows.is_even:
        raise ValueError(f"the rows have {sorted(set(rows.lengths))} tokens; give texts of as many tokens each")
    prompts = Prompts.of(lm, rows.tokens, pos=pos)
    model, (layer, index) = prompts.model, _checked(prompts.model, head)
    name, at = f"blocks.{layer}.attn.z", prompts.positions[0]
    model = without_dropout(model)
    with torch.inference_mode():
        source = None if reference is None else rows_of(lm, reference)
        replacement = make_replacement(model, rows, [name], how=how, reference=source, seed=seed)
        edit = replacement.edit(name, head=index, pos=None if everywhere else at)
        logits, before = run_with_cache(model, rows.tokens, _names(model), pos=at)
        edited, after = run_with_cache(model, rows.tokens, _names(model), pos=at, edits=[edit])
        assert logits is not None
        assert edited is not None
        answers = Answers.of(prompts, logits[:, at], correct, wrong)
        directions = logit_directions(model, answers.correct, answers.wrong)  # batch d_model
        scale = _scale(before, at)
        heads_before, mlps_before = _contributions(before, directions, scale)
        heads_after, mlps_after = _contributions(after, directions, scale)
    return BackupEffects(
        layer=layer,
        head=index,
        replacement=replacement.said,
        asked=answers.named(prompts),
        said=answers.said,
        heads_before=heads_before,
        heads_after=heads_after,
        mlps_before=mlps_before,
        mlps_after=mlps_after,
        logit_before=_asked(logits[:, at], answers),
        logit_after=_asked(edited[:, at], answers),
    )


def _names(model: Transformer) -> list[str]:
    names = ["blocks.*.attn.z"]
    names += ["blocks.*.mlp_out"] * (model.config.d_mlp > 0)
    return names + ["ln_final.scale"] * (not isinstance(model.unembed.ln_final, NoNorm))


def _scale(cache: ActivationCache, pos: int) -> Float[Tensor, " batch"] | float:
    if isinstance(cache.model.unembed.ln_final, NoNorm):
        return 1.0
    return recorded_scale(cache, positions=(pos,))[:, 0, 0]


def _contributions(
    cache: ActivationCache, directions: Float[Tensor, "batch d_model"], scale: Float[Tensor, " batch"] | float
) -> tuple[Float[Tensor, "layer head batch"], Float[Tensor, "layer batch"]]:
    """Return what heads and MLPs add along each row's direction at the one position that was kept."""
    config = cache.model.config
    of_heads = head_projections(cache, directions[:, None]).values[:, :, 0, 0]  # (layer head) batch
    heads = rearrange(of_heads, "(layer head) batch -> layer head batch", head=config.n_heads) / scale
    if not config.d_mlp:
        return heads, torch.zeros_like(heads[:, 0])
    mlps = (cache.stack("mlp_out")[:, :, 0] * directions).sum(dim=-1) / scale
    return heads, mlps


def _asked(logits: Float[Tensor, "batch d_vocab"], answers: Answers) -> Float[Tensor, " batch"]:
    rows = range(len(logits))
    return logits[rows, answers.correct] - (logits[rows, answers.wrong] if answers.wrong is not None else 0)


def _checked(model: Transformer, head: tuple[int, int]) -> tuple[int, int]:
    layer, index = head
    n_layers, n_heads = model.config.n_layers, model.config.n_heads
    if not (-n_layers <= layer < n_layers and -n_heads <= index < n_heads):
        raise ValueError(f"there is no head {index} of layer {layer}; there are {n_layers} layers of {n_heads} heads")
    return layer % n_layers, index % n_heads
