"""Hooks: functions that see, and may replace, the activations of one forward pass.

A hook is an argument of the call and never a property of the model. Inside the model stands `x = hooks("resid_pre", x)`: the tensor
handed in is the tensor consumed. `NO_HOOKS`, the default, hands every tensor back and asks for nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Self

from jaxtyping import Float
from torch import Tensor

__all__ = ["Hook", "Hooks", "NO_HOOKS", "canonical_name", "nearest_names", "recording", "replacing"]

Hook = Callable[[Tensor, str], Tensor | None]
"""A function of an activation and its full name: None looks, a tensor replaces."""


class Hooks:
    """Functions to call by activation name; names may be globs and may be spelled as TransformerLens does.

    `functions` maps a name or glob (`"blocks.*.attn.pattern"`) to one function or several, which run in the order given.

    >>> norms = {}
    >>> hooks = Hooks({"blocks.*.resid_post": lambda resid, name: norms.update({name: resid.norm().item()})})
    """

    def __init__(self, functions: Mapping[str, Hook | Sequence[Hook]]) -> None:
        self._prefix = ""
        self._functions: dict[str, list[Hook]] = {}
        for name, given in functions.items():
            each = [given] if callable(given) else list(given)
            self._functions.setdefault(canonical_name(name), []).extend(each)
        self._has_globs = any(sign in name for name in self._functions for sign in "*?[")
        self._fired: set[str] = set()
        self._resolved: dict[str, list[tuple[str, Hook]]] = {}

    def __call__(self, name: str, x: Tensor) -> Tensor:
        """Return what the model goes on with: `x`, or what a hook made of it.

        Raises ValueError when a hook returns a tensor of another shape, dtype or device.
        """
        full = self._prefix + name
        for pattern, function in self._matching(full):
            self._fired.add(pattern)
            replaced = function(x, full)
            if replaced is not None:
                if _form(replaced) != _form(x):
                    raise ValueError(f"the hook on {full!r} returned {_described(replaced)}; expected {_described(x)}, or None")
                x = replaced
        return x

    def __repr__(self) -> str:
        return f"{type(self).__name__.strip('_')}({', '.join(map(repr, self._functions))})"

    def at(self, *scope: str | int) -> Self:
        """Return the same hooks as a part of the model sees them: `hooks.at("blocks", 3)("resid_pre", x)`."""
        scoped = object.__new__(type(self))
        scoped.__dict__.update(self.__dict__)
        scoped._prefix = self._prefix + "".join(f"{part}." for part in scope)
        return scoped

    def new_run(self) -> Self:
        """Return the same hooks with no record yet of which of them fired."""
        scoped = self.at()
        scoped._fired = set()
        return scoped

    def wants(self, *names: str) -> bool:
        """Whether any hook asks for one of these activations, which cost something to compute."""
        return any(self._matching(self._prefix + name) for name in names)

    def check_fired(self, known_names: Callable[[], Iterable[str]]) -> None:
        """Raise ValueError if a name or glob given never fired, with the nearest of the names there are."""
        silent = [pattern for pattern in self._functions if pattern not in self._fired]
        if not silent:
            return
        nearest = nearest_names(silent, list(known_names()))
        raise ValueError(f"no activation is called {' or '.join(map(repr, silent))} in this run{nearest}")

    def _matching(self, full: str) -> list[tuple[str, Hook]]:
        if full not in self._resolved:
            if self._has_globs:
                patterns = [pattern for pattern in self._functions if fnmatchcase(full, pattern)]
            else:
                patterns = [full] if full in self._functions else []
            self._resolved[full] = [(pattern, function) for pattern in patterns for function in self._functions[pattern]]
        return self._resolved[full]


def _form(x: object) -> tuple[object, ...] | None:
    return (x.shape, x.dtype, x.device) if isinstance(x, Tensor) else None


def _described(x: object) -> str:
    if not isinstance(x, Tensor):
        return f"a value of type {type(x).__name__}"
    return f"a tensor of shape {tuple(x.shape)}, {x.dtype}, on {x.device}"


class _NoHooks(Hooks):
    """What a call without hooks passes down: everything goes through, nothing is wanted."""

    def __call__(self, name: str, x: Tensor) -> Tensor:  # noqa: ARG002
        return x

    def at(self, *scope: str | int) -> Self:  # noqa: ARG002
        return self

    def new_run(self) -> Self:
        return self

    def wants(self, *names: str) -> bool:  # noqa: ARG002
        return False


NO_HOOKS: Hooks = _NoHooks({})


def canonical_name(name: str) -> str:
    """Return our spelling of an activation's name or glob, given TransformerLens's or ours.

    >>> canonical_name("blocks.3.attn.hook_pattern"), canonical_name("hook_embed"), canonical_name("blocks.*.resid_post")
    ('blocks.3.attn.pattern', 'embed', 'blocks.*.resid_post')
    """
    *scope, last = name.split(".")
    return ".".join([*scope, last.removeprefix("hook_")])


def nearest_names(names: Iterable[str], known: Sequence[str]) -> str:
    """Return the end of a sentence about unknown names: which known ones are near, nothing where none is."""
    near = [match for name in names for match in difflib.get_close_matches(name, known, n=3, cutoff=0.3)]
    return f"; the nearest names are {', '.join(dict.fromkeys(near))}" if near else ""


def recording(*names: str) -> tuple[Hooks, dict[str, Float[Tensor, "..."]]]:
    """Return hooks that keep the activations of these names or globs, and the dictionary they are kept in.

    >>> hooks, activations = recording("blocks.*.attn.pattern", "logits")
    """
    activations: dict[str, Tensor] = {}
    return Hooks({name: lambda x, full: activations.update({full: x}) for name in names}), activations


def replacing(tensors: Mapping[str, Float[Tensor, "..."]]) -> Hooks:
    """Return hooks that put these tensors in the place of the activations of their names."""
    return Hooks({name: lambda _x, _full, tensor=tensor: tensor for name, tensor in tensors.items()})  # type: ignore[misc]
