"""How fast things run, beside what the machine could do at most."""

from cutaway.measure.decoding import DecodeRate, bytes_a_token, bytes_of_weights, decode_rates, next_token, reading_weights
from cutaway.measure.forward import forward_seconds, matrix_products, matrix_shapes
from cutaway.measure.machine import Limits, measure_limits
from cutaway.measure.timing import seconds, seconds_in_turn

__all__ = [
    "Limits",
    "measure_limits",
    "seconds",
    "seconds_in_turn",
    "DecodeRate",
    "decode_rates",
    "next_token",
    "reading_weights",
    "bytes_of_weights",
    "bytes_a_token",
    "matrix_products",
    "matrix_shapes",
    "forward_seconds",
]
