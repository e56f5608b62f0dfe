"""Sparse dictionaries of activations: autoencoders, transcoders and crosscoders; trained, measured, spliced in, looked at."""

from cutaway.interp.sae.activations import ActivationSource, ModelActivations, SideBySide, SyntheticFeatures, TensorActivations
from cutaway.interp.sae.contexts import ContextOptions, FeatureContexts, feature_density, find_contexts
from cutaway.interp.sae.crosscoder import compare_decoders, compare_models, crosscoder_config, stored_side_by_side
from cutaway.interp.sae.curve import LearningCurve, Point
from cutaway.interp.sae.curves import LearningCurves
from cutaway.interp.sae.dictionary import BatchTopK, Dictionary, JumpReLU, ReLU, TopK, make_dictionary
from cutaway.interp.sae.effects import FeatureEffect, FeatureEffects, feature_edits, feature_effects
from cutaway.interp.sae.evaluation import Evaluation, evaluate
from cutaway.interp.sae.folder import dictionary_folders, load_dictionary, save_dictionary, transformer_lens_name
from cutaway.interp.sae.identity import dictionary_sha256
from cutaway.interp.sae.latent_probes import LatentProbes, probe_latents
from cutaway.interp.sae.logit_effects import logit_effects
from cutaway.interp.sae.model_comparison import ComparedLatent, ModelComparison
from cutaway.interp.sae.pages import AGREES_FROM, FeaturePages, FeatureSummary, describe_features
from cutaway.interp.sae.reconstruction import Reconstruction, measure_reconstruction, pca_fvu, random_features
from cutaway.interp.sae.recovery import best_cosines, random_dictionary
from cutaway.interp.sae.sae_config import SAEConfig
from cutaway.interp.sae.shape import DictionaryConfig, Kind
from cutaway.interp.sae.shuffled import shuffled_model
from cutaway.interp.sae.sparse_probing import SparseProbe, sparse_probes
from cutaway.interp.sae.splicing import FeatureChange, check_fits, edit_feature, splice, splice_transcoder
from cutaway.interp.sae.training import TrainProgress, train, train_together
from cutaway.interp.sae.windows import corpus_data, read_windows
from cutaway.interp.training_data import TrainingData

__all__ = [
    "DictionaryConfig",
    "Kind",
    "Dictionary",
    "ReLU",
    "TopK",
    "BatchTopK",
    "JumpReLU",
    "make_dictionary",
    "SAEConfig",
    "train",
    "train_together",
    "TrainProgress",
    "LearningCurve",
    "LearningCurves",
    "Point",
    "ActivationSource",
    "TensorActivations",
    "ModelActivations",
    "SideBySide",
    "SyntheticFeatures",
    "read_windows",
    "corpus_data",
    "TrainingData",
    "save_dictionary",
    "load_dictionary",
    "dictionary_folders",
    "dictionary_sha256",
    "transformer_lens_name",
    "evaluate",
    "Evaluation",
    "measure_reconstruction",
    "Reconstruction",
    "pca_fvu",
    "random_features",
    "sparse_probes",
    "SparseProbe",
    "probe_latents",
    "LatentProbes",
    "best_cosines",
    "random_dictionary",
    "splice",
    "splice_transcoder",
    "edit_feature",
    "FeatureChange",
    "check_fits",
    "feature_effects",
    "feature_edits",
    "FeatureEffects",
    "FeatureEffect",
    "logit_effects",
    "find_contexts",
    "feature_density",
    "FeatureContexts",
    "ContextOptions",
    "describe_features",
    "FeaturePages",
    "FeatureSummary",
    "AGREES_FROM",
    "crosscoder_config",
    "stored_side_by_side",
    "compare_decoders",
    "compare_models",
    "ModelComparison",
    "ComparedLatent",
    "shuffled_model",
]
