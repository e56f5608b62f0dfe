"""The processes of one job, as torchrun starts them: who talks, who waits for whom, what is known to all, and who does what."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from cutaway.runtime import Rank, pick_device, this_rank

__all__ = ["Ranks", "LostRankError", "joined_ranks", "naming_lost_ranks", "shared_work", "sharing_ranks", "job_command"]

_T = TypeVar("_T")

_ALONE = Rank()


class LostRankError(RuntimeError):
    """Another process of the job is gone."""


_PATIENCE = timedelta(hours=1)
"""How long the others wait for one: the first may have a whole corpus to encode. A process that died is noticed at once."""
_LOST = "another process of this job ended, or did not ask what this one asks, and all must: so the job has ended"
_ENDED = "this job was ended from outside, or by torchrun because another of its processes had ended"
_GONE = re.compile(r"by peer|remote process|broken pipe|timed? ?out|aborted", re.IGNORECASE)
_FIRST_SPEAKS_S = 3.0
"""How long the others wait for the first to say why the job fails before one of them does."""


@dataclass(frozen=True)
class Ranks:
    """The processes that do one work together, seen by one of them; one process alone is all of them, and waits for nobody.

    What they tell each other goes through the CPU, so that nothing waits for a GPU. All must ask the same things in the same order.
    """

    rank: Rank = _ALONE

    @property
    def n(self) -> int:
        """How many there are."""
        return self.rank.n_ranks

    @property
    def is_first(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.rank.is_first

    def __str__(self) -> str:
        return f"process {self.rank.index} of {self.n}"

    @property
    def part(self) -> slice:
        """Every n-th, which are this one's of things that need not be of one number for each."""
        return slice(self.rank.index, None, self.n)

    def rows(self, batch_size: int) -> slice:
        """Return this one's rows of a batch; raises ValueError for one that cannot be shared out evenly."""
        if batch_size % self.n:
            below = batch_size // self.n * self.n
            fitting = f"{below} or {below + self.n}" if below else f"{self.n}"
            raise ValueError(
                f"batch_size is {batch_size} and {self.n} processes share its rows evenly: start as many processes as divide it, "
                f"or begin a run with a batch_size of {fitting}"
            )
        n_own = batch_size // self.n
        return slice(self.rank.index * n_own, (self.rank.index + 1) * n_own)

    def from_first(self, make: Callable[[], _T]) -> _T:
        """Return what the first process makes."""
        if self.n == 1:
            return make()
        made = [make() if self.is_first else None]
        dist.broadcast_object_list(made, src=0)
        return made[0]  # type: ignore[return-value]

    def one_first(self, make: Callable[[], _T]) -> _T:
        """Return what each process makes: one on every machine first, which leaves in the cache there what the others read."""
        made = [make()] if self.rank.local_index == 0 else []
        self.wait()
        return made[0] if made else make()

    @contextmanager
    def entered_by_first(self, enter: Callable[[], AbstractContextManager[_T]]) -> Iterator[_T]:
        """Enter a context in the first process alone, and give its value to all."""
        if self.is_first:
            with enter() as value:
                yield self.from_first(lambda: value)
        else:
            yield self.from_first(enter)  # type: ignore[misc]  # the first process's value

    def check_same(self, what: str, asked: Callable[[], str]) -> None:
        """Raise ValueError in all processes where they ask for different things; `asked` describes this one's."""
        if self.n == 1:
            return
        digests = self.of_all((what, hashlib.sha256(asked().encode()).hexdigest()))
        if differing := [index for index, digest in enumerate(digests) if digest != digests[0]]:
            raise ValueError(
                f"processes 0 and {differing[0]} of this job asked for different things ({what}): all must ask the same in the same "
                "order, and shared_work gives each its part"
            )

    def of_all(self, value: _T) -> list[_T]:
        """Return what each of them gives, in their order."""
        if self.n == 1:
            return [value]
        values: list[_T | None] = [None] * self.n
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def interleaved(self, rows: Tensor, n_rows: int) -> Tensor:
        """Return all `n_rows` rows, of which each has its `part`, bit for bit as they were computed."""
        if self.n == 1:
            return rows
        every = torch.zeros(n_rows, *rows.shape[1:], dtype=rows.dtype)
        every[self.part] = rows.cpu()
        dist.all_reduce(every)  # all others have zeros there
        return every.to(rows.device)

    def any(self, is_so: bool) -> bool:
        """Return whether it is so for one of them."""
        return self.total(float(is_so))[0] > 0

    def total(self, *numbers: float) -> tuple[float, ...]:
        """Return each number summed over the processes, in float64."""
        if self.n == 1:
            return numbers
        sums = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(sums)
        return tuple(sums.tolist())

    def wait(self) -> None:
        """Wait until all have come here."""
        self.total(0.0)


