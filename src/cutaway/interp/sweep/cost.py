"""What a run costs: operations and memory, from shapes."""

from __future__ import annotations

from cutaway.config import ModelConfig
from cutaway.flops import layer_flops
from cutaway.interp.sweep.engine import Group
from cutaway.model import Transformer

__all__ = ["group_flops", "lane_bytes"]


def group_flops(config: ModelConfig, group: Group) -> float:
    """Return the operations of a group's layers; the few logits that are read are not counted."""
    width, total = group.end - group.start, 0.0
    full = layer_flops(config, width, group.end)
    last = layer_flops(config, width, group.end, group.n_last)
    for lane in group.lanes:
        for layer in range(lane.entry.layer, config.n_layers):
            attention, mlp = last if layer == config.n_layers - 1 else full
            half = lane.entry.half if layer == lane.entry.layer else 0
            total += (attention if half == 0 else 0) + (mlp if half < 2 else 0)
    return total


def lane_bytes(model: Transformer, group: Group) -> int:
    """Return the memory that each lane of a group takes at most while a layer is computed."""
    config = model.config
    width = group.end - group.start
    d_attn, d_kv = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
    numbers = width * (4 * config.d_model + 3 * d_attn + 4 * d_kv + (3 if config.gated_mlp else 2) * config.d_mlp)
    numbers += 2 * group.end * d_kv  # keys and values of the prefix
    parts = {each.edit.name.rpartition(".")[2] for lane in group.lanes for each in lane.edits}
    if parts & {"pattern", "attn_scores"}:
        numbers += 3 * config.n_heads * width * group.end
    if "result" in parts:
        numbers += 2 * config.n_heads * width * config.d_model
    return numbers * model.embed.W_E.element_size()
