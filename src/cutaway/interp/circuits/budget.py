"""How many rows, runs and positions of edge scores are computed at once in the memory that is allowed."""

from __future__ import annotations

from typing import NamedTuple

from cutaway.interp.circuits.graph import Graph
from cutaway.model import Transformer
from cutaway.runtime import free_memory_gib

__all__ = ["Portion", "portion_of"]

_DEFAULT_GIB = 1.0
_SHARE_OF_RUNS = 0.6  # in the rest of the memory senders meet receivers


class Portion(NamedTuple):
    """What is computed at once."""

    n_rows: int
    n_runs: int
    """Of how many runs of all these rows gradients are kept."""
    n_positions: int
    """At how many positions of these runs senders meet receivers."""


def portion_of(
    model: Transformer, graph: Graph, *, n_rows: int, n_pos: int, memory_gib: float | None, is_one: bool = False
) -> Portion:
    """Return what fits into `memory_gib`, of 1 GiB or a quarter of what is free unless it is given; `is_one` takes all rows together.

    Raises ValueError where a given budget is too small for one row, or for all of them where they are one.
    """
    device = model.embed.W_E.device
    free = free_memory_gib(device)
    default = _DEFAULT_GIB if free is None else min(_DEFAULT_GIB, free / 4)
    budget = 2**30 * (default if memory_gib is None else memory_gib)
    each, n_least = _run_bytes(model, n_pos), n_rows if is_one else 1
    n_fit = int(_SHARE_OF_RUNS * budget // each)
    if memory_gib is not None and n_fit < n_least:
        needed = n_least * each / _SHARE_OF_RUNS / 2**30
        why = f"all {n_rows} rows, which a metric that is a plain function reads at once, take" if is_one else "one row takes"
        raise ValueError(
            f"{why} {needed:.2g} GiB and memory_gib is {memory_gib:g}: "
            + ("give a metric of cutaway.metrics, or more memory" if is_one else "give more memory, or shorter prompts")
        )
    n_together = max(n_least, min(n_fit, n_rows))
    n_runs = max(1, n_fit // n_together)
    meeting = n_together * n_runs * _meeting_bytes(model, graph)
    return Portion(n_together, n_runs, max(1, int((1 - _SHARE_OF_RUNS) * budget // meeting)))


def _run_bytes(model: Transformer, n_pos: int) -> int:
    """Return the memory of one row's run with what its gradients need, and of the records of both runs."""
    config = model.config
    d_attn, d_kv = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
    layer = 16 * config.d_model + 8 * d_attn + 6 * d_kv + (9 if config.gated_mlp else 6) * config.d_mlp
    return n_pos * (config.n_layers * layer + 2 * config.d_vocab_out) * model.embed.W_E.element_size()


def _meeting_bytes(model: Transformer, graph: Graph) -> int:
    """Return the memory of what all senders write, and of the gradients of receivers that read together, at one position."""
    config = model.config
    heads, features = 4 * (1 + 3 * config.n_heads) * config.d_model, max((len(each.features) for each in graph.features), default=0)
    widest = max(heads, features * (4 * config.d_model + 3 * config.d_mlp))  # gradients go back through the MLP for each feature
    return (len(graph.senders) * config.d_model + widest) * max(4, model.embed.W_E.element_size())
