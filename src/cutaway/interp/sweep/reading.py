"""From the last residual stream to a metric: only the logits that the metric reads are computed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.hooks import NO_HOOKS, Hooks
from cutaway.interp.editing import PlacedEdit, edit_hooks, place
from cutaway.interp.metrics import Metric
from cutaway.interp.sweep.base_run import BaseRun
from cutaway.interp.sweep.engine import Group
from cutaway.interp.sweep.lanes import Lane
from cutaway.model import Transformer

__all__ = ["read_base", "read_group", "read_resid", "final_edits"]

_LOGITS_BYTES = 2**26


def final_edits(lane: Lane) -> list[PlacedEdit]:
    """Return a lane's edits of the unembedding's own activations."""
    return [each for each in lane.edits if _is_final(each)]


def _is_final(placed: PlacedEdit) -> bool:
    return placed.edit.name.startswith("ln_final.") or placed.edit.name == "logits"


def read_base(model: Transformer, base: BaseRun, metric: Metric, row: int) -> Float[Tensor, " lane"]:
    """Return the metric of one row of the base run."""
    n_rows, n_pos = base.tokens.shape
    placed = [place(edit, model.config, n_pos=n_pos, n_rows=n_rows, row=row, length=base.lengths[row]) for edit in base.edits]
    positions, resid = metric.positions(base.lengths[row]), base.inputs[-1][row]
    last = [each for each in placed if _is_final(each)]
    if last:
        return _edited_score(model, metric, last, resid, positions, row)[None]
    return read_resid(model, metric, resid[positions][None], row, positions)


def read_group(
    model: Transformer, base: BaseRun, metric: Metric, group: Group, x: Float[Tensor, "lane last_pos d_model"]
) -> Float[Tensor, " lane"]:
    """Return the metric of every lane of a group; what lies before its cone is the base run's."""
    scores = x.new_empty(len(group.lanes), dtype=torch.promote_types(x.dtype, torch.float32))
    first = group.end - x.shape[1]
    by_row: dict[int, list[int]] = {}
    for i, lane in enumerate(group.lanes):
        if final_edits(lane):
            resid = torch.cat([base.inputs[-1][lane.row, :first], x[i]])
            scores[i] = _edited_score(model, metric, final_edits(lane), resid, metric.positions(base.lengths[lane.row]), lane.row)
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
            scores[part] = read_resid(model, metric, resid, row, positions)
    return scores


def read_resid(
    model: Transformer,
    metric: Metric,
    resid: Float[Tensor, "lane read d_model"],
    row: int,
    positions: Sequence[int],
    *,
    hooks: Hooks = NO_HOOKS,
) -> Float[Tensor, " lane"]:
    """Return the metric of several runs of one row from their last residual streams at the positions that it reads.

    `hooks` are those of ln_final.
    """
    ids, unembed = metric.ids(row), model.unembed
    normed, W_U = unembed.ln_final(resid, hooks=hooks), unembed.W_U
    if ids is None:
        return metric.score(W_U(normed), row, positions)
    logits = torch.nn.functional.linear(normed, W_U.weight[ids], None if W_U.bias is None else W_U.bias[ids])
    return metric.score(logits, row, positions)


def _edited_score(
    model: Transformer, metric: Metric, edits: Sequence[PlacedEdit], resid: Tensor, positions: Sequence[int], row: int
) -> Tensor:
    """Return the metric of one row whose unembedding is edited, from all logits between the first position read and the last."""
    low, ids = min(positions), metric.ids(row)
    hooks = Hooks(edit_hooks(edits, end=len(resid), rows=[0] * len(edits)))
    logits = model.unembed(resid[None, low:], hooks=hooks)
    read = logits[:, [pos - low for pos in positions]]
    return metric.score(read if ids is None else read[..., ids], row, positions)[0]
