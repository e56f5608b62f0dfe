"""What every floor needs from the machine: a device, a dtype, generators, files that are whole or absent."""

from __future__ import annotations

import difflib
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # torch takes two seconds to import: only the functions that need it do
    import torch

__all__ = [
    "LOCK",
    "SEEDS_END",
    "Rank",
    "this_rank",
    "environment_of_one",
    "pick_device",
    "pick_dtype",
    "describe_device",
    "peak_memory_gib",
    "n_cores",
    "free_memory_gib",
    "total_memory_gib",
    "Compiler",
    "compiler",
    "compile_obstacle",
    "seeded_generator",
    "file_sha256",
    "atomic_path",
    "settle",
    "clear_unfinished",
    "atomic_write",
    "FolderBusyError",
    "alone_in",
    "check_folder",
    "check_holds",
    "check_room",
    "name_file",
    "remove_path",
    "did_you_mean",
]

LOCK = ".lock"
"""The file by which a process keeps others out of a folder."""
SEEDS_END = 2**64
"""The first number that is no seed: torch takes 64 bits."""


_TOLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class Rank:
    """Which of a job's processes this one is, as torchrun counts them: from 0, through the job and on its machine."""

    index: int = 0
    n_ranks: int = 1
    local_index: int = 0
    n_local: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that speaks and writes for all."""
        return self.index == 0


def this_rank() -> Rank:
    """Return what torchrun tells this process of itself; a process that it did not start is a job of its own."""
    told = [os.environ.get(name, "") for name in _TOLD]
    return Rank(*map(int, told)) if "MASTER_ADDR" in os.environ and all(map(str.isdecimal, told)) else Rank()


def environment_of_one() -> dict[str, str]:
    """Return the environment for a process that is a job of its own, whatever job this one is of."""
    return {name: value for name, value in os.environ.items() if name not in (*_TOLD, "MASTER_ADDR", "MASTER_PORT")}


def pick_device(name: str | None = None) -> torch.device:
    """Return the device called `name`, or without a name the fastest present: CUDA or ROCm, Apple's, the CPU.

    Several processes of one machine take a CUDA device each. Raises ValueError when the device named is unknown or absent.
    """
    import torch

    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name is None or name == "auto":
        name = "cuda" if has_cuda else "mps" if has_mps else "cpu"
    present = ["cpu"] + ["cuda"] * has_cuda + ["mps"] * has_mps
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"{name!r} is not a device; this machine has {', '.join(present)}") from None
    if device.type not in present:
        raise ValueError(f"device {name!r} is not on this machine, which has {', '.join(present)}")
    if name == "cuda" and this_rank().n_local > 1:
        name, device = f"cuda:{this_rank().local_index}", torch.device("cuda", this_rank().local_index)
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not on this machine, which has {torch.cuda.device_count()} such device(s)")
    return device


def pick_dtype(name: str, device: torch.device) -> str:
    """Return what to compute matrix products in: `name`, or for "auto" bfloat16 where the device is faster at it."""
    import torch

    if name != "auto":
        return name
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    return "bfloat16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "float32"


def describe_device(device: torch.device) -> str:
    """Return one line a person can check: the device's name, and for a CPU its threads."""
    import torch

    if device.type == "cuda":
        kind = "ROCm" if torch.version.hip else "CUDA"
        return f"{torch.cuda.get_device_name(device)} ({kind})"
    if device.type == "mps":
        return "Apple GPU (mps)"
    n_threads = torch.get_num_threads()
    return f"CPU, {n_threads} thread{'s' if n_threads > 1 else ''}"


def peak_memory_gib(device: torch.device) -> float:
    """Return the most memory used so far in GiB: of the device, or for a CPU of this process."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts bytes on macOS and kibibytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def n_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory_gib(device: torch.device) -> float | None:
    """Return the free memory in GiB: of the device, or for a CPU of this machine and its container; None where it is not told."""
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**30
    limit, used = _container_bytes()
    return _least_gib(_machine_bytes("MemAvailable", "SwapFree"), None if limit is None else limit - used)


def total_memory_gib(device: torch.device) -> float | None:
    """Return all the memory there is in GiB, as `free_memory_gib` returns what is free of it."""
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1] / 2**30
    return _least_gib(_machine_bytes("MemTotal", "SwapTotal"), _container_bytes()[0])


def _least_gib(*n_bytes: int | None) -> float | None:
    return min((each / 2**30 for each in n_bytes if each is not None), default=None)


def _machine_bytes(memory: str, swap: str) -> int | None:
    """Return what Linux tells under these names together, None where it does not."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kib = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
    return 1024 * (kib[memory] + kib.get(swap, 0)) if memory in kib else None


def _container_bytes() -> tuple[int | None, int]:
    """Return what this container may use, None where that is not limited, and what of it cannot be given back."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        cached = next(
            int(line.split()[1]) for line in (folder / "memory.stat").read_text().splitlines() if line.startswith("file ")
        )
    except (OSError, StopIteration):
        return None, 0
    return None if limit == "max" else int(limit), int(used) - cached  # what files are cached in is given back when it is needed


class Compiler(NamedTuple):
    """What torch.compile needs on a CPU, and would look no further for."""

    command: str
    version: str | None
    """The first line that the command says of itself, None where it cannot be run."""
    has_python_headers: bool


def compiler() -> Compiler:
    """Return the C++ compiler that torch.compile calls on a CPU: the one that $CXX names, or else the system's usual one."""
    command = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # as torch._inductor.config has it
    has_headers = any((folder / "Python.h").is_file() for folder in _header_folders())
    return Compiler(command, _version_of(command, os.environ.get("PATH")), has_headers)


