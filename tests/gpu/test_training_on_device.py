"""A run on a GPU learns what one of the CPU does, in every way that there is to train there, and goes on from either's checkpoints."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from compiled_on_device import run_compiled

from cutaway.data import Batch, Loader, tokenize_source
from cutaway.flops import product_flops_per_s
from cutaway.model import Transformer
from cutaway.ranks import Ranks
from cutaway.runs import Run
from cutaway.runtime import seeded_generator
from cutaway.tokenizers import CharTokenizer
from cutaway.training import TrainConfig, resume, train
from cutaway.training.optimizer import make_optimizers
from cutaway.training.parallel import Parallel, Replicated, Sharded
from cutaway.training.step import TrainStep, read_results
from tiny_training import learned, tiny_config, write_text

DEVICE, BACKEND = "cuda", "cpu:gloo,cuda:nccl"
RECIPE = {"dropout": 0.0, "n_steps": 20, "sample_every": 0}
TESTS = Path(__file__).parents[1]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """A recipe without dropout, whose random numbers are another device's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "cache"))
    return tiny_config(write_text(tmp_path), **RECIPE)


def losses(run: Path, name: str = "loss") -> list[float]:
    return Run(run).metrics().curve(name)[1]


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # 24 bits of numbers of about 3, and a factor of ten for twenty steps that build on each other; bfloat16 has 8, averaged over 128
    [("float32", 1e-5), ("bfloat16", 0.02)],
)
@pytest.mark.parametrize("compile", [False, True], ids=["as it is", "compiled"])
def test_the_losses_are_the_cpus(config: TrainConfig, tmp_path: Path, dtype: str, tolerance: float, compile: bool) -> None:
    expected, found = train(config, quiet=True), tmp_path / "found"
    fields = RECIPE | {"data": config.data, "out": str(found), "device": DEVICE, "dtype": dtype, "compile": compile}
    assert "could not be compiled" not in run_compiled("train", json.dumps(fields))
    for name in ("loss", "val_loss"):
        assert losses(found, name) == pytest.approx(losses(expected, name), abs=tolerance)
    assert max(losses(expected)) - min(losses(expected)) > 0.1


def test_the_record_knows_the_device(config: TrainConfig) -> None:
    run = Run(train(config.replace(device=DEVICE, dtype="bfloat16"), quiet=True))
    for record in run.metrics().records[1:]:
        assert 0 < record["share_of_peak"] < 1
        assert 0 < record["memory_gib"] < 1  # the product that measured the device took more, and is not counted
    assert run.manifest["device"] != "cpu"


def test_a_wider_type_is_not_faster() -> None:
    assert product_flops_per_s(torch.bfloat16, DEVICE) > product_flops_per_s(torch.float32, DEVICE) > 1e11


@pytest.mark.parametrize(("first", "second"), [("cpu", DEVICE), (DEVICE, "cpu")])
def test_a_checkpoint_of_one_is_gone_on_with_by_the_other(config: TrainConfig, first: str, second: str) -> None:
    whole = train(config, quiet=True)
    begun = train(config.replace(n_steps=10, device=first), quiet=True)
    at_ten = learned(begun)
    resume(begun, n_steps=20, device=second, quiet=True)
    assert at_ten["step"] == 10
    assert Run(begun).metrics().curve("loss")[0] == list(range(1, 21))
    # the schedule of the first ten steps is that of a run of ten, so these are compared with a run that did the same on the CPU alone
    again = train(config.replace(n_steps=10), quiet=True)
    resume(again, n_steps=20, quiet=True)
    assert losses(begun) == pytest.approx(losses(again), abs=1e-5)
    assert losses(whole)[-1] != losses(again)[-1]


def test_batches_are_the_cpus(tmp_path: Path, config: TrainConfig) -> None:
    tokens = tokenize_source(Path(str(config.data)), CharTokenizer.fit(Path(str(config.data)).read_text()))
    here, there = (Loader(tokens, batch_size=4, n_ctx=16, seed=0) for _ in range(2))
    for _ in range(3):
        for mine, theirs in zip(here.next_batch(), there.next_batch(DEVICE), strict=True):
            assert theirs.device.type == torch.device(DEVICE).type
            assert torch.equal(mine, theirs.cpu())


@contextmanager
def group_of_one() -> Iterator[None]:
    dist.init_process_group(BACKEND, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def stepped(config: TrainConfig, parallel: Parallel) -> list[tuple[float, float]]:
    model = parallel.place(Transformer(config.model, generator=seeded_generator(3)), torch.device(DEVICE, 0))
    take_step = TrainStep(model, make_optimizers(model, config), config, parallel=parallel)
    generator, found = seeded_generator(5), []
    for _ in range(5):
        batches: list[Batch] = []
        for _ in range(2):
            inputs, targets = torch.randint(13, (2, 4, 16), generator=generator).to(DEVICE)
            batches.append((inputs, targets))
        found.append(take_step(batches, learning_rate=0.01))
    return read_results(found, parallel.ranks)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_job_of_one_process_is_that_process(config: TrainConfig, parallel: str, dtype: str) -> None:
    config = config.replace(model=config.model.replace(d_vocab=13), dtype=dtype, device=DEVICE)
    with group_of_one():
        made = Replicated(Ranks()) if parallel == "ddp" else Sharded(Ranks(), dtype=getattr(torch, dtype))
        found = stepped(config, made)
    expected = stepped(config, Parallel())
    tolerance = 1e-5 if dtype == "float32" else 0.02  # sums in another order, in 24 bits or in 8
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=tolerance)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="this machine has fewer than two CUDA or ROCm devices")
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_devices_learn_what_one_does(config: TrainConfig, parallel: str, tmp_path: Path) -> None:
    expected = train(config, quiet=True)
    recipe = RECIPE | {"data": config.data, "device": DEVICE, "parallel": parallel}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    job = json.dumps([{"train": recipe | {"out": str(tmp_path / "two")}, "float32": True}])
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [sys.executable, TESTS / "training" / "train_on_ranks.py", job],
            env=os.environ | told | {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": path},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    assert losses(tmp_path / "two") == pytest.approx(losses(expected), abs=1e-5)
    assert losses(tmp_path / "two", "val_loss") == pytest.approx(losses(expected, "val_loss"), abs=1e-5)
