"""A run's batches, those of the next step made ready while the device computes."""

from __future__ import annotations

import torch

from cutaway.data import Batch, Loader, ShardLoader

__all__ = ["Feed"]


class Feed:
    """The batches of one step after the other, `n_batches` for each, on a device.

    A step on a GPU only queues its work: windows drawn, pinned and sent after that cost the GPU no time, without a thread. What cannot
    be had is kept as `failure`, and raised when it is asked for: what the step before found is not lost with it.
    """

    def __init__(self, loader: Loader | ShardLoader, device: torch.device, *, n_batches: int) -> None:
        self._loader, self._device, self._n_batches = loader, device, n_batches
        self._ahead: list[Batch] | None = None
        self.failure: Exception | None = None
        """Why there is no next step."""
        self.state = loader.state_dict()
        """Where the data stand after what was taken, whatever was drawn ahead: a run that goes on takes that up again."""

    def is_ready(self) -> bool:
        """Return whether the batches of the next step are there; they may still be written."""
        if self._ahead is None and self.failure is None:
            try:
                return self._loader.has(self._n_batches)
            except (ValueError, OSError, RuntimeError) as error:
                self.failure = error
        return self.failure is None

    def take(self) -> list[Batch]:
        """Return the batches of the next step; raises what drawing them raises."""
        if self.failure:
            raise self.failure
        batches = self._ahead or self._draw()
        self._ahead, self.state = None, self._loader.state_dict()
        return batches

    def draw_ahead(self) -> None:
        """Draw what is taken next, if it is there."""
        if not self.is_ready():
            return
        try:
            self._ahead = self._draw()
        except (ValueError, OSError, RuntimeError) as error:
            self.failure = error

    def _draw(self) -> list[Batch]:
        return [self._loader.next_batch(self._device) for _ in range(self._n_batches)]
