"""Runs without dropout, whatever mode the model is in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cutaway.model import Transformer

__all__ = ["without_dropout"]


@contextmanager
def without_dropout(model: Transformer) -> Iterator[None]:
    """Run without dropout, gradients being as they were, and leave the model in the mode it was in.

    What is computed is plain tensors, which may be changed in place and differentiated, other than under `cutaway.runtime.evaluating`.
    """
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
