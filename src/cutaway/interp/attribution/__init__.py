"""Attribution patching: what every patch would do, estimated from gradients, with the best of them tried exactly."""

from cutaway.interp.attribution.estimates import Completeness
from cutaway.interp.attribution.experiment import attribution_patch
from cutaway.interp.attribution.nodes import Node, NodeKind
from cutaway.interp.attribution.patching import Along, attribute_patches
from cutaway.interp.attribution.result import Agreement, Attribution, NodeEffect
from cutaway.interp.ranks import rank_correlation

__all__ = [
    "attribution_patch",
    "attribute_patches",
    "Attribution",
    "Along",
    "Agreement",
    "Completeness",
    "NodeEffect",
    "Node",
    "NodeKind",
    "rank_correlation",
]
