"""The frame that experiments stand in: seeds, training, checks beside their nulls, figures, pages."""

from cutaway.experiments.frame.check import Check
from cutaway.experiments.frame.experiment import Experiment, Outcome, Scale
from cutaway.experiments.frame.learning import Curves, Recipe, learn
from cutaway.experiments.frame.reproducing import check_memory, parse_seeds, reproduce
from cutaway.experiments.frame.reproduction import Reproduction
from cutaway.experiments.frame.saved import Finished
from cutaway.experiments.frame.shipping import ShippedCheck, ship, verify_shipped
from cutaway.experiments.frame.trial import Trial

__all__ = [
    "Check", "Curves", "Experiment", "Finished", "Outcome", "Recipe", "Reproduction", "Scale", "Trial", "check_memory", "learn",
    "parse_seeds", "reproduce", "ship", "verify_shipped", "ShippedCheck",
]  # fmt: skip
