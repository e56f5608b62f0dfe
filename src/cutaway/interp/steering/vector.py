"""A steering vector: what is added to an activation, or taken out of the stream, with where it comes from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_bytes
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.hooks import Hooks
from cutaway.interp import edits
from cutaway.interp.edits import Edit
from cutaway.interp.sites import check_names, hook_names, site_of
from cutaway.interp.tensors import from_json, to_json
from cutaway.model import Transformer
from cutaway.runtime import atomic_write, seeded_generator
from cutaway.values import said_of_json
from cutaway.views import without_dropout
from cutaway.weights import model_sha256

__all__ = ["SteeringVector", "checked_ending", "stream_names"]

_FORMAT = "cutaway steering vector 1"
_ENDINGS = (".json", ".safetensors")


@dataclass(frozen=True, eq=False, repr=False)
class SteeringVector:
    """A direction of one activation: one for all positions, or one for each of the first positions."""

    name: str
    """The activation that it is of and is added to, `blocks.12.resid_post`."""
    vector: Float[Tensor, "*pos d"]
    made: str
    """How it was made, in words."""
    model_sha256: str
    """That of the model it was made for."""
    model: str = ""
    """What that model is called, where it is known."""

    def __repr__(self) -> str:
        return f"SteeringVector({self.name}, length {self.norm:.3g}, {self.made})"

    @property
    def norm(self) -> float:
        """Its length; the mean length where there are several positions."""
        return float(self.vector.double().norm(dim=-1).mean())

    @property
    def direction(self) -> Float[Tensor, " d"]:
        """The unit vector; raises ValueError for a vector for each position."""
        if self.vector.ndim > 1:
            raise ValueError(f"this vector is one for each of {len(self.vector)} positions: it has no one direction")
        unit: Tensor = self.vector / self.vector.norm()
        return unit

    def edits(self, strength: float = 1.0, *, pos: int | Sequence[int] | None = None, n_pos: int | None = None) -> list[Edit]:
        """Return the edits that add it, `strength` times as long, at every position or at `pos`.

        Source: Turner et al. 2023, "Steering Language Models With Activation Engineering". A vector for each of the first positions
        goes to these, of a text of `n_pos` tokens to as many as it has, and takes no `pos`.
        """
        if self.vector.ndim == 1:
            return [edits.add(self.name, strength * self.vector, pos=pos)]
        if pos is not None:
            raise ValueError(f"this vector is for the first {len(self.vector)} positions: leave out pos")
        cut = self.vector[:n_pos]
        return [edits.add(self.name, strength * cut, pos=range(len(cut)))]

    def ablation(self, config: ModelConfig) -> list[Edit]:
        """Return the edits that take its direction out of the residual stream before every part that reads it, at all positions.

        The model then computes as if no weight could write the direction. Source: Arditi et al. 2024, "Refusal in Language Models Is
        Mediated by a Single Direction", section 2.4. Raises ValueError for a vector that is not of the stream.
        """
        if site_of(self.name).axes[-1] != "d_model":
            raise ValueError(f"{self.name!r} is not of the residual stream, so its direction cannot be taken out of that")
        return [edits.project(name, self.direction) for name in stream_names(config)]

    def ablation_along(self, other: SteeringVector, model: Transformer, tokens: Int[Tensor, "batch pos"]) -> list[Edit]:
        """Return the edits that move the stream along another direction by as much as `ablation` moves it along this one.

        How much that is, at each state and position, is read from a run of these tokens under the ablation. A random direction taken
        away itself would be no null: there is far less of it in the stream.
        """
        amounts: dict[str, Float[Tensor, "batch pos"]] = {}
        along = self.direction

        def take_away(x: Tensor, name: str) -> Tensor:
            amounts[name] = x @ along
            return x - amounts[name][..., None] * along

        with torch.no_grad():
            without_dropout(model)(tokens, hooks=Hooks(dict.fromkeys(stream_names(model.config), take_away)))
        return [edits.add(name, -by[..., None] * other.direction) for name, by in amounts.items()]

    def random(self, *, seed: int) -> Self:
        """Return a vector of the same length in a random direction, drawn with `seed`, to hold beside it."""
        drawn = torch.randn(self.vector.shape, generator=seeded_generator(seed), dtype=torch.float64)
        lengths = self.vector.double().norm(dim=-1, keepdim=True).cpu()
        vector = (drawn / drawn.norm(dim=-1, keepdim=True) * lengths).to(self.vector)
        return replace(self, vector=vector, made=f"a random direction of that length (seed {seed})")

    def check(self, model: Transformer) -> None:
        """Raise ValueError for a model that it was not made for."""
        if (found := model_sha256(model)) != self.model_sha256:
            named = self.model or "its name is not known"
            raise ValueError(
                f"the steering vector was made for another model ({named}, sha256 {self.model_sha256[:12]}) than this (sha256 "
                f"{found[:12]}): take that model, or make a vector for this one"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return it as values that JSON can hold, the vector bit for bit."""
        about = {"format": _FORMAT, "name": self.name, "made": self.made, "model_sha256": self.model_sha256}
        about |= {"model": self.model} if self.model else {}
        return about | {"vector": to_json(self.vector)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Return the vector that `to_dict` wrote; raises ValueError for what is none."""
        try:
            if values["format"] != _FORMAT:
                raise ValueError(f"its format is {values['format']!r}, expected {_FORMAT!r}")
            vector = values["vector"] if isinstance(values["vector"], Tensor) else from_json(values["vector"])
            if vector.ndim not in (1, 2) or not bool(torch.isfinite(vector).all()):
                raise ValueError(f"its vector has the shape {list(vector.shape)}, or numbers that are not finite")
            return cls(str(values["name"]), vector, str(values["made"]), str(values["model_sha256"]), str(values.get("model", "")))
        except (KeyError, TypeError) as error:
            raise ValueError(f"it lacks {error}") from None

    def save(self, path: Path | str) -> Path:
        """Write it to a file that ends in .json or .safetensors, and return where; raises ValueError for another ending."""
        path = checked_ending(path)
        if path.suffix == ".json":
            atomic_write(path, json.dumps(self.to_dict(), indent=2))
            return path
        about = {name: value for name, value in self.to_dict().items() if name != "vector"}
        atomic_write(path, save_bytes({"vector": self.vector.detach().cpu().contiguous()}, metadata=about))
        return path

    @classmethod
    def load(cls, path: Path | str, model: Transformer) -> Self:
        """Read a vector that was saved; raises ValueError for what is none, is damaged, or was made for another model."""
        found = cls.read(path)
        found.check(model)
        check_names(model.config, [found.name])
        return replace(found, vector=found.vector.to(model.embed.W_E.device))

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Read a vector for whatever model it was made; raises ValueError for what is none or is damaged."""
        path = checked_ending(path)
        if not path.is_file():
            raise ValueError(f"there is no file {path}: give one that SteeringVector.save wrote")
        try:
            return cls.from_dict(_read(path))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} holds no steering vector: {said_of_json(error)}") from None


def stream_names(config: ModelConfig) -> list[str]:
    """Return the states of the residual stream, from what enters the first layer to what leaves the last."""
    last = f"blocks.{config.n_layers - 1}.resid_post"
    return [name for name in hook_names(config) if name.endswith((".resid_pre", ".resid_mid")) or name == last]


def checked_ending(path: Path | str) -> Path:
    """Return the path of a vector; raises ValueError for one that does not say how it is written."""
    path = Path(path)
    if path.suffix not in _ENDINGS:
        raise ValueError(f"{path} does not say how the vector is written: give a name that ends in {' or '.join(_ENDINGS)}")
    return path


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".json":
        values: dict[str, Any] = {**json.loads(path.read_text(encoding="utf-8"))}
        return values
    try:
        with safe_open(path, framework="pt") as file:
            return {**(file.metadata() or {}), "vector": file.get_tensor("vector")}
    except SafetensorError:
        raise ValueError("it is no safetensors file with a tensor called vector, or is cut short") from None
