"""What can be read from an activation, how much that is worth, and whether it causes what it reads."""

from cutaway.interp.probing.activations import Labels, Place
from cutaway.interp.probing.causation import Causation, Choice, Intervention
from cutaway.interp.probing.causing import cause, cause_held_out
from cutaway.interp.probing.choosing import choose_and_cause
from cutaway.interp.probing.kinds import MLP, Kind, KindName, Logistic, MeanDifference, Ridge, fit, kind_of
from cutaway.interp.probing.labelled_file import LabelledFile, read_labelled
from cutaway.interp.probing.path import RegularizationPath, regularization_path, text_path
from cutaway.interp.probing.probes import LinearProbe, MLPProbe, Probe
from cutaway.interp.probing.result import PlacedScore, ProbeScores
from cutaway.interp.probing.scores import probe, probe_cache, probe_rows
from cutaway.interp.probing.task import Label, Task, text_folds
from cutaway.interp.probing.validation import Null, Score, Validation, cross_validate, validate

__all__ = [
    "probe",
    "probe_cache",
    "probe_rows",
    "ProbeScores",
    "PlacedScore",
    "Place",
    "Label",
    "Labels",
    "Probe",
    "LinearProbe",
    "MLPProbe",
    "fit",
    "Kind",
    "KindName",
    "kind_of",
    "Logistic",
    "Ridge",
    "MeanDifference",
    "MLP",
    "Task",
    "text_folds",
    "cross_validate",
    "validate",
    "Validation",
    "Score",
    "Null",
    "read_labelled",
    "LabelledFile",
    "regularization_path",
    "text_path",
    "RegularizationPath",
    "cause",
    "cause_held_out",
    "choose_and_cause",
    "Choice",
    "Causation",
    "Intervention",
]
