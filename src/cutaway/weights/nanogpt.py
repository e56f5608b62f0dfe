"""nanoGPT's checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.model import Transformer
from cutaway.weights.families import FAMILIES
from cutaway.weights.foreign import check_floats, check_state_dictionary, describe_tensors, read_checkpoint
from cutaway.weights.renaming import from_theirs, to_theirs
from cutaway.weights.source import ModelSource, StoredTensor, located

__all__ = ["NanoGPTCheckpoint", "nanogpt_tensors"]

# GPT-2's names, with matrices of Linears where OpenAI's are of Conv1Ds
_NANOGPT = replace(FAMILIES["gpt2"], rows=tuple(row._replace(is_conv1d=False) for row in FAMILIES["gpt2"].rows))


class NanoGPTCheckpoint(ModelSource):
    """nanoGPT's `ckpt.pt`, whose shape is its `model_args`; which tokenizer it was trained with the file does not say.

    The activation is the exact gelu, nanoGPT's since July 2023; older checkpoints do not tell that theirs was the tanh form. Raises
    ValueError for what is no such checkpoint. Source: karpathy/nanoGPT, `model.py` and `train.py`.
    """

    kind: ClassVar[str] = "nanoGPT checkpoint"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        content = read_checkpoint(self.path)
        if not all(isinstance(content.get(key), Mapping) for key in ("model", "model_args")):
            raise ValueError(f"{path} is no nanoGPT checkpoint: it lacks 'model' and 'model_args'")
        self._about = {key: content.get(key) for key in ("iter_num", "best_val_loss")}
        # torch.compile puts its own module around the model
        self._tensors = {str(name).removeprefix("_orig_mod."): tensor for name, tensor in content["model"].items()}
        check_state_dictionary(self.path, self._tensors)
        self.config = _nanogpt_config(self.path, content["model_args"], is_tied=_is_tied(self._tensors))
        with located(self.path):
            self._rows = _NANOGPT.match({name: tuple(tensor.shape) for name, tensor in self._tensors.items()}, self.config)
        for name in self._rows:
            check_floats(self.path, name, self._tensors[name])

    def stored(self) -> dict[str, StoredTensor]:
        """Return every tensor by its name in the file; their data are not read."""
        return describe_tensors(self._tensors)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield cutaway's names and tensors, each a copy that does not depend on the file any more."""
        return from_theirs(self._rows, ((name, tensor.detach()) for name, tensor in self._tensors.items()))

    def details(self) -> dict[str, str]:
        """Return how long it was trained, and its best validation loss."""
        steps, loss = self._about["iter_num"], self._about["best_val_loss"]
        loss = loss.item() if isinstance(loss, Tensor) and loss.numel() == 1 else loss
        details = {"steps trained": f"{steps:,}"} if isinstance(steps, int) else {}
        return details | ({"best validation loss": f"{loss:.4f}"} if isinstance(loss, float) else {})


def _nanogpt_config(path: Path, values: Mapping[str, Any], *, is_tied: bool) -> ModelConfig:
    required = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
    if missing := [name for name in required if name not in values]:
        raise ValueError(f"{path}: its model_args lack {', '.join(missing)}")
    bias = values.get("bias", True)
    if not isinstance(bias, bool):
        raise ValueError(f"{path}: bias in its model_args is {bias!r}; expected True or False")  # noqa: TRY004
    try:
        return ModelConfig(
            d_vocab=values["vocab_size"],
            n_ctx=values["block_size"],
            n_layers=values["n_layer"],
            n_heads=values["n_head"],
            d_model=values["n_embd"],
            norm_bias=bias,
            attn_bias=bias,
            mlp_bias=bias,
            act="gelu",
            tie_embeddings=is_tied,
            dropout=values.get("dropout", 0.0),
        )
    except (ValueError, TypeError) as error:  # TypeError: values that do not compare with numbers
        raise ValueError(f"{path}: its model_args fit no model: {error}") from None


def _is_tied(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the unembedding is the embedding, as nanoGPT has it: by its place in the file, and only else by its numbers."""
    embedding, unembedding = tensors.get("transformer.wte.weight"), tensors.get("lm_head.weight")
    if embedding is None or unembedding is None:
        return True
    is_same = embedding.data_ptr() == unembedding.data_ptr() and embedding.shape == unembedding.shape
    return is_same or torch.equal(embedding, unembedding)


def nanogpt_tensors(model: Transformer) -> dict[str, Tensor]:
    """Return the weights of a model of nanoGPT's shape by its names; the tied unembedding is left out."""
    weights = ((name, weight.detach()) for name, weight in model.named_parameters())
    return dict(to_theirs(_NANOGPT.rows_of(model.config), weights))