def _header_folders() -> list[Path]:
    """Return where torch looks for Python's headers; a framework build of macOS has them beside its library."""
    named = [sysconfig.get_path("include"), sysconfig.get_path("include", scheme="posix_prefix")]
    return [*map(Path, named), Path(sysconfig.get_path("stdlib")).parents[1] / "Headers"]


@cache
def _version_of(command: str, path: str | None) -> str | None:  # noqa: ARG001 (where the command is looked for)
    try:
        said = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(said.splitlines()), command)


def compile_obstacle(device: torch.device) -> str | None:
    """Return why nothing is compiled for this device, as a clause, None where it can be."""
    if device.type == "mps":
        return "nothing is compiled for an Apple GPU"
    if device.type == "cpu" and compiler().version is None:
        return "there is no C++ compiler here (`cutaway doctor` shows what was looked for)"
    if device.type == "cpu" and not compiler().has_python_headers:
        return "Python's headers, with which a compiled step is built, are not here (`cutaway doctor` says what to install)"
    return None


def seeded_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator of its own: the global random state is neither read nor changed; raises ValueError beyond 64 bits."""
    import torch

    if not -SEEDS_END // 2 <= seed < SEEDS_END:
        raise ValueError(f"seed is {seed}; expected a whole number of 64 bits, less than 2^64")
    return torch.Generator(device).manual_seed(seed)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary sibling to write, file or folder, and rename it to `path` once it is on the disk.

    Whatever interrupts the writing, `path` is either as it was or whole, and a folder that was made for it alone is gone again.
    """
    made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    remove_path(temporary)
    try:
        yield temporary
        settle(temporary, path)
    except BaseException as error:
        remove_path(temporary)
        for folder in made:
            if not any(folder.iterdir()):
                folder.rmdir()
        if isinstance(error, OSError):
            if Path(str(error.filename)) == temporary:  # a name that nobody knows, and that is gone
                error.filename = None
            name_file(error, path)
        raise


def clear_unfinished(folder: Path) -> None:
    """Remove what a writer that was killed left in a folder: ours, and those that the safetensors library renames when done."""
    for pattern in (".*.tmp", ".tmp*"):
        for rest in folder.glob(pattern):
            remove_path(rest)


class FolderBusyError(ValueError):
    """Another process works in a folder."""


@contextmanager
def alone_in(folder: Path, doing: str, *, timeout_s: float = 0) -> Iterator[None]:
    """Keep other processes from doing the same in a folder; the lock, a file there, ends with the process, however it ends.

    Raises FolderBusyError, `doing` being what another one does, as "writes the store in".
    """
    from filelock import FileLock, Timeout

    try:
        with FileLock(folder / LOCK, timeout=timeout_s):
            yield
    except Timeout:
        raise FolderBusyError(f"another process {doing} {folder}: wait for it, or stop it first") from None


def settle(temporary: Path, path: Path) -> None:
    """Bring a file or folder onto the disk, and only then call it `path`, in the same folder."""
    for file in [temporary, *temporary.rglob("*")]:
        _fsync(file)
    temporary.rename(path)
    _fsync(path.parent)


def check_folder(folder: Path, what: str, known: Collection[str]) -> None:
    """Raise ValueError for a folder that `what` is not to be written into: a file, or one that holds more than the `known` names.

    What begins with a dot does not count: an interrupted writing may have left it.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: give a folder to write {what} into")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if others := sorted(name for name in names.difference(known) if not name.startswith(".")):
        raise ValueError(f"{folder} holds other things ({others[0]}): give a folder of its own to {what}")


def check_holds(folder: Path, file: str, what: str, *, made_by: str) -> None:
    """Raise ValueError for a folder that is not there, or without the file that makes it `what`, and say what makes one."""
    if not folder.exists():
        raise ValueError(f"there is no folder {folder}: {made_by}")
    if not (folder / file).is_file():
        raise ValueError(f"{folder} holds no {file}, so it is {what}: {made_by}")


def check_room(path: Path, n_bytes: int) -> None:
    """Raise OSError for a file or folder of so many bytes that could not be written: its place refuses it, or has no room."""
    there = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    there = there if there.is_dir() or there != path.absolute() else there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            n_free = shutil.disk_usage(there).free
    except OSError as error:
        error.filename = str(path)  # not a name that nobody knows
        raise
    if n_free < n_bytes:
        raise OSError(
            f"{path} takes {-(-n_bytes // 2**20):,} MiB and its disk has {n_free // 2**20:,} MiB left: free some space, or give "
            "another place"
        )


def name_file(error: OSError, path: Path) -> None:
    """Let an error of the system's say which file it is about, where it does not: a write that fails does not."""
    if error.errno is not None and error.filename is None:
        error.filename = str(path)


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_path(path: Path) -> None:
    """Remove a file or a folder with what is in it; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        for child in path.iterdir():
            remove_path(child)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the question that goes into the sentence about an unknown name, empty where no known one is near.

    >>> did_you_mean("smolm2-135m", ["gpt2", "smollm2-135m"]), did_you_mean("mine", ["gpt2"])
    ("did you mean 'smollm2-135m'? ", '')
    """
    near = difflib.get_close_matches(name.lower(), known, n=1)
    return f"did you mean {near[0]!r}? " if near else ""