@contextmanager
def joined_ranks(device: str) -> Iterator[Ranks]:
    """Join the job that torchrun started this process for, with gloo, and NCCL between CUDA devices; leave it at the end.

    Where the job fails one process alone says why: the first, if it fails too, or else whichever did. The others end with SystemExit.
    """
    rank = this_rank()
    if rank.n_ranks == 1:
        yield Ranks()
        return
    store: Store = next(rendezvous("env://", timeout=_PATIENCE))[0]
    store = PrefixStore(f"cutaway/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    n_before = (store.add("joined", 1) - 1) // rank.n_ranks  # groups that this program had, and has left
    store = PrefixStore(str(n_before), store)
    is_cuda = False
    try:
        is_cuda = _begin(device, rank, store)
        with naming_lost_ranks(lambda: _LOST), _hearing_the_end():
            yield Ranks(rank)
        dist.destroy_process_group()
    except BaseException as error:
        if isinstance(error, LostRankError) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, which ends the job, is to leave time for a last word
        speaks = _may_speak(error, store, rank)
        if dist.is_initialized() and not is_cuda:  # NCCL would wait for those that are gone
            dist.destroy_process_group()
        if not speaks:
            raise SystemExit(1) from None
        if not rank.is_first:
            error.add_note(f"rank {rank.index}")
        raise


def _begin(name: str, rank: Rank, store: Store) -> bool:
    """Begin the process group and return whether it joins CUDA devices; raises ValueError for one that several cannot join."""
    device = pick_device(name)
    if device.type == "mps":
        raise ValueError(
            f"device is {name} and this job has {rank.n_ranks} processes, which an Apple GPU cannot join: give --device cpu"
        )
    if dist.is_initialized():
        raise ValueError(
            "this program has begun a process group of its own: leave out init_process_group, which cutaway does itself"
        )
    is_cuda = device.type == "cuda"
    if is_cuda:
        if device.index != rank.local_index:
            raise ValueError(f"device is {name} and each of {rank.n_ranks} processes takes one of its own: give --device cuda")
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if is_cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=rank.index, world_size=rank.n_ranks, timeout=_PATIENCE)
    return is_cuda


@contextmanager
def _hearing_the_end() -> Iterator[None]:
    """Raise LostRankError where torchrun ends this process, as it does once another has ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(signum: int, frame: object) -> None:  # noqa: ARG001
        raise LostRankError(_ENDED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is end:
            signal.signal(signal.SIGTERM, before)


def _may_speak(error: BaseException, store: Store, rank: Rank) -> bool:
    """Return whether this process is to say why the job failed; nobody else will be then.

    Who failed of itself goes before those who miss it, and the first process before the others.
    """
    try:
        if not isinstance(error, LostRankError):
            store.set("cause", "")
        elif store.check(["cause"]):
            return False
        if rank.is_first:
            store.set("first speaks", "")
        elif _comes_up("first speaks", store):
            return False
        return bool(store.add("spoken", 1) == 1)
    except RuntimeError:  # the store has gone with torchrun
        return rank.is_first


def _comes_up(key: str, store: Store) -> bool:
    until = time.monotonic() + _FIRST_SPEAKS_S
    while time.monotonic() < until:
        if store.check([key]):
            return True
        time.sleep(0.05)
    return False


@contextmanager
def naming_lost_ranks(sentence: Callable[[], str]) -> Iterator[None]:
    """Raise LostRankError with this sentence for what torch says when another process of the job is gone."""
    try:
        yield
    except RuntimeError as error:
        is_torchs = isinstance(error, dist.DistError) or "gloo" in str(error)  # gloo's errors have no class of their own
        if isinstance(error, LostRankError) or not (is_torchs and _GONE.search(str(error))):
            raise
        raise LostRankError(sentence()) from None


def job_command(arguments: str, rank: Rank) -> str:
    """Return the command line that runs cutaway with these arguments on as many processes."""
    if rank.n_ranks == 1:
        return f"cutaway {arguments}"
    n_nodes = rank.n_ranks // rank.n_local
    machines = f"--nnodes={n_nodes}" if n_nodes > 1 else "--standalone"
    return f"torchrun {machines} --nproc-per-node={rank.n_local} -m cutaway {arguments}"


_SHARING: ContextVar[Ranks | None] = ContextVar("sharing", default=None)


@contextmanager
def shared_work(device: str = "auto") -> Iterator[Ranks]:
    """Share evaluations, stores and sweeps inside between the processes that torchrun started; alone, nothing is different.

    All of them run the same program and get the same results; print and write with `ranks.is_first` alone. As `joined_ranks`, which
    says what happens when one fails.

    >>> import cutaway
    >>> from cutaway import edits, metrics
    >>> lm = cutaway.load("ioi-mini")
    >>> heads = [[edits.zero("blocks.1.attn.z", head=head)] for head in range(8)]
    >>> with cutaway.shared_work() as ranks:
    ...     scores = cutaway.sweep(lm.model, lm.tokens("When Mary and John"), heads, metrics.log_prob(lm.tokens(" went")[0]))
    ...     if ranks.is_first:
    ...         print(len(scores))
    8
    """
    if (sharing := _SHARING.get()) is not None:  # within another
        yield sharing
        return
    with joined_ranks(device) as ranks:
        before = _SHARING.set(ranks)
        try:
            yield ranks
        finally:
            _SHARING.reset(before)


def sharing_ranks() -> Ranks:
    """Return the processes that share what is done here: one alone outside of `shared_work`."""
    return _SHARING.get() or Ranks()
