"""How fast things run and what they hold, and what the machine could do at most."""

from cutaway.measure.decoding import bytes_a_token, bytes_of_weights, next_token, reading_weights
from cutaway.measure.machine import Limits, measure_limits
from cutaway.measure.memory import peak_bytes
from cutaway.measure.products import matrix_products, matrix_shapes
from cutaway.measure.timing import medians_in_turn, seconds, seconds_in_turn, timed

__all__ = [
    "Limits",
    "measure_limits",
    "timed",
    "medians_in_turn",
    "seconds",
    "seconds_in_turn",
    "peak_bytes",
    "next_token",
    "reading_weights",
    "bytes_of_weights",
    "bytes_a_token",
    "matrix_products",
    "matrix_shapes",
]
