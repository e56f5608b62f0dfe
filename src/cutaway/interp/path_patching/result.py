"""What path patching found: how far each path alone takes the metric to that of the other run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.nodes import Node, NodeSet
from cutaway.interp.path_patching.reach import MLPs
from cutaway.interp.result import Result
from cutaway.interp.spread import standard_error, with_errors
from cutaway.interp.tensors import finite_or_none
from cutaway.report import format_number, format_signed, grid, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["PathEffect", "PathPatching"]

_N_SHOWN, _N_BARS, _MANY_ROWS = 10, 20, 24


class PathEffect(NamedTuple):
    """One path: the metric with it patched less that without, and the share of the way to the other run that this is."""

    sender: str
    receiver: str
    effect: float
    recovery: float
    standard_error: float
    """Of the effect, over prompts; NaN for one."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PathPatching(Result):
    """The metric with each path patched, from every sender to every receiver, beside those of the two runs."""

    title: ClassVar[str] = "Path patching"
    source: ClassVar[str] = (
        'path patching (Wang et al. 2022, "Interpretability in the Wild", section 3.1; Goldowsky-Dill et al. 2023, "Localizing Model '
        'Behavior with Path Patching")'
    )

    senders: tuple[Node, ...]
    receivers: tuple[Node | NodeSet, ...]
    scores: Float[Tensor, "sender receiver batch"]
    """NaN where the sender writes after the receiver reads."""
    base: Float[Tensor, " batch"]
    """The metric of the run that paths are patched in."""
    other: Float[Tensor, " batch"]
    """The metric of the run that the senders' outputs come from."""
    mlps: MLPs
    frozen_norms: tuple[str, ...] = ()
    receiver_pos: tuple[int, ...] | None = None
    measured: str = "metric"
    """The metric in words."""
    notes: tuple[str, ...] = ()

    @property
    def effects(self) -> Float[Tensor, "sender receiver"]:
        """The metric with each path patched less that without, averaged over rows."""
        return (self.scores - self.base).mean(-1)

    @property
    def recovery(self) -> Float[Tensor, "sender receiver"]:
        """The effects as a share of the way from the run to the other; below 0 and above 1 happen and stay."""
        return self.effects / (self.other.mean() - self.base.mean())

    @property
    def standard_errors(self) -> Float[Tensor, "sender receiver"]:
        """How far the effects may be off as means over prompts; NaN for one prompt."""
        return standard_error(self.scores - self.base)

    def effect(self, sender: str, receiver: str) -> float:
        """Return the effect of a path by its names; raises KeyError for one that was not patched."""
        senders, receivers = list(map(str, self.senders)), list(map(str, self.receivers))
        if sender not in senders or receiver not in receivers:
            raise KeyError(
                f"{sender} -> {receiver} was not patched; senders are {', '.join(senders)}; receivers {', '.join(receivers)}"
            )
        return self.effects[senders.index(sender), receivers.index(receiver)].item()

    def ranked(self) -> list[PathEffect]:
        """Return the paths by the size of their effect, the largest first."""
        effects, recovery, errors = self.effects.tolist(), self.recovery.tolist(), self.standard_errors.tolist()
        paths = [
            PathEffect(str(sender), str(receiver), effects[i][j], recovery[i][j], errors[i][j])
            for i, sender in enumerate(self.senders)
            for j, receiver in enumerate(self.receivers)
            if not math.isnan(effects[i][j])
        ]
        return sorted(paths, key=lambda path: -abs(path.effect))

    def summary(self) -> str:
        """Return the metric of both runs, what was held, and the strongest path."""
        ranked = self.ranked()
        rows = f" (mean of {len(self.base)} prompts)" if len(self.base) > 1 else ""
        held = "held too" if self.mlps == "frozen" else "recomputed"
        sentences = [
            f"The {self.measured}{rows} is {format_number(self.base.mean())} in the run (0 %) and "
            f"{format_number(self.other.mean())} in the other (100 %).",
            f"One path at a time: a sender writes as in the other run, other heads are held, MLPs between are {held}, and one input of "
            "a receiver takes what comes of it.",
        ]
        if any(isinstance(each, NodeSet) for each in self.receivers):
            sentences.append("Receivers joined by + take theirs together.")
        if ranked:
            best = ranked[0]
            sentences.append(
                f"Of {len(ranked)} paths {best.sender} to {best.receiver} does most: {format_signed(best.effect)}"
                + (f", {100 * best.recovery:.1f} %." if math.isfinite(best.recovery) else ".")
            )
        else:
            sentences.append("No sender writes before a receiver reads.")
        if self.frozen_norms:
            sentences.append(f"Held norms: {', '.join(self.frozen_norms)}.")
        if self.receiver_pos is not None:
            sentences.append(f"Receivers take it at position {', '.join(map(str, self.receiver_pos))} alone.")
        return " ".join([*sentences, *(f"{note.rstrip('.')}." for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Return settings, the metric of both runs, and effect and recovery of every path, None where there is none."""
        return {
            "metric": self.measured,
            "mlps": self.mlps,
            "frozen_norms": list(self.frozen_norms),
            "receiver_pos": None if self.receiver_pos is None else list(self.receiver_pos),
            "notes": list(self.notes),
            "senders": list(map(str, self.senders)),
            "receivers": list(map(str, self.receivers)),
            "patched_into": self.base.tolist(),
            "patched_from": self.other.tolist(),
            "effects": finite_or_none(self.effects.tolist()),
            "recovery": finite_or_none(self.recovery.tolist()),
            "standard_errors": finite_or_none(self.standard_errors.tolist()),
            "scores": finite_or_none(self.scores.tolist()),
            "ranked": [
                path._asdict() | {"recovery": finite_or_none(path.recovery), "standard_error": finite_or_none(path.standard_error)}
                for path in self.ranked()
            ],
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the paths by the size of their effect, over several prompts with its standard error."""
        rows = [[path.sender, path.receiver, format_signed(path.effect), f"{100 * path.recovery:.1f}"] for path in self.ranked()]
        return with_errors(
            ["sender", "receiver", "effect", "share %"], rows, [path.standard_error for path in self.ranked()], after=2
        )

    def figures(self) -> list[Figure]:
        """Return the senders of each receiver as a map of layers by heads where all heads send, else all paths; and the strongest."""
        from cutaway.plots import bars, heatmap

        share, words = self._shown()
        strongest = self.ranked()[:_N_BARS]
        place = {str(node): i for i, node in enumerate(self.senders)}, {str(node): i for i, node in enumerate(self.receivers)}
        best = (
            bars(
                [share[place[0][path.sender], place[1][path.receiver]].item() for path in strongest] or [math.nan],
                labels=[f"{path.sender} to {path.receiver}" for path in strongest] or [""],
                title="The strongest paths",
                label=words,
            )
            if strongest
            else None
        )
        maps = [
            heatmap(
                values.numpy(force=True), rows=rows, columns=columns, title=title, row_title=row_title, column_title=column_title,
                label=words, signed=True,
            )
            for title, rows, columns, values, row_title, column_title in self._maps(share)
        ]  # fmt: skip
        return [*maps, *([best] if best is not None else [])]

    def views(self) -> list[RenderableType]:
        """Return the maps in a terminal's cells, and the strongest paths with effect and share."""
        from rich.console import Group
        from rich.text import Text

        share, words = self._shown()
        shown: list[RenderableType] = [
            Group(
                Text(f"{title} ({words})", style="bold"),
                grid(
                    values.numpy(force=True),
                    rows=rows,
                    columns=columns,
                    signed=True,
                    digits=0 if "%" in words else 2,
                    corner=corner,
                ),
            )
            for title, rows, columns, values, corner, _ in self._maps(share, n_rows=_MANY_ROWS)
        ]
        header, rows = self.table()
        ranking = table(*header, right=header[2:], title="The strongest paths")
        for row in rows[:_N_SHOWN]:
            ranking.add_row(*row)
        return [*shown, ranking]

    def _shown(self) -> tuple[Float[Tensor, "sender receiver"], str]:
        """Return what maps are coloured by: the share in percent, the effect itself where the runs do not differ."""
        if bool(self.recovery.isfinite().any()):
            return 100 * self.recovery, "% of the way to the other run"
        return self.effects, f"change of the {self.measured}"

    def _maps(
        self, share: Float[Tensor, "sender receiver"], *, n_rows: int | None = None
    ) -> list[tuple[str, Sequence[str], Sequence[str], Tensor, str, str]]:
        """Return the title, rows, columns, values and axis titles of each map."""
        if len(self.receivers) <= 3 and sum(node.kind == "head" for node in self.senders) > 1:
            return [self._by_layer(share, column) for column in range(len(self.receivers))]
        kept = list(range(len(self.senders)))
        if n_rows is not None and len(kept) > n_rows:
            size = share.nan_to_num().abs().amax(1)
            kept = sorted(size.argsort(descending=True, stable=True)[:n_rows].tolist())
        rows, columns = [str(self.senders[i]) for i in kept], list(map(str, self.receivers))
        return [("Paths", rows, columns, share[kept], "sender", "receiver")]

    def _by_layer(self, share: Tensor, column: int) -> tuple[str, Sequence[str], Sequence[str], Tensor, str, str]:
        layers = range(
            -1 if any(node.kind == "embed" for node in self.senders) else 0, 1 + max(node.layer for node in self.senders)
        )
        n_heads = 1 + max(node.index or 0 for node in self.senders if node.kind == "head")
        has_mlps = any(node.kind == "mlp" for node in self.senders)
        values = torch.full((len(layers), n_heads + has_mlps), math.nan, dtype=share.dtype)
        for i, node in enumerate(self.senders):
            if node.kind not in ("neuron", "feature"):  # which are many to a layer
                place = node.index if node.kind == "head" else n_heads if node.kind == "mlp" else 0
                values[node.layer - layers[0], place] = share[i, column]
        rows = ["embed" if layer < 0 else str(layer) for layer in layers]
        columns = [*map(str, range(n_heads)), *(["MLP"] if has_mlps else [])]
        return f"Paths to {self.receivers[column]}", rows, columns, values, "layer", "sending head"
