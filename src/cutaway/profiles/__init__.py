"""This package beside other programs, each work beside what the machine allows at most; and how cost grows."""

from collections.abc import Callable

from cutaway.profiles.bench import Bench, Request
from cutaway.profiles.comparison import Comparison
from cutaway.profiles.decode import compare_decoding
from cutaway.profiles.drawing import growth_figure, profile_figure, rate_in_words, time_in_words
from cutaway.profiles.forward import compare_forward
from cutaway.profiles.growth import LENGTHS, Growth, measure_growth
from cutaway.profiles.peers import Peers, open_peers
from cutaway.profiles.record import processor, record_of
from cutaway.profiles.sweep import compare_sweep, compare_sweeps
from cutaway.profiles.train import compare_training

WORKS: dict[str, Callable[[Bench, Request], list[Comparison]]] = {
    "train": compare_training,
    "forward": compare_forward,
    "decode": compare_decoding,
    "sweep": compare_sweeps,
}
"""What is compared, by the name that `cutaway bench` gives it."""

__all__ = [
    "WORKS",
    "Bench",
    "Request",
    "Comparison",
    "Peers",
    "open_peers",
    "compare_training",
    "compare_forward",
    "compare_decoding",
    "compare_sweeps",
    "compare_sweep",
    "LENGTHS",
    "Growth",
    "measure_growth",
    "profile_figure",
    "growth_figure",
    "time_in_words",
    "rate_in_words",
    "record_of",
    "processor",
]
