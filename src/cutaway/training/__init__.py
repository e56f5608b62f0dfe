"""Training: a configuration in, a run directory out."""

from cutaway.training.config import TRAIN_PRESETS, TrainConfig, expected_loss
from cutaway.training.observers import WEIGHTS, Observer, Watchable
from cutaway.training.run import resume, train
from cutaway.training.trainer import TrainingError, validation_loss

__all__ = [
    "TrainConfig",
    "TRAIN_PRESETS",
    "expected_loss",
    "train",
    "resume",
    "validation_loss",
    "Observer",
    "Watchable",
    "WEIGHTS",
    "TrainingError",
]
