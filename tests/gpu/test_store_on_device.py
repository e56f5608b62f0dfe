"""A store collected on a GPU holds the rows that one of the CPU holds."""

from pathlib import Path

import torch

from cutaway.interp.store import collect
from cutaway.model import Transformer
from stored_rows import IDS, NAMES, SMALL_SHARDS


def test_rows_are_the_cpus(tiny_model: Transformer, tmp_path: Path) -> None:
    options = {"ctx": 10, "batch_size": 3, "shard_gib": SMALL_SHARDS}
    expected = collect(tiny_model, IDS, NAMES, tmp_path / "cpu", **options)
    found = collect(tiny_model.to("cuda"), IDS, NAMES, tmp_path / "cuda", **options)
    found.verify()
    for name in expected.names:
        # float64, sums in another order
        torch.testing.assert_close(found[name][:], expected[name][:], rtol=0, atol=1e-10)
    assert found.manifest["machine"]["device"] == "cuda"
