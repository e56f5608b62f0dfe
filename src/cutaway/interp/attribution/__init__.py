"""Attribution patching: what every patch would do, estimated from gradients, with the best of them tried exactly."""

from cutaway.interp.attribution.estimates import Completeness
from cutaway.interp.attribution.experiment import attribution_patch
from cutaway.interp.attribution.nodes import ActivationNode, NodeKind
from cutaway.interp.attribution.patching import Along, attribute_patches
from cutaway.interp.attribution.result import Agreement, AttributionPatching, NodeEffect
from cutaway.interp.ranks import rank_correlation

__all__ = [
    "attribution_patch",
    "attribute_patches",
    "AttributionPatching",
    "Along",
    "Agreement",
    "Completeness",
    "NodeEffect",
    "ActivationNode",
    "NodeKind",
    "rank_correlation",
]
