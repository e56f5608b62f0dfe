"""What a run may watch, by name, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Family", "FAMILIES"]


class Family(NamedTuple):
    """Values that are watched together, under one name, and drawn in one picture."""

    about: str
    unit: str


FAMILIES: Mapping[str, Family] = {
    "induction": Family("attention of each head to what followed this token the last time: prefix matching", "mean attention"),
    "previous_token": Family("attention of each head to the position before", "mean attention"),
    "duplicate_token": Family("attention of each head to this token's earlier occurrence", "mean attention"),
    "first_token": Family(
        "attention of each head to the first position, where it goes when there is nothing to do", "mean attention"
    ),
    "copying": Family("eigenvalues of each head's OV circuit: 1 where it makes what it looks at likelier", "share of eigenvalues"),
    "repetition": Family("loss on random tokens that come twice, and the second copy's minus the first's", "nats a token"),
    "icl": Family("loss early and late in windows of held-out text, and late minus early: in-context learning", "nats a token"),
    "attention_entropy": Family("how widely each head looks in held-out text: ln n for n tokens alike", "nats"),
    "residual_norms": Family("length of the residual stream after the embedding and after each layer", "mean length"),
    "logit_lens": Family("how far what each layer would say is from the model's answer, KL divergence", "nats"),
    "norms": Family("Frobenius norm of each kind of matrix, averaged over layers", "norm"),
}
"""The families by name, in the order in which they are shown; `cutaway.watching.observers` says how each is measured."""
