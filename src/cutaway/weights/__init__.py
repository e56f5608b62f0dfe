"""Weights on disk."""

from cutaway.weights.folder import check_tensors, load_model, read_config, read_tensors, save_model, save_tensors

__all__ = ["save_model", "load_model", "save_tensors", "read_config", "read_tensors", "check_tensors"]
