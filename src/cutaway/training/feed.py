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

    def draw_ahead(self) -> bool:
        """Draw what is taken next, and return whether that is done: it may still be written, or a failure."""
        try:
            if self._ahead is None and self.failure is None and self._loader.has(self._n_batches):
                self._ahead = [self._loader.next_batch(self._device) for _ in range(self._n_batches)]
        except (ValueError, OSError, RuntimeError) as error:
            self.failure = error
        return self._ahead is not None

    def take(self) -> list[Batch]:
        """Return the batches of the next step, once they are drawn; raises what drawing them raised."""
        if not self.draw_ahead() and self.failure:
            raise self.failure
        assert self._ahead is not None, "wait until they are there"
        batches, self._ahead, self.state = self._ahead, None, self._loader.state_dict()
        return batches
