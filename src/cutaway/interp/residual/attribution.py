"""Direct logit attribution: what every part of the stream adds to an answer's logit by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.prompts import Prompts, Target
from cutaway.interp.residual.contributions import Part, contributions, names_needed
from cutaway.interp.residual.norms import recorded_scale
from cutaway.interp.residual.projections import logit_bias, logit_directions
from cutaway.interp.residual.question import Answers
from cutaway.interp.result import Result
from cutaway.interp.rows import Texts
from cutaway.interp.running import run_with_cache
from cutaway.interp.spread import standard_error, with_errors
from cutaway.interp.tensors import finite_or_none
from cutaway.language_model import LanguageModel
from cutaway.model import NoNorm, Transformer
from cutaway.report import format_share, grid, table
from cutaway.views import without_dropout

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["DirectAttribution", "attribute"]

_N_SHOWN = 15
_MANY_POSITIONS = 40
_N_BARS = 25
_MOST_IN_JSON = 1000
_COLUMN: dict[Part, str] = {"component": "part", "head": "head", "neuron": "neuron", "position": "source"}
"""What the columns of the map by layer are."""


@dataclass(frozen=True, eq=False, repr=False)
class DirectAttribution(Result):
    """What each part adds to the logit, or the logit difference, of every row; over all parts it adds up to that."""

    title: ClassVar[str] = "Direct logit attribution"
    source: ClassVar[str] = (
        "nostalgebraist 2020, interpreting GPT: the logit lens; Elhage et al. 2021, A Mathematical Framework for Transformer Circuits; "
        "Wang et al. 2022, Interpretability in the Wild, section 3"
    )

    by: Part
    asked: str
    """What it is of: `logit of ·Paris less ·London`."""
    prompts: tuple[str, ...]
    labels: tuple[str, ...]
    contributions: Float[Tensor, "component batch"]
    logit_diff: Float[Tensor, " batch"]
    """What the model itself gave, for the contributions to be held against."""
    columns: tuple[str, ...]
    by_layer: Float[Tensor, "layer column"] | None
    """The mean over rows of some of the contributions as a map."""
    said: tuple[str, ...] = ()
    """How targets were taken where not as given."""

    @property
    def mean(self) -> Float[Tensor, " component"]:
        """The mean over rows."""
        return self.contributions.mean(dim=1)

    @property
    def standard_errors(self) -> Float[Tensor, " component"]:
        """How far the means may be off, over prompts; NaN for one prompt."""
        return standard_error(self.contributions)

    def strongest(self, *, top: int = _N_SHOWN) -> list[tuple[str, float]]:
        """Return the parts that add or take away most on average, with how much."""
        mean = self.mean
        places = mean.abs().topk(min(top, len(mean))).indices.tolist()
        return [(self.labels[place], mean[place].item()) for place in places]

    def _shown(self) -> list[tuple[str, float]]:
        if self.by == "position" and len(self.labels) <= _MANY_POSITIONS:
            return list(zip(self.labels, self.mean.tolist(), strict=True))
        return self.strongest()

    def summary(self) -> str:
        """Return the logit, what adds most to it and what takes most away."""
        total, n_rows = self.logit_diff.mean().item(), len(self.prompts)
        where = f"after {self.prompts[0]!r}" if n_rows == 1 else f"on average over {n_rows} prompts"
        signed = [(value, label) for label, value in self.strongest(top=len(self.labels))]
        adds = [f"{label} {value:+.2f}" for value, label in signed if value > 0][:3]
        takes = [f"{label} {value:+.2f}" for value, label in signed if value < 0][:3]
        said = "".join(f" {each}." for each in self.said)
        parts = f"Most is added by {', '.join(adds)}" if adds else "Nothing adds to it"
        if takes:
            parts += f"; most is taken away by {', '.join(takes)}"
        return (
            f"The {self.asked} {where} is {total:.3f}. {parts}. "
            f"All {len(self.labels)} parts add up to {self.contributions.sum(dim=0).mean().item():.3f}.{said}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return every part's mean and rows; of more than a thousand, the greatest and the sum of the others."""
        kept = self.mean.abs().topk(min(_MOST_IN_JSON, len(self.labels))).indices.sort().values
        errors = self.standard_errors.tolist()
        left_out = self.contributions.sum(dim=0) - self.contributions[kept].sum(dim=0)
        return {
            "by": self.by,
            "asked": self.asked,
            "prompts": list(self.prompts),
            "notes": list(self.said),
            "logit_diff": self.logit_diff.tolist(),
            "parts": [
                {
                    "part": self.labels[place],
                    "mean": self.mean[place].item(),
                    "standard_error": finite_or_none(errors[place]),
                    "rows": self.contributions[place].tolist(),
                }
                for place in kept.tolist()
            ],
            "parts_left_out": len(self.labels) - len(kept),
            "sum_of_those_left_out": left_out.tolist() if len(kept) < len(self.labels) else None,
            "columns": list(self.columns),
            "by_layer": None if self.by_layer is None else self.by_layer.tolist(),
        }

    def figures(self) -> list[Figure]:
        """Return the strongest parts as bars, and the map of layers where there is one."""
        from cutaway.plots import bars, heatmap

        values = self.mean.numpy(force=True)
        top = None if self.by == "position" and len(values) <= _MANY_POSITIONS else _N_BARS
        figures = [bars(values, labels=self.labels, title=f"Direct contributions to the {self.asked}", label="logits", top=top)]
        if self.by_layer is not None:
            figures.append(
                heatmap(
                    self.by_layer.numpy(force=True),
                    rows=[f"L{layer}" for layer in range(len(self.by_layer))],
                    columns=self.columns,
                    title=f"By layer and {_COLUMN[self.by]}",
                    row_title="layer",
                    column_title=_COLUMN[self.by],
                    label="logits",
                    signed=True,
                )
            )
        return figures

    def views(self) -> list[RenderableType]:
        """Return the strongest parts with their shares, and the map of layers where there is one."""
        header, rows = self.table()
        total = self.mean.sum().item()
        footer = {"part": f"all {len(self.labels)}", "adds": f"{total:+.3f}"}
        shown = table(*header, right=header[1:], footer=footer)
        for row in rows:
            shown.add_row(*row)
        views: list[RenderableType] = [shown]
        if self.by_layer is not None:
            layers = [f"L{layer}" for layer in range(len(self.by_layer))]
            views.append(grid(self.by_layer.numpy(force=True), rows=layers, columns=self.columns, signed=True, corner="layer"))
        return views

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return the strongest parts, what they add, over several prompts with its standard error, and which share of the sum that is;
        few positions in their order."""
        strongest = self._shown()
        total = self.mean.sum().item()
        rows = [(label, f"{value:+.3f}", format_share(value, total)) for label, value in strongest]
        if n_others := len(self.labels) - len(strongest):
            others = total - sum(value for _, value in strongest)
            rows.append((f"{n_others} others", f"{others:+.3f}", format_share(others, total)))
        errors = dict(zip(self.labels, self.standard_errors.tolist(), strict=True))
        return with_errors(("part", "adds", "share"), rows, [errors.get(row[0], math.nan) for row in rows], after=1)


def attribute(
    lm: LanguageModel | Transformer,
    tokens: Texts,
    correct: Target | None = None,
    wrong: Target | None = None,
    *,
    by: Part = "component",
    pos: int | Sequence[int] = -1,
) -> DirectAttribution:
    """Return what each part of the residual stream adds by itself to `logit[correct] - logit[wrong]` at a position.

    The last norm's scale is that of the run, so that the logit is linear in the stream and the contributions add up to it exactly;
    what is the same whatever the stream holds is the part `final bias`. Effects through later layers are not seen: a head that
    others read may matter and show nothing here.

    - `by="component"`: embedding, attention and MLP of each layer. `"head"`: attention by head, and its bias. `"neuron"`: MLPs by
      neuron.
    - `by="position"`: what all heads fetch from each position, attention times value; `all MLPs` and the biases arise at `pos`
      itself.
    - Answers are tokens by text or id, one for all rows or one for each; without `correct` the model's own; without `wrong` it is
      the logit itself, of which a part may be one that all tokens share. `pos` may be each row's own, as where rows were filled up.

    Texts of different length are filled up on the right, and `pos` is each one's own. Raises ValueError for targets that are not one
    token, for a wrong answer that is the correct one, and for positions that are not there. Source: Wang et al. 2022, section 3.1; by
    position, Elhage et al. 2021, "Attention Heads as Information Movement".

    >>> import cutaway
    >>> lm = cutaway.load("ioi-mini")
    >>> prompt = "When Mary and John went to the store , John gave a drink to"
    >>> cutaway.residual.attribute(lm, prompt, "Mary", "John", by="head").summary()
    "The logit of ·Mary less ·John ... is 5.408. Most is added by L1H0 +8.03, ..."
    """
    if by not in _COLUMN:
        raise ValueError(f"by is {by!r}; expected one of {', '.join(map(repr, _COLUMN))}")
    prompts = Prompts.of(lm, tokens, pos=pos)
    model, kept = prompts.model, sorted(set(prompts.positions))
    model = without_dropout(model)
    with torch.inference_mode():
        logits, cache = run_with_cache(
            model, prompts.tokens, names_needed(model.config, by), pos=None if by == "position" else kept
        )
        assert logits is not None
        rows = torch.arange(len(prompts.tokens))
        places = torch.tensor([kept.index(each) for each in prompts.positions])
        logits = logits[rows, list(prompts.positions)]
        answers = Answers.of(prompts, logits, correct, wrong)
        directions, bias = (
            logit_directions(model, answers.correct, answers.wrong),
            logit_bias(model, answers.correct, answers.wrong),
        )
        found = contributions(cache, directions, by, pos=kept)
        scale = torch.ones(len(rows)).to(directions)
        if not isinstance(model.unembed.ln_final, NoNorm):
            scale = recorded_scale(cache, positions=tuple(kept))[rows, places, 0]
    values = found.values[:, rows, places] / scale
    labels = _with_tokens(found.labels, prompts)
    if bias.any():
        values, labels = torch.cat([values, bias.to(values)[None]]), (*labels, "final bias")
    given = logits[rows, answers.correct] - (0 if answers.wrong is None else logits[rows, answers.wrong])
    return DirectAttribution(
        by=by,
        asked=answers.named(prompts),
        prompts=tuple(map(prompts.text, range(len(rows)))),
        labels=labels,
        contributions=values,
        logit_diff=given,
        columns=_with_tokens(found.columns, prompts),
        by_layer=None if found.by_layer is None else (found.by_layer[:, :, rows, places] / scale).mean(dim=-1),
        said=answers.said,
    )


def _with_tokens(labels: Sequence[str], prompts: Prompts) -> tuple[str, ...]:
    """Return labels with the token where they name a position."""
    sources = dict(zip((f"pos {place}" for place in range(prompts.tokens.shape[1])), prompts.source_labels(), strict=True))
    return tuple(sources.get(label, label) for label in labels)
