"""What a run is kept as: machine, versions, limits and all that was measured, as values that JSON can hold."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cutaway.profiles.bench import Bench, name_of
from cutaway.profiles.comparison import Comparison
from cutaway.profiles.growth import Growth
from cutaway.profiles.revision import revision_of
from cutaway.runtime import describe_device, total_memory_gib

__all__ = ["record_of", "processor"]


def record_of(bench: Bench, comparisons: Sequence[Comparison] = (), *, growth: Growth | None = None) -> dict[str, Any]:
    """Return what was measured, and all that says what it was measured on and with."""
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": sys.argv,
        "machine": {
            "device": describe_device(bench.device),
            "processor": processor(),
            "n_threads": torch.get_num_threads(),
            "memory_gib": total_memory_gib(bench.device),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        },
        "versions": {
            "cutaway": f"{version('cutaway')}, {revision_of(Path(__file__))}",
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "peers": bench.peers.versions(),
        "limits": {name_of(dtype): asdict(limits) for dtype, limits in bench.measured_limits.items()},
        "comparisons": [each.record() for each in comparisons],
        "growth": None if growth is None else growth.record(),
    }


def processor() -> str:
    """Return what the processor calls itself, or else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
