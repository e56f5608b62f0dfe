"""Which head feeds which: composition read from the weights, and the induction circuits that it makes candidates of."""

from cutaway.interp.composition.candidates import CandidateCircuit, CandidateCircuits, candidate_circuits
from cutaway.interp.composition.scores import ComposedPair, Composition, CompositionScores, composition_scores

__all__ = [
    "composition_scores",
    "CompositionScores",
    "ComposedPair",
    "Composition",
    "candidate_circuits",
    "CandidateCircuits",
    "CandidateCircuit",
]
