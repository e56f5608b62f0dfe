"""Where a run's numbers go: a file of one object a step, the terminal, TensorBoard."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from cutaway.runs import parse_record
from cutaway.runtime import atomic_write, name_file

__all__ = ["Record", "Listener", "MetricsFile", "TensorBoard", "check_tensorboard"]

Record = Mapping[str, Any]
"""What is known after a step: `step`, `loss`, and on some steps `val_loss`, `sample` and observers' values."""

Listener = Callable[[Record], None]


class MetricsFile:
    """`metrics.jsonl`, one JSON object a line, appended as training goes."""

    def __init__(self, path: Path, *, n_done: int) -> None:
        if path.exists():  # steps after the checkpoint are run again, and a killed writer may have left half a line
            lines = path.read_text(errors="replace").split("\n")
            kept = [line for line in lines if n_done and (record := parse_record(line)) and record["step"] <= n_done]
            atomic_write(path, "".join(line + "\n" for line in kept))
        self._file = path.open("a")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def __call__(self, record: Record) -> None:
        """Append a record; one of a validation is brought onto the disk at once. JSON has no NaN and no infinity: null stands there."""
        finite = {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in record.items()}
        try:
            self._file.write(json.dumps(finite, allow_nan=False) + "\n")
            self._file.flush()
            if "val_loss" in record:
                os.fsync(self._file.fileno())
        except OSError as error:
            name_file(error, Path(self._file.name))
            raise


class TensorBoard:
    """TensorBoard's event files, from the same records."""

    def __init__(self, folder: Path, *, n_done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=n_done + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.close()

    def __call__(self, record: Record) -> None:
        """Write every number as a scalar and every text as text."""
        for name, value in record.items():
            if isinstance(value, float):
                self._writer.add_scalar(name.replace(".", "/", 1), value, record["step"])  # TensorBoard groups by what is before /
            elif isinstance(value, str):
                self._writer.add_text(name, value, record["step"])


def check_tensorboard() -> None:
    """Raise ValueError where TensorBoard's package is missing."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise ValueError("tensorboard is not installed: pip install 'cutaway[tensorboard]'") from None
