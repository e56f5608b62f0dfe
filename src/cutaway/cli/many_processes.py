"""The verbs that torchrun may start as many processes, which share the work."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cutaway.cli.errors import UsageError
from cutaway.runtime import this_rank

__all__ = ["shares_work", "check_processes"]

_V = TypeVar("_V", bound=Callable[..., None])


def shares_work(verb: _V) -> _V:
    """Let a verb be started as many processes; any other is the work of one."""
    verb.shares_work = True  # type: ignore[attr-defined]
    return verb


def check_processes(name: str, verb: Callable[..., None]) -> None:
    """Raise UsageError where many processes were started for a verb that does not share its work."""
    if this_rank().n_ranks > 1 and not getattr(verb, "shares_work", False):
        raise UsageError(f"`cutaway {name}` is the work of one process: start it without torchrun")
