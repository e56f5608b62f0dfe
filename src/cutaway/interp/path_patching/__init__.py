"""Path patching: what one part's output does through one input of another part alone."""

from cutaway.interp.nodes import Node, NodeSet
from cutaway.interp.path_patching.experiment import path_patch
from cutaway.interp.path_patching.patching import patch_paths
from cutaway.interp.path_patching.reach import MLPs
from cutaway.interp.path_patching.result import PathEffect, PathPatching

__all__ = ["path_patch", "patch_paths", "PathPatching", "PathEffect", "Node", "NodeSet", "MLPs"]
