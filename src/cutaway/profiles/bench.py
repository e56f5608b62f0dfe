"""What all that is measured in one run shares: the device, its limits, and the programs to compare with."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.language_model import check_memory
from cutaway.measure import Limits, measure_limits
from cutaway.model import Transformer
from cutaway.profiles.hugging_face import HuggingFace
from cutaway.profiles.peers import Peers
from cutaway.profiles.transformer_lens import TransformerLens
from cutaway.runtime import pick_device, seeded_generator

__all__ = ["Request", "Bench", "name_of", "largest_difference"]

_TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 0.1}
"""How far two programs' logits may be apart, of the largest: digits of the type, less two or three for sums in another order."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to measure a work with; what is None is chosen for the work and the device."""

    preset: str | None = None
    dtype: torch.dtype | None = None
    batch: int | None = None
    """Rows."""
    length: int | None = None
    """Tokens in a row."""
    compile: bool = False
    """With decode: the compiled step too."""

    def config(self, usual: str = "gpt2") -> tuple[str, ModelConfig]:
        """Return the shape and its name, `usual` unless one was asked for."""
        name = self.preset or usual
        return name, ModelConfig.preset(name)


@dataclass
class Bench:
    """One run: where, beside whom, and over how many rounds the median is taken (None: as many as the work needs)."""

    device: torch.device = field(default_factory=pick_device)
    peers: Peers = field(default_factory=Peers)
    n_rounds: int | None = None
    tell: Callable[[str], None] = warnings.warn
    _limits: dict[torch.dtype, Limits] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)

    @property
    def is_cpu(self) -> bool:
        """Whether everything is measured on a CPU."""
        return self.device.type == "cpu"

    def rounds(self, usual: int) -> int:
        """Return over how many rounds to take the median."""
        return self.n_rounds or usual

    def limits(self, dtype: torch.dtype) -> Limits:
        """Return what the machine can do at most, measured once in a run."""
        if dtype not in self._limits:
            self._limits[dtype] = measure_limits(dtype, device=self.device)
        return self._limits[dtype]

    @property
    def measured_limits(self) -> Mapping[torch.dtype, Limits]:
        """The limits that were measured so far."""
        return self._limits

    def tokens(self, config: ModelConfig, batch: int, n_pos: int, *, seed: int = 0) -> Int[Tensor, "batch pos"]:
        """Draw tokens; raises ValueError for more than the model reads."""
        if not 1 <= n_pos <= config.n_ctx:
            raise ValueError(f"the length is {n_pos}; this model reads 1 to {config.n_ctx} tokens")
        return torch.randint(config.d_vocab, (batch, n_pos), generator=seeded_generator(seed)).to(self.device)

    def model(self, config: ModelConfig, *, name: str, dtype: torch.dtype = torch.float32, n_copies: int = 1) -> Transformer:
        """Return a model of random weights; raises ValueError where `n_copies` of it do not fit into the memory."""
        check_memory(config, self.device, name=name, dtype=dtype, n_copies=n_copies, what="ours, the peers' and what they learn by")
        return Transformer(config, generator=seeded_generator(0)).to(device=self.device, dtype=dtype).eval()

    def tell_once(self, sentence: str) -> None:
        """Say what changes what is compared, a single time in a run."""
        if sentence not in self._told:
            self._told.add(sentence)
            self.tell(sentence)

    def hugging_face(self, model: Transformer) -> HuggingFace | None:
        """Return the same model in transformers, None, and told, where it has none."""
        if not self.peers.has_transformers:
            return None
        try:
            return HuggingFace(model)
        except ValueError:
            self.tell_once("transformers is left out: none of its families that cutaway reads has such a shape")
            return None

    def transformer_lens(self, model: Transformer) -> TransformerLens | None:
        """Return TransformerLens with the same model, None, and told, where it has none."""
        lens = self.peers.transformer_lens
        try:
            if lens is not None:
                lens.open(model)
        except ValueError as error:
            self.tell_once(f"TransformerLens is left out: {error}")
            return None
        return lens

    def check_agreement(
        self,
        name: str,
        ours: Float[Tensor, "*shape"],
        theirs: Float[Tensor, "*shape"],
        *,
        dtype: torch.dtype,
        scale: float | None = None,
    ) -> float:
        """Return the largest difference over the largest logit; raises RuntimeError where it is more than rounding."""
        apart = largest_difference(ours, theirs, scale=scale)
        if not apart <= _TOLERANCES[dtype]:  # nor if it is not a number
            raise RuntimeError(
                f"{name} computes something else: with the same weights its numbers are {apart:.1e} of the largest logit from "
                f"ours, and rounding in {name_of(dtype)} makes {_TOLERANCES[dtype]:g} at most"
            )
        return apart


def largest_difference(ours: Tensor, theirs: Tensor, *, scale: float | None = None) -> float:
    """Return the largest difference over the largest of our magnitudes, or over `scale`."""
    ours, theirs = ours.detach().double().cpu(), theirs.detach().double().cpu()
    return float((ours - theirs).abs().max() / (ours.abs().max() if scale is None else scale))


def name_of(dtype: torch.dtype) -> str:
    """Return how a type is called on the command line.

    >>> name_of(torch.bfloat16)
    'bfloat16'
    """
    return str(dtype).removeprefix("torch.")
