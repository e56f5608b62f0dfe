"""Circuits: which edges of the computation carry a behaviour."""

from cutaway.interp.circuits.graph import Edge, Graph
from cutaway.interp.circuits.result import EdgeMethod, EdgeScore, EdgeScores
from cutaway.interp.circuits.scoring import score_edges

__all__ = ["Graph", "Edge", "score_edges", "EdgeScores", "EdgeScore", "EdgeMethod"]
