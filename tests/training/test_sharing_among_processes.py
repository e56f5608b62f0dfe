"""Rows, windows, GPUs and reports are shared among processes so that each is one's, and what cannot be shared is refused."""

import sys

import numpy as np
import pytest
import torch

from cutaway.cli import errors
from cutaway.cli.errors import report_error
from cutaway.data import Loader, validation_batches
from cutaway.ranks import Ranks, job_command
from cutaway.runtime import Rank, pick_device, this_rank
from cutaway.training.run import check_surroundings
from cutaway.training.sharded_files import check_sharded_files
from tiny_training import tiny_config


def test_muon_wants_whole_matrices(play):
    config = tiny_config(play, optimizer="muon", parallel="fsdp2", batch_size=2)
    with pytest.raises(ValueError, match=r"muon turns whole matrices, .*: give --parallel ddp, or --optimizer adamw"):
        check_surroundings(config, Ranks(Rank(0, 2)))
    check_surroundings(config, Ranks())  # one process has them whole whatever is asked


def test_each_row_of_a_batch_is_one_process_s():
    tokens = np.arange(100, dtype=np.uint16)
    make = lambda rows: Loader(tokens, batch_size=12, n_ctx=8, seed=4, rows=rows)  # noqa: E731
    whole, _ = make(slice(None)).next_batch()
    for n in (1, 2, 3, 12):
        parts = [make(Ranks(Rank(index, n)).rows(12)).next_batch()[0] for index in range(n)]
        assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("n", [1, 2, 3, 50])
def test_each_validation_window_is_one_process_s(n):
    tokens = np.arange(100, dtype=np.uint16)
    read = lambda part: [  # noqa: E731
        row[0].item() for rows, _ in validation_batches(tokens, batch_size=2, n_ctx=8, max_windows=7, part=part) for row in rows
    ]
    parts = [read(Ranks(Rank(index, n)).part) for index in range(n)]
    assert sorted(start for part in parts for start in part) == read(slice(None))


@pytest.mark.parametrize(("batch_size", "n", "give"), [(5, 2, "4 or 6"), (7, 3, "6 or 9"), (1, 2, "2")])
def test_a_batch_that_cannot_be_shared_evenly(batch_size, n, give):
    with pytest.raises(
        ValueError, match=rf"batch_size is {batch_size} and {n} processes share its rows .* a batch_size of {give}$"
    ):
        Ranks(Rank(0, n)).rows(batch_size)


def tell(monkeypatch, **told):
    for name, value in told.items():
        monkeypatch.setenv(name, value)


def test_a_process_that_torchrun_did_not_start_is_alone(monkeypatch):
    assert this_rank() == Rank(0, 1)
    tell(monkeypatch, RANK="3", WORLD_SIZE="8", LOCAL_RANK="1", LOCAL_WORLD_SIZE="2")
    assert this_rank() == Rank(0, 1)  # nobody to ask: a cluster's own variables
    tell(monkeypatch, MASTER_ADDR="127.0.0.1")
    assert this_rank() == Rank(3, 8, 1, 2)
    monkeypatch.delenv("LOCAL_RANK")
    assert this_rank() == Rank(0, 1)


def test_processes_of_one_machine_take_a_gpu_each(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("auto") == torch.device("cuda")
    tell(monkeypatch, RANK="1", WORLD_SIZE="2", LOCAL_RANK="1", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda", 1)
    assert pick_device("cuda:0") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="device 'cuda:2' is not on this machine, which has 2 such"):
        pick_device("auto")


def test_only_the_first_process_reports_what_all_meet(monkeypatch, capsys):
    tell(monkeypatch, RANK="1", WORLD_SIZE="2", LOCAL_RANK="1", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    waited = []
    monkeypatch.setattr(errors.time, "sleep", waited.append)
    assert report_error(ValueError("wrong")) == 2
    assert waited == [pytest.approx(5)]  # for the first to speak: torchrun ends all others with the one that ends
    assert capsys.readouterr().err == ""
    alone = ValueError("wrong")
    alone.add_note("rank 1")
    assert report_error(alone) == 2
    assert capsys.readouterr().err == "cutaway: rank 1: wrong\n"


def test_an_older_torch_is_told_what_it_lacks(monkeypatch):
    check_sharded_files()
    monkeypatch.setitem(sys.modules, "torch.distributed.checkpoint.hf_storage", None)
    with pytest.raises(
        ValueError, match=r"which came with torch 2\.9, and this is .*: install torch>=2\.9, or give --parallel ddp"
    ):
        check_sharded_files()


@pytest.mark.parametrize(
    ("rank", "command"),
    [
        (Rank(), "cutaway train --resume run"),
        (Rank(0, 2, 0, 2), "torchrun --standalone --nproc-per-node=2 -m cutaway train --resume run"),
        (Rank(5, 8, 1, 4), "torchrun --nnodes=2 --nproc-per-node=4 -m cutaway train --resume run"),
    ],
)
def test_the_command_that_goes_on(rank, command):
    assert job_command("train --resume run", rank) == command
