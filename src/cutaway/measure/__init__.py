"""How fast things run, beside what the machine could do at most."""

from cutaway.measure.decoding import DecodeRate, bytes_a_token, decode_rates, next_token
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
    "bytes_a_token",
    "matrix_products",
    "matrix_shapes",
    "forward_seconds",
]
