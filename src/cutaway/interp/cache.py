"""The activations of one run, by name, and what a full record of them would take."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.hooks import canonical_name
from cutaway.interp.deriving import can_derive, derive, is_derivable, sources_of
from cutaway.interp.positions import from_start
from cutaway.interp.provenance import PlainRun, Weights, n_changes
from cutaway.interp.sites import check_names, full_name, hook_names, hook_order, row_shape
from cutaway.model import Transformer

if TYPE_CHECKING:
    from cutaway.interp.residual.decomposition import Mode
    from cutaway.interp.residual.norms import Reader, Scale
    from cutaway.interp.residual.stack import Stack

__all__ = ["ActivationCache", "Derives", "cache_gib", "cached_names"]

Derives = Literal["everything", "result", "nothing"]
"""Which activations follow from recorded ones: all that a run need not record, each head's output alone, or none, as of gradients."""


class ActivationCache(Mapping[str, Tensor]):
    """Activations by name, in either spelling, or by part and layer: `cache["blocks.3.attn.pattern"]`, `cache["pattern", 3]`.

    Each head's own output, `attn.result`, is computed from `attn.z` when it is asked for, as it takes `n_heads` times the memory of the
    residual stream. In a record of everything so are scores, patterns, norms and the hidden layers of MLPs, from what they are made of
    in the run; `derives` says which of these follow. `pos` are the positions that were kept, None for all, and `lengths` the tokens of
    rows that are filled up on the right: negative positions then count from each row's own end. `dtype` is what activations were
    converted to, if they were.
    """

    def __init__(
        self,
        activations: Mapping[str, Float[Tensor, "..."]],
        *,
        model: Transformer,
        tokens: Int[Tensor, "batch pos"],
        pos: Sequence[int] | None = None,
        lengths: Sequence[int] | None = None,
        edited: bool = False,
        derives: Derives = "result",
        dtype: torch.dtype | None = None,
        run: PlainRun | None = None,
    ) -> None:
        self.model, self.tokens, self.edited, self._derives = model, tokens, edited, derives
        self.lengths = None if lengths is None else tuple(map(int, lengths))
        self.pos = None if pos is None else tuple(pos)
        self._dtype, self._run, self._weights = dtype, run, Weights.of(model)
        self._activations = dict(activations)
        self._n_changes = {name: n_changes(x) for name, x in self._activations.items()}

    def __getitem__(self, name: str | tuple[str, int]) -> Float[Tensor, "..."]:
        """Return an activation.

        Raises KeyError, with the nearest names, for one that was not recorded, ValueError as `check_weights` for one that is derived.
        """
        full = self._full(name)
        if full in self._activations:
            return self._activations[full]
        if self._may_derive(full):
            self.check_weights()
            found = derive(full, self._activations, self.model).to(dtype=self._dtype)
            if not full.endswith(".attn.result"):
                self._n_changes[full] = None if self.run_of(full) is None else n_changes(found)
                self._activations[full] = found
            return found
        try:
            check_names(self.model.config, [full])
        except ValueError as error:
            raise KeyError(str(error)) from None
        raise KeyError(f"{full!r} was not recorded: name it in run_with_cache(..., names=[...])")

    def __contains__(self, name: object) -> bool:
        try:
            full = self._full(name)  # type: ignore[arg-type]
        except (ValueError, TypeError, AttributeError):
            return False
        return full in self._activations or self._may_derive(full)

    def __iter__(self) -> Iterator[str]:
        if self._derives != "everything":
            return iter(self._activations)
        return (name for name in hook_names(self.model.config) if name in self._activations or _is_listed(name))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"ActivationCache({len(self)} activations, {self.gib:.3g} GiB, tokens {tuple(self.tokens.shape)})"

    @property
    def gib(self) -> float:
        """The memory that it holds."""
        storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in self._activations.values()}
        return sum(storages.values()) / 2**30

    def check_weights(self) -> None:
        """Raise ValueError where the weights changed since the run: what is computed from both would belong to neither."""
        if Weights.of(self.model) != self._weights:
            raise ValueError("the model's weights have changed since this run, and what is asked for takes them: run it again")

    def run_of(self, name: str) -> PlainRun | None:
        """Return the plain run that an activation is of; None where it, or what it follows from, was changed or converted since."""
        full = self._full(name)
        if full in self._activations:
            then, now = self._n_changes[full], n_changes(self._activations[full])
            return self._run if then is not None and now == then else None
        sources = sources_of(full, self.model) or ()
        return self._run if all(self.run_of(source) is not None for source in sources) else None

    def stack(self, part: str) -> Float[Tensor, "layer ..."]:
        """Return one part of every layer, `stack("resid_post")`; raises KeyError where a layer's was not recorded."""
        return torch.stack([self[part, layer] for layer in range(self.model.config.n_layers)])

    def accumulated_resid(
        self,
        layer: int | None = None,
        *,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos: int | Sequence[int] | None = None,
    ) -> Stack:
        """Return the stream before every layer, and after the last or before `layer`: `residual.accumulated_resid`."""
        from cutaway.interp.residual.decomposition import accumulated_resid

        return accumulated_resid(self, layer, incl_mid=incl_mid, apply_ln=apply_ln, pos=pos)

    def decompose_resid(
        self,
        layer: int | None = None,
        *,
        mode: Mode = "all",
        heads: bool = False,
        neurons: bool = False,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos: int | Sequence[int] | None = None,
    ) -> Stack:
        """Return what was added to the stream, which adds up to it, at the end or before `layer`: `residual.decompose_resid`."""
        from cutaway.interp.residual.decomposition import decompose_resid

        options = {"heads": heads, "neurons": neurons, "incl_mid": incl_mid, "apply_ln": apply_ln}
        return decompose_resid(self, layer, mode=mode, pos=pos, **options)

    def apply_ln(self, stack: Stack, layer: int | None = None, *, scale: Scale = "recorded", before: Reader = "attn") -> Stack:
        """Return what the last norm, or a layer's, makes of vectors of the stream: `residual.apply_ln`."""
        from cutaway.interp.residual.norms import apply_ln

        return apply_ln(self, stack, layer, scale=scale, before=before)

    def position_axis(self, pos: int, *, length: int | None = None) -> int:
        """Return where along the kept positions one of the run's is; negative ones count from the end of a row of `length` tokens.

        Raises ValueError for a position that is not there or was not kept.
        """
        n_pos = self.tokens.shape[1]
        length = n_pos if length is None else length
        place = from_start(pos, n_pos, length)
        kept = range(n_pos) if self.pos is None else [from_start(each, n_pos, length) for each in self.pos]
        if place not in kept:
            raise ValueError(f"position {pos} was not kept; those that were are {', '.join(map(str, self.pos or ()))}")
        return kept.index(place)

    def kept(self, pos: int | Sequence[int], *, length: int | None = None) -> int | tuple[int, ...]:
        """Return where along the kept positions these are, as `position_axis` does for each."""
        if isinstance(pos, int):
            return self.position_axis(pos, length=length)
        return tuple(self.position_axis(each, length=length) for each in pos)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> ActivationCache:
        """Return a cache with the activations on another device or in another dtype."""
        moved = copy.copy(self)
        moved._activations = {name: x.to(device=device, dtype=dtype) for name, x in self._activations.items()}
        moved._n_changes = {name: None if self.run_of(name) is None else n_changes(x) for name, x in moved._activations.items()}
        if dtype is not None:
            moved._dtype, moved._run = dtype, None
        return moved

    def _full(self, name: str | tuple[str, int]) -> str:
        if isinstance(name, tuple):
            return full_name(self.model.config, *name)
        return canonical_name(name)

    def _may_derive(self, full: str) -> bool:
        is_result = full.endswith(".attn.result")
        is_lazy = is_derivable(full) if self._derives == "everything" else is_result and self._derives == "result"
        return is_lazy and full in hook_order(self.model.config) and can_derive(full, self._activations, self.model)


