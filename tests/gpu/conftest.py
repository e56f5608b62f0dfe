"""Everything here needs a GPU, and is skipped, with the reason, where there is none."""

from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    without = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA or ROCm device on this machine")
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.gpu)
            item.add_marker(without)
