"""Lenses: what each layer of a model would say next, read by its own unembedding, or through a translator trained for the layer."""

from cutaway.interp.lens.logit import logit_lens
from cutaway.interp.lens.reading import LensReading, LensScores, lens_scores
from cutaway.interp.lens.states import LensNorm, mean_kl, state_names
from cutaway.interp.lens.training import LensRecipe, LensTraining
from cutaway.interp.lens.tuned import TunedLens, TunedLensReading, check_folder, tuned_lens

__all__ = [
    "logit_lens",
    "tuned_lens",
    "TunedLens",
    "LensReading",
    "TunedLensReading",
    "LensTraining",
    "LensRecipe",
    "LensNorm",
    "LensScores",
    "lens_scores",
    "mean_kl",
    "state_names",
    "check_folder",
]
