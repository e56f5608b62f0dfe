"""Tensors that are shared out between processes, as one safetensors file that any number of processes reads."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from cutaway.runtime import remove_path

__all__ = ["check_sharded_files", "write_sharded", "read_sharded"]


def check_sharded_files() -> None:
    """Raise ValueError for a torch that cannot write them."""
    try:
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

        is_able = "enable_consolidation" in signature(HuggingFaceStorageWriter).parameters
    except ImportError:
        is_able = False
    if not is_able:
        raise ValueError(
            f"fsdp2 writes checkpoints by torch's own safetensors storage, which came with torch 2.9, and this is {torch.__version__}: "
            "install torch>=2.9, or give --parallel ddp"
        )


def write_sharded(tensors: Mapping[str, Tensor], path: Path, *, is_first: bool) -> None:
    """Write tensors of which each process has a part; all must ask, and when they return the file is whole.

    Each process writes its parts into a folder beside `path`, and the first copies them together from there, one tensor at a time: no
    process ever holds more than its own parts twice. Raises ValueError where the processes do not write onto one disk.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter  # not in every torch

    parts = path.with_name(f"{path.stem}-parts")
    writer = HuggingFaceStorageWriter(str(parts), save_distributed=True, enable_consolidation=True)
    with _one_failure():
        save(dict(tensors), storage_writer=writer)
    if is_first:
        (consolidated,) = parts.glob("*.safetensors")
        _check_whole(consolidated, tensors, place=path.parents[1])
        consolidated.rename(path)
        remove_path(parts)


def _check_whole(file: Path, tensors: Mapping[str, Tensor], *, place: Path) -> None:
    """Raise ValueError for a file that lacks other processes' parts."""
    with safe_open(file, framework="pt") as stored:
        shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
    if shapes != {name: tuple(tensor.shape) for name, tensor in tensors.items()}:
        raise ValueError(
            f"{place.absolute()} holds the parts of some processes alone, as if not all machines wrote onto one disk: give an --out "
            "that they share, or --parallel ddp"
        )


def read_sharded(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill tensors of which each process has a part from the safetensors files in a folder, which hold them whole; all must ask.

    A process reads its own parts alone.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader  # not in every torch

    with _one_failure():
        load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)))


@contextmanager
def _one_failure() -> Iterator[None]:
    """Raise what failed in one of the processes, instead of torch's list of all tracebacks."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own use of what it no longer likes
            yield
    except CheckpointException as error:
        first, _ = next(iter(error.failures.values()))
        raise first from None
