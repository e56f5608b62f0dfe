"""The residual stream: what it is made of, what its parts say of the answer, and how it grows by layer."""

from cutaway.interp.prompts import Target
from cutaway.interp.residual.attribution import DirectAttribution, attribute
from cutaway.interp.residual.contributions import Part
from cutaway.interp.residual.decomposition import Mode, accumulated_resid, decompose_resid
from cutaway.interp.residual.norms import Reader, Scale, apply_ln
from cutaway.interp.residual.projections import (
    Projections,
    head_projections,
    logit_bias,
    logit_directions,
    neuron_projections,
    project,
    source_projections,
)
from cutaway.interp.residual.stack import Stack, StackKind
from cutaway.interp.residual.stream import ResidualStream, stream

__all__ = [
    "Stack",
    "StackKind",
    "Mode",
    "accumulated_resid",
    "decompose_resid",
    "Scale",
    "Reader",
    "apply_ln",
    "Projections",
    "project",
    "head_projections",
    "neuron_projections",
    "source_projections",
    "logit_directions",
    "logit_bias",
    "Part",
    "Target",
    "DirectAttribution",
    "attribute",
    "ResidualStream",
    "stream",
]
