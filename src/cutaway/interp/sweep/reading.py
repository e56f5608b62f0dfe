"""From the last residual stream to a metric: only the logits that the metric reads are computed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.hooks import Hooks
from cutaway.interp.editing import PlacedEdit, edit_hooks
from cutaway.interp.metrics import Metric
from cutaway.interp.sweep.base_run import BaseRun
from cutaway.interp.sweep.engine import Group
from cutaway.interp.sweep.lanes import Lane
from cutaway.model import Transformer

__all__ = ["read_base", "read_group", "final_edits"]

_LOGITS_BYTES = 2**26


def final_edits(lane: Lane) -> list[PlacedEdit]:
    """Return a lane's edits of the unembedding's own activations."""
    return [each for each in lane.edits if each.edit.name.startswith("ln_final.") or each.edit.name == "logits"]


def read_base(model: Transformer, base: BaseRun, metric: Metric, row: int, functions: dict[str, list]) -> Float[Tensor, " lane"]:  # type: ignore[type-arg]
    """Return the metric of one row of the base run; `functions` are its edits of the unembedding, applied to all rows."""
    positions = metric.positions(base.lengths[row])
    if functions:
        logits = model.unembed(base.inputs[-1], hooks=Hooks(functions))[row, positions][None]
        ids = metric.ids(row)
        return metric.score(logits if ids is None else logits[..., ids], row, positions)
    return _score(model, metric, base.inputs[-1][row, positions][None], row, positions)


def read_group(
    model: Transformer, base: BaseRun, metric: Metric, group: Group, x: Float[Tensor, "lane last_pos d_model"]
) -> Float[Tensor, " lane"]:
    """Return the metric of every lane of a group; what lies before its cone is the base run's."""
    scores = x.new_empty(len(group.lanes))
    first = group.end - x.shape[1]
    by_row: dict[int, list[int]] = {}
    for i, lane in enumerate(group.lanes):
        if final_edits(lane):
            scores[i] = _edited_score(model, base, metric, lane, x[i], end=group.end)
        else:
            by_row.setdefault(lane.row, []).append(i)
    for row, places in by_row.items():
        positions = metric.positions(base.lengths[row])
        before = [pos for pos in positions if pos < first]
        after = torch.tensor([pos - first for pos in positions if pos >= first], dtype=torch.long, device=x.device)
        width = model.config.d_vocab_out if metric.ids(row) is None else len(metric.ids(row) or ())
        n_lanes = max(1, _LOGITS_BYTES // (len(positions) * width * x.element_size()))
        for part in torch.tensor(places, device=x.device).split(n_lanes):
            resid = x[part][:, after]
            if before:
                resid = torch.cat([base.inputs[-1][row, before].expand(len(part), -1, -1), resid], dim=1)
            scores[part] = _score(model, metric, resid, row, positions)
    return scores


def _score(model: Transformer, metric: Metric, resid: Tensor, row: int, positions: Sequence[int]) -> Tensor:
    ids = metric.ids(row)
    if ids is None:
        return metric.score(model.unembed(resid), row, positions)
    unembed = model.unembed
    logits = torch.nn.functional.linear(
        unembed.ln_final(resid), unembed.W_U.weight[ids], None if unembed.W_U.bias is None else unembed.W_U.bias[ids]
    )
    return metric.score(logits, row, positions)


def _edited_score(model: Transformer, base: BaseRun, metric: Metric, lane: Lane, x: Tensor, *, end: int) -> Tensor:
    """Return the metric of a lane whose unembedding is edited, from all logits up to the cone's end."""
    positions, ids = metric.positions(base.lengths[lane.row]), metric.ids(lane.row)
    low, first = min(positions), end - len(x)
    resid = torch.cat([base.inputs[-1][lane.row, low:first], x[max(low - first, 0) :]])[None]
    edits = final_edits(lane)
    logits = model.unembed(resid, hooks=Hooks(edit_hooks(edits, end=end, rows=[0] * len(edits))))
    read = logits[:, [pos - low for pos in positions]]
    return metric.score(read if ids is None else read[..., ids], lane.row, positions)[0]
