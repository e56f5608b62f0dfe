"""Circuits: which edges of the computation carry a behaviour."""

from cutaway.interp.circuits.graph import Edge, Graph

__all__ = ["Graph", "Edge"]
