"""What an MLP, or each part of one that is taken apart into features, writes in one run less what it writes in another."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from cutaway.interp.feature_nodes import FeatureNodes
from cutaway.interp.nodes import Node
from cutaway.interp.two_runs import TwoRuns

__all__ = ["moved_latents", "change_of_mlp"]


def moved_latents(runs: TwoRuns, features: FeatureNodes) -> Float[Tensor, "batch pos feature"]:
    """Return by how much the other run's latents differ; 0 where what their encoder reads does not."""
    own = features.latents_of(runs.cache[features.reads])
    if features.layer in runs.other_latents:
        return runs.other_latents[features.layer].to(own) - own
    return features.latents_of(runs.incoming(features.reads)) - own


def change_of_mlp(runs: TwoRuns, features: FeatureNodes | None, node: Node) -> Float[Tensor, "batch pos d_model"]:
    """Return by how much what an MLP writes differs in the other run, where it is taken apart the rest's or one feature's."""
    if features is None:
        return runs.moved(f"blocks.{node.layer}.mlp_out")
    latents = moved_latents(runs, features)
    if node.kind == "mlp":
        whole = runs.moved(f"blocks.{node.layer}.mlp_out")
        return whole - features.written(latents).to(whole)
    at = features.features.index(node.index or 0)
    change: Tensor = latents[..., at, None] * features.directions[at].to(latents)
    return change.to(runs.model.embed.W_E.dtype)
