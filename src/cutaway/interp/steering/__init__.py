"""Vectors that steer what a model writes: made, added, taken away, and weighed against what else they do."""

from cutaway.interp.steering.function_result import FunctionVector
from cutaway.interp.steering.function_vectors import function_vector
from cutaway.interp.steering.making import activation_addition, difference_of_means, differences_of_means
from cutaway.interp.steering.scans import StrengthScan, scan_strengths
from cutaway.interp.steering.side_effects import NEUTRAL_TEXTS, Damage, SideEffects, measure_damage, side_effects
from cutaway.interp.steering.steered import SteeredText, Steering, steer
from cutaway.interp.steering.vector import SteeringVector, stream_names

__all__ = [
    "SteeringVector",
    "stream_names",
    "difference_of_means",
    "differences_of_means",
    "activation_addition",
    "function_vector",
    "FunctionVector",
    "steer",
    "Steering",
    "SteeredText",
    "scan_strengths",
    "StrengthScan",
    "side_effects",
    "SideEffects",
    "measure_damage",
    "Damage",
    "NEUTRAL_TEXTS",
]
