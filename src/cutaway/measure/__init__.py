"""How fast things run, beside what the machine could do at most."""

from cutaway.measure.machine import Limits, measure_limits
from cutaway.measure.timing import seconds, seconds_in_turn

__all__ = ["Limits", "measure_limits", "seconds", "seconds_in_turn"]
