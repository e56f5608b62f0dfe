"""Experiments: claims about models that a run can refute, and models built by hand to try methods on."""

from cutaway.experiments.registry import NAMES, experiment, run

__all__ = ["NAMES", "experiment", "run"]
