"""Models on disk, in every format that is read, and how they become a Transformer."""

from cutaway.weights.folder import load_model, read_config, save_config, save_model, save_tensors, stream_tensors
from cutaway.weights.hugging_face import HuggingFaceFolder, save_hugging_face
from cutaway.weights.identity import model_sha256
from cutaway.weights.opening import open_model, resolve
from cutaway.weights.source import ModelSource, StoredTensor, assemble, matching, parameter_shapes, read_model

__all__ = [
    "ModelSource",
    "StoredTensor",
    "open_model",
    "resolve",
    "read_model",
    "assemble",
    "parameter_shapes",
    "HuggingFaceFolder",
    "save_hugging_face",
    "save_config",
    "save_model",
    "load_model",
    "save_tensors",
    "read_config",
    "stream_tensors",
    "matching",
    "model_sha256",
]
