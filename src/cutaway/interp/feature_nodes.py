"""Features of a dictionary as nodes: what each reads of the residual stream, and what it writes to it.

    mlp_out = sum over the chosen features of latent * direction, and the rest

A dictionary of an MLP's output reads the stream through that MLP, a transcoder as the MLP does. The rest is the MLP's own output less
what the chosen features write: other features, biases and the error are in it, so that together they are the MLP, whatever the
dictionary.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.hooks import Hook, Hooks
from cutaway.interp.nodes import Node
from cutaway.interp.sae import Dictionary, check_fits, dictionary_sha256, load_dictionary
from cutaway.interp.sites import site_of
from cutaway.model import Block, Transformer

__all__ = ["FeatureNodes", "by_layer", "check_known"]


@dataclass(frozen=True)
class FeatureNodes:
    """Some features of a dictionary of one MLP, which are nodes of their own beside the rest of that MLP.

    A value that is saved and compared without the dictionary itself: that is held to its hash when it is needed.
    """

    layer: int
    features: tuple[int, ...]
    """In rising order."""
    sha256: str
    """Of the dictionary, as `sae.dictionary_sha256` gives it."""
    path: str = field(default="", compare=False)
    """The folder that it is saved in, where it is."""
    opened: Dictionary | None = field(default=None, compare=False, repr=False)
    """The dictionary, once it is there."""

    @classmethod
    def of(cls, dictionary: Dictionary, features: Sequence[int], *, path: Path | str = "") -> FeatureNodes:
        """Return these features of a dictionary as nodes.

        Raises ValueError for a dictionary that predicts no MLP's output, and for features that are not there or none at all.
        """
        config = dictionary.config
        site = site_of(config.target or config.name)
        if site.part != "mlp_out" or site.layer is None or config.n_models > 1:
            raise ValueError(
                f"features are nodes where a dictionary predicts an MLP's output, blocks.LAYER.mlp_out, and this one is of "
                f"{dictionary.extra_repr()}: give one of mlp_out, or a transcoder to it"
            )
        chosen = sorted(set(features))
        if wrong := [each for each in chosen if not 0 <= each < config.d_sae]:
            raise ValueError(f"there is no feature {wrong[0]}; there are {config.d_sae}, 0 to {config.d_sae - 1}")
        if not chosen:
            raise ValueError("no feature is named: give one at least, as sae.feature_effects ranks them")
        return cls(site.layer, tuple(chosen), dictionary_sha256(dictionary), str(path), dictionary)

    @classmethod
    def named(cls, dictionary: Dictionary, names: Sequence[str], *, path: Path | str = "") -> FeatureNodes:
        """Return those features of a dictionary that names of nodes say, as `mlp3.f12`; raises ValueError for none, and as `of`."""
        layer = cls.of(dictionary, [0]).layer
        found = [int(each) for name in names for each in re.findall(rf"\bmlp{layer}\.f(\d+)", name)]
        if not found:
            raise ValueError(
                f"the dictionary is of mlp{layer}, and none of its features is named: name some, such as mlp{layer}.f12, or leave it "
                "out"
            )
        return cls.of(dictionary, found, path=path)

    def __str__(self) -> str:
        return f"{len(self.features)} feature{'s' * (len(self.features) > 1)} of mlp{self.layer}"

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The features as nodes."""
        return tuple(Node("feature", self.layer, feature) for feature in self.features)

    @property
    def dictionary(self) -> Dictionary:
        """The dictionary; raises ValueError where it is not there, as in what was read from a file until it is `open`."""
        if self.opened is None:
            raise ValueError(f"the dictionary of {self} is not loaded: open it for a model first")
        return self.opened

    @property
    def reads(self) -> str:
        """The activation that the encoder reads."""
        return self.dictionary.config.name

    @property
    def directions(self) -> Float[Tensor, "feature d_model"]:
        """What each writes for a latent of 1."""
        return self.dictionary.W_dec.detach()[list(self.features)]

    def given(self, dictionary: Dictionary) -> FeatureNodes:
        """Return the same with its dictionary; raises ValueError for another."""
        if (found := dictionary_sha256(dictionary)) != self.sha256:
            raise ValueError(
                f"{self} are of another dictionary (sha256 {self.sha256[:12]}) than the one given (sha256 {found[:12]}): give the one "
                "that they were found with"
            )
        return replace(self, opened=dictionary)

    def open(self, model: Transformer, *, force: bool = False) -> FeatureNodes:
        """Return the same with its dictionary loaded, held to its hash, and made ready for the model: in its dtype or float32.

        Raises ValueError for a dictionary that is not where it was, is another, or does not fit the model; `force` lets one through
        that was trained on a model of the same shape with other weights.
        """
        dictionary = self.opened
        if dictionary is None:
            if not self.path:
                raise ValueError(f"the dictionary of {self} was not saved: give it, as `with_dictionaries` of a circuit takes it")
            if not Path(self.path).is_dir():
                raise ValueError(
                    f"the dictionary of {self} is not in {self.path} any more: put it there, or give it: --features FOLDER, or "
                    "`with_dictionaries` of a circuit"
                )
            dictionary = self.given(load_dictionary(self.path)).dictionary
        self._check(dictionary, model, dictionary.config.model_sha256 if force else None)
        like = model.embed.W_E
        dtype = torch.promote_types(like.dtype, torch.float32)
        if (dictionary.W_enc.dtype, dictionary.W_enc.device) != (dtype, like.device):
            dictionary = copy.deepcopy(dictionary).to(device=like.device, dtype=dtype)
        return replace(self, opened=dictionary)

    def latents(
        self,
        block: Block,
        stream: Float[Tensor, "*batch d_model"],
        features: Sequence[int] | None = None,
        *,
        scale: Float[Tensor, "*#batch 1"] | None = None,
        output: Float[Tensor, "*batch d_model"] | None = None,
    ) -> Float[Tensor, "*batch feature"]:
        """Return the latents as they read a residual stream, of all or of some of the features.

        `scale` is its norm's where that is held; `output` is the MLP's own for that stream where it is at hand, which spares it.
        """
        return self.latents_of(self._read(block, stream, scale, output), features)

    def latents_of(
        self, read: Float[Tensor, "*batch d_in"], features: Sequence[int] | None = None
    ) -> Float[Tensor, "*batch feature"]:
        """Return the latents of what the encoder reads."""
        dictionary = self.dictionary
        latents = dictionary.encode_some(read.to(dictionary.W_enc.dtype), self.features if features is None else features)
        return latents.to(torch.promote_types(read.dtype, torch.float32))

    def written(self, latents: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch d_model"]:
        """Return what all these features together write."""
        return latents @ self.directions.to(latents)

    def to_dict(self) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        return {"layer": self.layer, "features": list(self.features), "sha256": self.sha256, "path": self.path}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FeatureNodes:
        """Return what `to_dict` wrote, its dictionary not yet loaded."""
        features = tuple(map(int, values["features"]))
        return cls(int(values["layer"]), features, str(values["sha256"]), str(values["path"]))

    def _read(self, block: Block, stream: Tensor, scale: Tensor | None, output: Tensor | None) -> Tensor:
        """Return what the encoder reads where the residual stream is this."""
        part = site_of(self.reads).part
        if part.startswith("resid"):
            return stream
        if part == "mlp_out" and output is not None:
            return output
        norm = block.ln1 if block.ln2 is None else block.ln2
        seen: dict[str, Tensor] = {}
        functions: dict[str, Hook] = {"normalized": lambda x, name: seen.update({name: x})} if part != "mlp_out" else {}
        if scale is not None:
            functions["scale"] = lambda x, _name: scale.expand_as(x)
        normed = norm(stream, hooks=Hooks(functions))
        return block.mlp(normed) if part == "mlp_out" else seen["normalized"]  # type: ignore[misc]

    def _check(self, dictionary: Dictionary, model: Transformer, model_sha256: str | None) -> None:
        config = dictionary.config
        check_fits(dictionary, model, model_sha256=model_sha256)
        if dictionary.training and config.kind == "batchtopk":
            raise ValueError("the dictionary is in training mode, where prompts change each other: call its eval()")
        if config.is_transcoder:
            norm, stream = ("ln1", "resid_pre") if model.config.block == "parallel" else ("ln2", "resid_mid")
            if config.name not in (names := [f"blocks.{self.layer}.{part}" for part in (f"{norm}.normalized", stream)]):
                raise ValueError(
                    f"the transcoder of layer {self.layer} reads {config.name}, and its features are to read what the MLP reads: give "
                    f"one of {' or '.join(names)}"
                )


def by_layer(features: Sequence[FeatureNodes]) -> dict[int, FeatureNodes]:
    """Return features by their layer, in order; raises ValueError for two dictionaries of one MLP."""
    found: dict[int, FeatureNodes] = {}
    for each in sorted(features, key=lambda each: each.layer):
        if each.layer in found:
            raise ValueError(f"two dictionaries are for mlp{each.layer}, which is taken apart once: give one of them")
        found[each.layer] = each
    return found


def check_known(nodes: Sequence[Node], features: Mapping[int, FeatureNodes]) -> None:
    """Raise ValueError for a feature whose dictionary is not given or that is not among its features."""
    for node in nodes:
        if node.kind == "feature" and not (node.layer in features and node.index in features[node.layer].features):
            raise ValueError(
                f"{node} is a feature, and no dictionary of mlp{node.layer} was given with it: give features, as "
                f"FeatureNodes.of(dictionary, [{node.index}]) makes them"
            )
