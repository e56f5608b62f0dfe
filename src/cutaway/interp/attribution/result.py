"""What attribution patching found: an estimate for every node, the exact effect of those that were tried, and how they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from jaxtyping import Float
from torch import Tensor

from cutaway.interp.attribution.estimates import Completeness
from cutaway.interp.attribution.nodes import ActivationNode, NodeKind
from cutaway.interp.ranks import EffectAgreement, compare_effects
from cutaway.interp.result import Result
from cutaway.interp.spread import standard_error, with_errors
from cutaway.interp.tensors import finite_or_none
from cutaway.report import format_number, format_signed, grid, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["Agreement", "AttributionPatching", "NodeEffect"]

_N_SHOWN, _N_BARS = 10, 20
_N_MAPS = 1  # of those that a report has, how many a terminal shows


class NodeEffect(NamedTuple):
    """A node with what its patch is estimated to do to the metric, and what it did where that was tried."""

    node: ActivationNode
    estimate: float
    exact: float | None
    standard_error: float
    """Of the exact effect where it was tried, else of the estimate, over prompts; NaN for one."""


@dataclass(frozen=True, kw_only=True)
class Agreement(EffectAgreement[ActivationNode]):
    """How the estimates of a kind agree with the exact effects of those nodes that were tried."""

    kind: NodeKind
    n_nodes: int


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AttributionPatching(Result):
    """What patching each node is estimated to do to the metric."""

    title: ClassVar[str] = "Attribution patching"
    source: ClassVar[str] = (
        'attribution patching (Nanda 2023; Syed et al. 2023); queries and keys through the softmax, Kramár et al. 2024, "AtP*", '
        "section 3.1.1; integrated gradients, Sundararajan et al. 2017"
    )

    estimates: Mapping[NodeKind, Float[Tensor, "layer unit pos batch"]]
    """The gain of the metric; units are heads or neurons, one for parts of the stream. Without positions these are one place."""
    exact: Mapping[ActivationNode, Float[Tensor, " batch"]] = field(repr=False)
    """The gain of the metric by the nodes that were tried."""
    base: Float[Tensor, " batch"]
    """The metric of the run that is patched into."""
    other: Float[Tensor, " batch"]
    """The metric of the run that is patched from."""
    by_position: bool
    fixed: tuple[NodeKind, ...]
    """The kinds that went through the softmax."""
    along: str | None
    steps: int | None
    completeness: Completeness | None
    threshold: float
    places: tuple[int, ...] = ()
    """The positions that are nodes."""
    tokens: tuple[str, ...] = ()
    """The text at each position, where there is one prompt."""
    measured: str = "metric"
    """The metric in words."""
    notes: tuple[str, ...] = ()

    @property
    def gap(self) -> float:
        """The metric of the other run less that of the run."""
        return (self.other.mean() - self.base.mean()).item()

    def estimate(self, node: ActivationNode) -> float:
        """Return a node's estimate, averaged over rows."""
        return self.estimates[node.kind][node.layer, node.unit or 0, node.pos or 0].mean().item()

    def ranked(self, kind: NodeKind | None = None) -> list[NodeEffect]:
        """Return the nodes of a kind, or of all, by the size of their exact effect, then those not tried by their estimate."""
        effects = []
        for each in self.estimates if kind is None else [kind]:
            errors = standard_error(self.estimates[each]).tolist()
            for node, estimate in self._nodes(each):
                tried, error = self.exact.get(node), errors[node.layer][node.unit or 0][node.pos or 0]
                exact = None if tried is None else tried.mean().item()
                effects.append(NodeEffect(node, estimate, exact, error if tried is None else standard_error(tried).item()))
        return sorted(effects, key=lambda each: (each.exact is None, -abs(each.estimate if each.exact is None else each.exact)))

    def agreement(self) -> list[Agreement]:
        """Return for each kind that was tried how estimates and exact effects agree."""
        found = []
        for kind in self.estimates:
            tried = [(node, self.estimate(node), self.exact[node].mean().item()) for node in self.exact if node.kind == kind]
            if tried:
                agreement = compare_effects(tried, base=self.base, other=self.other, threshold=self.threshold)
                found.append(Agreement(kind=kind, n_nodes=sum(1 for _ in self._nodes(kind)), **vars(agreement)))
        return found

    def summary(self) -> str:
        """Return what was estimated and how, the strongest node, and how estimates and exact effects agree."""
        rows = f" (mean of {len(self.base)} prompts)" if len(self.base) > 1 else ""
        how = (
            f"by gradients averaged over {self.steps} points of the line between the two runs' {self.along}"
            if self.along
            else "by gradients in the run" + (f", {' and '.join(self.fixed)} through the softmax" if self.fixed else "")
        )
        best = self.ranked()[0]
        exact = f", {format_signed(best.exact)} when tried" if best.exact is not None else ""
        sentences = [
            f"The {self.measured}{rows} is {format_number(self.base.mean())} in the run and {format_number(self.other.mean())} in the "
            "other.",
            f"What each patch from the other would do is estimated {how}.",
            f"Most comes with {self._name(best.node)}: {format_signed(best.estimate)} estimated{exact}.",
            *self._agreements_said(),
        ]
        if self.completeness is not None:
            sentences.append(
                f"The embedding's attributions sum to {format_signed(self.completeness.total)}; with more steps they come to "
                f"{format_signed(self.completeness.difference)}."
            )
        return " ".join([*sentences, *(f"{note.rstrip('.')}." for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Return settings, the estimates of all nodes by kind, layer, unit and position, the exact effects, and how they agree."""
        return {
            "metric": self.measured,
            "by_position": self.by_position,
            "through_softmax": list(self.fixed),
            "along": self.along,
            "steps": self.steps,
            "completeness": None if self.completeness is None else self.completeness._asdict(),
            "threshold": self.threshold,
            "notes": list(self.notes),
            "tokens": list(self.tokens),
            "positions": list(self.places),
            "patched_into": self.base.tolist(),
            "patched_from": self.other.tolist(),
            "axes": ["layer", "unit", "position"],
            "estimates": {kind: values.mean(-1).tolist() for kind, values in self.estimates.items()},
            "standard_errors": {kind: finite_or_none(standard_error(each).tolist()) for kind, each in self.estimates.items()},
            "exact": [
                {
                    "node": str(node), "kind": node.kind, "layer": node.layer, "unit": node.unit, "position": node.pos,
                    "estimate": self.estimate(node), "effect": effect.mean().item(),
                }
                for node, effect in self.exact.items()
            ],
            "agreement": [
                {"kind": each.kind, "n_nodes": each.n_nodes} | each.to_dict()
                for each in self.agreement()
            ],
        }  # fmt: skip

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the strongest nodes of each kind, or all that were tried."""
        shown: list[NodeEffect] = []
        for kind in self.estimates:
            ranked = self.ranked(kind)
            shown += ranked[: max(_N_SHOWN, sum(each.exact is not None for each in ranked))]
        return self._rows(shown)

    def _rows(self, nodes: Sequence[NodeEffect]) -> tuple[list[str], list[list[str]]]:
        """Return a line for each node, over several prompts with its standard error."""
        rows = [
            [self._name(each.node), format_signed(each.estimate), "" if each.exact is None else format_signed(each.exact)]
            for each in nodes
        ]
        return with_errors(["node", "estimate", "exact"], rows, [each.standard_error for each in nodes], after=2)

    def figures(self) -> list[Figure]:
        """Return a map of every kind, of layers by heads or positions, and the strongest nodes."""
        from cutaway.plots import bars, heatmap

        maps = [
            heatmap(
                values, rows=rows, columns=columns, title=f"Estimated effect of {title}", row_title="layer", column_title=column_title,
                label=f"gain of the {self.measured}", signed=True,
            )
            for title, rows, columns, values, column_title in self._maps()
        ]  # fmt: skip
        best = self.ranked()[:_N_BARS]
        strongest = bars(
            [each.estimate if each.exact is None else each.exact for each in best],
            labels=[self._name(each.node) + ("" if each.exact is None else ", tried") for each in best],
            title="The strongest nodes",
            label=f"gain of the {self.measured}",
        )
        return [*maps, strongest]

    def views(self) -> list[RenderableType]:
        """Return the map of the first kind in a terminal's cells, the strongest nodes, and how estimates and exact effects agree."""
        from rich.console import Group
        from rich.text import Text

        shown: list[RenderableType] = [
            Group(
                Text(f"Estimated effect of {title}, by layer and {column_title}", style="bold"),
                grid(values, rows=rows, columns=columns, signed=True, corner="layer"),
            )
            for title, rows, columns, values, column_title in self._maps()[:_N_MAPS]
        ]
        names, lines = self._rows(self.ranked()[:_N_SHOWN])
        strongest = table(*names, right=names[1:], title="The strongest nodes")
        for line in lines:
            strongest.add_row(*line)
        shown.append(strongest)
        if found := self.agreement():
            header = ("kind", "tried", "of", "rank correlation of sizes", "false positives", "misses", "wrong sign")
            agreeing = table(*header, right=header[1:], title="Estimates beside exact effects")
            for kind in found:
                correlation = "" if kind.rank_correlation is None else f"{kind.rank_correlation:.2f}"
                counts = (
                    [str(kind.n_tried), str(kind.n_nodes)],
                    [str(len(nodes)) for nodes in (kind.false_positives, kind.misses, kind.wrong_sign)],
                )
                agreeing.add_row(kind.kind, *counts[0], correlation, *counts[1])
            shown.append(agreeing)
        return shown

    def _nodes(self, kind: NodeKind) -> Sequence[tuple[ActivationNode, float]]:
        values = self.estimates[kind].mean(-1)
        has_units = kind in ("z", "q", "k", "v", "pattern", "neuron")
        places: Sequence[int | None] = self.places if self.by_position else (None,)
        return [
            (ActivationNode(kind, layer, unit if has_units else None, pos), row[pos or 0])
            for layer, units in enumerate(values.tolist())
            for unit, row in enumerate(units)
            for pos in places
        ]

    def _maps(self) -> list[tuple[str, list[str], list[str], Any, str]]:
        """Return the title, rows, columns, values and columns' meaning of the map of each kind that fits one."""
        found: list[tuple[str, list[str], list[str], Any, str]] = []
        for kind, values in self.estimates.items():
            mean = values.mean(-1)  # layer unit pos
            rows = ["embed"] if kind == "embed" else [str(layer) for layer in range(len(mean))]
            if kind in ("z", "q", "k", "v", "pattern"):
                whole = mean[..., list(self.places)].sum(-1) if self.by_position else mean[..., 0]
                heads = [str(head) for head in range(whole.shape[1])]
                found.append(
                    (kind, rows, heads, whole.numpy(force=True), "head" + (", summed over positions" if self.by_position else ""))
                )
            elif kind != "neuron" and self.by_position:
                columns = [self._place(pos) for pos in self.places]
                found.append((kind, rows, columns, mean[:, 0, list(self.places)].numpy(force=True), "position"))
            elif kind != "neuron":
                found.append((kind, rows, ["all positions"], mean[:, 0].numpy(force=True), "all positions"))
        return found

    def _place(self, pos: int) -> str:
        return f"{pos} {self.tokens[pos]}" if pos < len(self.tokens) else str(pos)

    def _name(self, node: ActivationNode) -> str:
        if node.pos is None:
            return str(node)
        return f"{ActivationNode(node.kind, node.layer, node.unit)} at {self._place(node.pos)}"

    def _agreements_said(self) -> list[str]:
        """Return a sentence on the kind that was tried, or one on all, which the terminal's table and `to_dict` have one by one."""
        found = self.agreement()
        if len(found) < 2:
            return list(map(self._agreement_said, found))
        tried = f"{sum(each.n_tried for each in found)} nodes of {len(found)} kinds tried"
        ranks = sorted((each.rank_correlation, each.kind) for each in found if each.rank_correlation is not None)
        agree = (
            f"rank correlation of sizes {ranks[0][0]:.2f} ({ranks[0][1]}) to {ranks[-1][0]:.2f} ({ranks[-1][1]}), " if ranks else ""
        )
        counts = (sum(map(len, nodes)) for nodes in zip(*((a.false_positives, a.misses, a.wrong_sign) for a in found), strict=True))
        wrong = "false positives {}, misses {}, wrong signs {}".format(*counts)
        return [f"{tried}: {agree}{wrong}."]

    def _agreement_said(self, each: Agreement) -> str:
        among = " among those tried" if each.n_tried < each.n_nodes else ""
        return f"{each.kind}, {each.n_tried} of {each.n_nodes} tried: {each.said(self._name)}{among}."
