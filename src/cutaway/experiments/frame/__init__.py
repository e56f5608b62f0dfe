"""The frame that experiments stand in: seeds, training, checks beside their nulls, figures, pages."""

from cutaway.experiments.frame.check import Check
from cutaway.experiments.frame.experiment import Experiment, Outcome, Scale
from cutaway.experiments.frame.learning import Curves, Progress, Recipe, learn
from cutaway.experiments.frame.reproducing import check_folder, check_memory, finished_seeds, parse_seeds, reproduce
from cutaway.experiments.frame.reproduction import Reproduction
from cutaway.experiments.frame.saved import Finished
from cutaway.experiments.frame.shipping import ShippedCheck, ship, verify_shipped
from cutaway.experiments.frame.sources import sources_sha256
from cutaway.experiments.frame.trial import Training, Trial

__all__ = [
    "Check", "Curves", "Experiment", "Finished", "Outcome", "Progress", "Recipe", "Reproduction", "Scale", "ShippedCheck", "Training",
    "Trial",
    "check_folder", "check_memory", "finished_seeds", "learn", "parse_seeds", "reproduce", "ship", "sources_sha256", "verify_shipped",
]  # fmt: skip