def _is_listed(name: str) -> bool:
    """Whether an activation that can be derived is one of those that a record of everything lists."""
    return is_derivable(name) and not name.endswith(".attn.result")


def cached_names(config: ModelConfig, names: str | Sequence[str] | None) -> list[str]:
    """Return the full names that a cache is asked for; raises ValueError for a name or glob that is none of this model's."""
    known = hook_names(config)
    if names is None:
        return [name for name in known if not name.endswith(".attn.result")]
    wanted: set[str] = set()
    for glob in map(canonical_name, [names] if isinstance(names, str) else names):
        matching = [glob] if glob in hook_order(config) else [name for name in known if fnmatchcase(name, glob)]
        if not matching:
            check_names(config, [glob])
        wanted.update(matching)
    return [name for name in known if name in wanted]


def cache_gib(
    config: ModelConfig,
    *,
    batch: int,
    n_pos: int,
    names: str | Sequence[str] | None = None,
    n_kept: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> float:
    """Return the memory in GiB that the activations of these names take, at `n_kept` positions or all."""
    n_kept = n_pos if n_kept is None else n_kept
    total = 0
    for name in cached_names(config, names):
        shape = row_shape(config, name, n_pos)
        total += math.prod(shape) // n_pos * n_kept
    return batch * total * dtype.itemsize / 2**30
