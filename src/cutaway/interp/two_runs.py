"""Two runs of one model, and the activations of the one with those of the other put in where their positions are paired."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.interp.cache import ActivationCache
from cutaway.interp.metrics import Metric
from cutaway.interp.patching.grid import Pairs
from cutaway.interp.running import run_with_cache
from cutaway.interp.sites import site_of
from cutaway.interp.sweep import AnyMetric
from cutaway.model import Transformer

__all__ = ["TwoRuns", "run_two", "scored"]


@dataclass(frozen=True, eq=False)
class TwoRuns:
    """A run, whose activations everything starts from, and another, whose activations are put in."""

    model: Transformer
    tokens: Int[Tensor, "batch pos"]
    other_tokens: Int[Tensor, "batch other_pos"]
    lengths: tuple[int, ...]
    """How many of its tokens each row of the run has; the others fill it up."""
    pairs: tuple[Pairs, ...]
    """For each row (position in the other run, position in the run); what is in no pair keeps the run's own."""
    cache: ActivationCache
    other_cache: ActivationCache
    base: Float[Tensor, " batch"]
    """The metric of the run."""
    other: Float[Tensor, " batch"]
    """The metric of the other run."""
    other_latents: Mapping[int, Float[Tensor, "batch pos feature"]] = field(default_factory=dict)
    """Latents of an MLP's features by its layer where they are none of what their encoder reads in the other run, as means are."""

    def incoming(self, name: str) -> Float[Tensor, "batch ..."]:
        """Return an activation of the run with the other's at paired positions, queries and keys alike.

        Where the tokens up to a position are the same in both runs, the run's own is left bit for bit, as nothing differs.
        """
        x, new = self.cache[name].clone(), self.other_cache[name]
        for row, pairs in enumerate(self.pairs):
            there, here = torch.tensor(pairs, dtype=torch.long, device=x.device).reshape(-1, 2).T
            if site_of(name).is_attention:  # batch head q_pos k_pos
                x[row][:, here[:, None], here] = new[row][:, there[:, None], there]
            else:
                x[row, here] = new[row, there]
        same = self.same()
        same = same[:, None, :, None] if site_of(name).is_attention else same.reshape(*same.shape, *[1] * (x.ndim - 2))
        return torch.where(same, self.cache[name], x)

    def moved(self, name: str) -> Float[Tensor, "batch ..."]:
        """Return by how much the other run's activation differs; 0 at positions without a partner."""
        return self.incoming(name) - self.cache[name]

    def same(self) -> Bool[Tensor, "batch pos"]:
        """Return the positions up to which both runs read the same tokens; none where every position sees every other."""
        same = torch.zeros_like(self.tokens, dtype=torch.bool)
        if not self.model.config.is_causal:
            return same
        n = min(self.tokens.shape[1], self.other_tokens.shape[1])
        same[:, :n] = (self.tokens[:, :n] == self.other_tokens[:, :n]).cumprod(1).bool()
        for row, pairs in enumerate(self.pairs):
            same[row, [here for there, here in pairs if here != there]] = False
        return same


def run_two(
    model: Transformer,
    tokens: Int[Tensor, "batch pos"],
    other_tokens: Int[Tensor, "batch other_pos"],
    metric: AnyMetric,
    names: Collection[str],
    *,
    other_names: Collection[str] | None = None,
    pairs: Sequence[Pairs] | None = None,
    lengths: Sequence[int] | None = None,
    other_lengths: Sequence[int] | None = None,
) -> TwoRuns:
    """Run both and keep the activations of these names, of the other run of `other_names` alone where they are given.

    Raises ValueError for runs of different length without pairs, and for pairs of positions that are not there.
    """
    if len(tokens) != len(other_tokens):
        raise ValueError(
            f"the runs have {len(tokens)} and {len(other_tokens)} rows: give the other run a row for each of the first"
        )
    paired = _checked(pairs, tokens, other_tokens)
    with torch.no_grad():
        logits, cache = run_with_cache(model, tokens, sorted(names))
        other_logits, other_cache = run_with_cache(model, other_tokens, sorted(names if other_names is None else other_names))
        assert logits is not None
        assert other_logits is not None
        base, other = scored(metric, logits, lengths), scored(metric, other_logits, other_lengths)
    return TwoRuns(
        model=model,
        tokens=tokens,
        other_tokens=other_tokens,
        lengths=tuple([tokens.shape[1]] * len(tokens) if lengths is None else map(int, lengths)),
        pairs=paired,
        cache=cache,
        other_cache=other_cache,
        base=base,
        other=other,
    )


def scored(
    metric: AnyMetric, logits: Float[Tensor, "batch pos d_vocab"], lengths: Sequence[int] | None = None
) -> Float[Tensor, " batch"]:
    """Return the metric of each row; raises ValueError for a metric that returns anything else."""
    values = metric(logits, lengths) if isinstance(metric, Metric) else metric(logits)
    if not isinstance(values, Tensor) or values.shape != logits.shape[:1]:
        given = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"the metric returned {given}; expected one number a row, shape {tuple(logits.shape[:1])}")
    return values


def _checked(pairs: Sequence[Pairs] | None, tokens: Tensor, other_tokens: Tensor) -> tuple[Pairs, ...]:
    n_pos, n_other = tokens.shape[1], other_tokens.shape[1]
    if pairs is None:
        if n_pos != n_other:
            raise ValueError(
                f"the runs have {n_pos} and {n_other} tokens: give pairs of positions, as cutaway.interp.alignment finds them"
            )
        return (tuple((pos, pos) for pos in range(n_pos)),) * len(tokens)
    if len(pairs) != len(tokens):
        raise ValueError(f"pairs are for {len(pairs)} rows and there are {len(tokens)}: give the pairs of each row")
    rows = tuple(tuple((int(there), int(here)) for there, here in row) for row in pairs)
    if wrong := [pair for row in rows for pair in row if not (0 <= pair[0] < n_other and 0 <= pair[1] < n_pos)]:
        raise ValueError(f"there is no pair {wrong[0]} of (from, into) positions: the runs have {n_other} and {n_pos} tokens")
    return rows
