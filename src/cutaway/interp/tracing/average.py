"""Causal tracing over several prompts: the average indirect effect of each layer and of each place by its part in the prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.patching import BANDS_IN_WORDS, MetricName, band
from cutaway.interp.result import Result
from cutaway.interp.spread import standard_error, with_errors
from cutaway.interp.tensors import finite_or_none
from cutaway.interp.tracing.trace import TraceResult, restored_words, trace
from cutaway.language_model import LanguageModel
from cutaway.report import format_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["ROLES", "AverageTrace", "average_trace"]

ROLES = (
    "before the subject", "first of the subject", "middle of the subject", "last of the subject", "first after it", "further",
    "last of the prompt",
)  # fmt: skip
"""What a position is in its prompt; a subject of one token is its own last, and the prompt's last token is nothing else."""
_SHORT = ("before", "S first", "S middle", "S last", "next", "further", "end")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AverageTrace(Result):
    """Traces of several prompts, and the indirect effects of their states by layer and role, averaged over prompts."""

    title: ClassVar[str] = "Causal tracing over several prompts"
    source: ClassVar[str] = (
        "causal tracing (Meng et al. 2022, Locating and Editing Factual Associations in GPT, section 2.1 and figure 2)"
    )

    traces: tuple[TraceResult, ...]
    """That of each prompt."""
    by_prompt: Mapping[str, Float[Tensor, "layer role prompt"]]
    """The indirect effects (mean over draws, and over the positions of a role), by what was restored; NaN for a role that a prompt does
    not have."""

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that any prompt has."""
        first = next(iter(self.by_prompt.values()))
        return tuple(role for place, role in enumerate(ROLES) if not first[:, place].isnan().all())

    @property
    def total_effects(self) -> Float[Tensor, " prompt"]:
        """Each prompt's clean metric less its corrupted one."""
        return torch.tensor([each.total_effect for each in self.traces], dtype=torch.float64)

    @property
    def effects(self) -> dict[str, Float[Tensor, "layer role"]]:
        """The average indirect effect (AIE) of each layer and role, over the prompts that have it."""
        return {site: values.nanmean(-1)[:, self._present] for site, values in self.by_prompt.items()}

    @property
    def standard_errors(self) -> dict[str, Float[Tensor, "layer role"]]:
        """The standard error of each average, over prompts; NaN for one prompt."""
        return {site: standard_error(values)[:, self._present] for site, values in self.by_prompt.items()}

    @property
    def recovery(self) -> dict[str, Float[Tensor, "layer role"]]:
        """The average indirect effects as a share of the average total effect."""
        return {site: effects / self.total_effects.mean().to(effects) for site, effects in self.effects.items()}

    def best(self, site: str) -> tuple[int, str, float]:
        """Return the layer and role with the largest average effect and that as a share of the average total effect.

        The stream at the last token is left out, as that of the last layer brings all back by definition.
        """
        shares = self.recovery[site].clone()
        if site.startswith("resid"):
            shares[:, [role == ROLES[-1] for role in self.roles]] = -torch.inf
        layer, place = divmod(int(shares.argmax()), len(self.roles))
        return layer, self.roles[place], float(shares[layer, place])

    def summary(self) -> str:
        """Return the average total effect, and for each kind of state where restoring most brings back."""
        total, error = self.total_effects.mean(), standard_error(self.total_effects)
        sentences = [
            f"Over {len(self.traces)} prompts the {self._measured} falls by {format_number(total)} ± {format_number(error)} when the "
            "subject is corrupted: the average total effect with its standard error."
        ]
        for site in self.by_prompt:
            layer, role, share = self.best(site)
            place = self.roles.index(role)
            aie, spread = float(self.effects[site][layer, place]), float(self.standard_errors[site][layer, place])
            apart = ", the last token's left out," if site.startswith("resid") else ""
            sentences.append(
                f"Restoring {restored_words(site, self.traces[0].windows[site])}{apart} brings most back at layer {layer}, {role}: an "
                f"average indirect effect of {format_number(aie)} ± {format_number(spread)}, {100 * share:.1f} % ({band(share)})."
            )
        sentences.append(f"{BANDS_IN_WORDS}.")
        return " ".join([*sentences, *(f"{note}." for note in dict.fromkeys(note for each in self.traces for note in each.notes))])

    def to_dict(self) -> dict[str, Any]:
        """Return roles, total effects, average indirect effects with their standard errors, those of each prompt, and each trace."""
        return {
            "metric": self._measured,
            "roles": list(self.roles),
            "total_effects": self.total_effects.tolist(),
            "windows": dict(self.traces[0].windows),
            "effects": {site: finite_or_none(each.tolist()) for site, each in self.effects.items()},
            "standard_errors": {site: finite_or_none(each.tolist()) for site, each in self.standard_errors.items()},
            "recovery": {site: finite_or_none(each.tolist()) for site, each in self.recovery.items()},
            "by_prompt": {site: finite_or_none(each[:, self._present].tolist()) for site, each in self.by_prompt.items()},
            "traces": [each.to_dict() for each in self.traces],
        }

    def figures(self) -> list[Figure]:
        """Return a heat map for each kind of state, and its average effects by layer with their standard errors."""
        from cutaway.plots import heatmap

        return [
            heatmap(
                effect.numpy(force=True),
                rows=[str(layer) for layer in range(len(effect))],
                columns=self.roles,
                title=f"Restoring {restored_words(site, self.traces[0].windows[site])}, {len(self.traces)} prompts",
                row_title="layer",
                label=f"average indirect effect on the {self._measured}",
                signed=True,
            )
            for site, effect in self.effects.items()
        ]

    def views(self) -> list[RenderableType]:
        """Return a grid for each kind of state, in percent of the average total effect, and the best layer of each role."""
        from rich.console import Group
        from rich.text import Text

        from cutaway.report import grid, table

        shown: list[RenderableType] = []
        short = [_SHORT[ROLES.index(role)] for role in self.roles]
        for site, shares in self.recovery.items():
            heading = f"{restored_words(site, self.traces[0].windows[site])}, restored: % of the average total effect"
            rows = [str(layer) for layer in range(len(shares))]
            cells = grid((100 * shares).numpy(force=True), rows=rows, columns=short, signed=True, digits=0, corner="layer")
            shown.append(Group(Text(heading, style="bold"), cells))
        header, rows_of_table = self.table()
        ranking = table(
            *header,
            right=[name for name in header if name not in ("restored", "place", "band")],
            title="The best layer of each place",
        )
        for row in rows_of_table:
            ranking.add_row(*row)
        return [*shown, ranking]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the best layer of each role and kind of state, with the standard error of its average effect."""
        rows, errors = [], []
        for site, shares in self.recovery.items():
            for place, role in enumerate(self.roles):
                layer = int(shares[:, place].nan_to_num(nan=-torch.inf).argmax())
                share = float(shares[layer, place])
                rows.append(
                    [site, role, str(layer), format_number(self.effects[site][layer, place]), f"{100 * share:.1f}", band(share)]
                )
                errors.append(float(self.standard_errors[site][layer, place]))
        return with_errors(["restored", "place", "layer", "AIE", "%", "band"], rows, errors, after=3)

    @property
    def _present(self) -> list[int]:
        return [ROLES.index(role) for role in self.roles]

    @property
    def _measured(self) -> str:
        words = {each.measured for each in self.traces}
        return words.pop() if len(words) == 1 else words.pop().partition(" of ")[0].partition(" ·")[0]


def average_trace(
    lm: LanguageModel,
    texts: Sequence[str],
    subjects: Sequence[str],
    targets: Sequence[str | int],
    wrong: Sequence[str | int] | None = None,
    *,
    replacements: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
    sites: Sequence[str] | None = None,
    window: int | None = None,
    noise: float = 3.0,
    n_draws: int = 10,
    metric: MetricName | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> AverageTrace:
    """Trace several prompts, each with its subject and answer, and average what their states do by layer and role in the prompt.

    Settings are those of `trace`; each prompt's noise is drawn with a seed of its own. Of a role that several positions have, a prompt
    counts with their mean. Raises ValueError as `trace` does, and where there is not one subject and answer for each prompt.
    Source: Meng et al. 2022, "Locating and Editing Factual Associations in GPT", section 2.1 (the average indirect effect).

    >>> import cutaway
    >>> from cutaway import tracing
    >>> lm = cutaway.load("factual-recall")
    >>> texts, subjects = ["we know that Ada Abel plays the"] * 2, ["Ada Abel"] * 2
    >>> tracing.average_trace(lm, texts, subjects, ["organ", "organ"], n_draws=2).effects["mlp_out"].shape  # layer role
    torch.Size([2, 5])
    """
    ours = {"replacement": replacements, "source": sources}
    rows_of = {"subjects": subjects, "answers": targets, "wrong answers": wrong, "replacements": replacements, "sources": sources}
    for what, given in rows_of.items():
        if given is not None and len(given) != len(texts):
            raise ValueError(f"there are {len(given)} {what} for {len(texts)} prompts: give one for each")
    if not texts:
        raise ValueError("there is no prompt: give at least one")
    found = []
    for row, text in enumerate(texts):
        other = {name: None if each is None else each[row] for name, each in ours.items()} | {"seed": seed + row}

        def tell(n_done: int, n_all: int, row: int = row) -> None:
            if progress is not None:
                progress(row * n_all + n_done, len(texts) * n_all)

        found.append(
            trace(
                lm, text, subjects[row], targets[row], None if wrong is None else wrong[row], sites=sites, window=window, noise=noise,
                n_draws=n_draws, metric=metric, progress=tell, **other,  # type: ignore[arg-type]
            )
        )  # fmt: skip
    return AverageTrace(
        traces=tuple(found),
        by_prompt={site: torch.stack([_by_role(each, site) for each in found], dim=-1) for site in found[0].effects},
    )


def _by_role(found: TraceResult, site: str) -> Float[Tensor, "layer role"]:
    """Return the mean effect of the positions of each role; NaN where there is none."""
    effects, roles = found.effects[site], [_role(found, pos) for pos in found.positions]
    columns = [effects[:, [each == role for each in roles]] for role in ROLES]
    return torch.stack([column.mean(-1) for column in columns], dim=-1)  # the mean of none is NaN


def _role(found: TraceResult, pos: int) -> str:
    """Return what a position of the clean prompt is in it."""
    if pos == found.n_tokens - 1:
        return ROLES[-1]
    first, last = found.places[0], found.places[-1]
    if pos < first:
        return "before the subject"
    if pos <= last:
        return "last of the subject" if pos == last else "first of the subject" if pos == first else "middle of the subject"
    return "first after it" if pos == last + 1 else "further"
