"""A run's batches, those of the next step made ready while the device computes."""

from __future__ import annotations

import torch

from cutaway.data import Batch, Loader, ShardLoader

__all__ = ["Feed"]


class Feed:
    """The batches of one step after the other, `n_batches` for each, on a device.

    A step on a GPU only queues its work: windows drawn, pinned and sent after that cost the GPU no time, without a thread. Where they
    cannot be had, that is raised when they are asked for: what the step before found is not lost with them.
    """

    def __init__(self, loader: Loader | ShardLoader, device: torch.device, *, n_batches: int) -> None:
        self._loader, self._device, self._n_batches = loader, device, n_batches
        self._ahead: list[Batch] | None = None
        self._failure: Exception | None = None
        self.state = loader.state_dict()
        """Where the data stand after what was taken, whatever was drawn ahead: a run that goes on takes that up again."""

    def take(self) -> list[Batch]:
        """Return the batches of the next step; raises what drawing them raises."""
        if self._failure:
            raise self._failure
        batches = self._ahead or self._draw()
        self._ahead, self.state = None, self._loader.state_dict()
        return batches

    def draw_ahead(self) -> None:
        """Draw what is taken next."""
        try:
            self._ahead = self._draw()
        except (ValueError, OSError, RuntimeError) as error:
            self._failure = error

    def _draw(self) -> list[Batch]:
        return [self._loader.next_batch(self._device) for _ in range(self._n_batches)]
