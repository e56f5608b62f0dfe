"""Training: a configuration in, a run directory out."""

from cutaway.training.config import TRAIN_PRESETS, TrainConfig, expected_loss
from cutaway.training.observers import OBSERVERS, Observer
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
    "OBSERVERS",
    "TrainingError",
]
