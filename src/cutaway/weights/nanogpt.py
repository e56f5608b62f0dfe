"""nanoGPT's checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.weights.foreign import ForeignState, Place, check_tensors, place, read_checkpoint

__all__ = ["NanoGPTCheckpoint"]

_PLACES: dict[str, Place] = {
    "transformer.wte.weight": place("d_vocab d_model", "embed.W_E"),
    "transformer.wpe.weight": place("n_ctx d_model", "embed.pos_embed.W_pos"),
    "transformer.h.*.ln_1.weight": place("d_model", "blocks.*.ln1.weight"),
    "transformer.h.*.ln_1.bias": place("d_model", "blocks.*.ln1.bias"),
    "transformer.h.*.attn.c_attn.weight": place("d_qkv d_model", *(f"blocks.*.attn.W_{part}.weight" for part in "QKV")),
    "transformer.h.*.attn.c_attn.bias": place("d_qkv", *(f"blocks.*.attn.W_{part}.bias" for part in "QKV")),
    "transformer.h.*.attn.c_proj.weight": place("d_model d_heads", "blocks.*.attn.W_O.weight"),
    "transformer.h.*.attn.c_proj.bias": place("d_model", "blocks.*.attn.W_O.bias"),
    "transformer.h.*.ln_2.weight": place("d_model", "blocks.*.ln2.weight"),
    "transformer.h.*.ln_2.bias": place("d_model", "blocks.*.ln2.bias"),
    "transformer.h.*.mlp.c_fc.weight": place("d_mlp d_model", "blocks.*.mlp.W_in.weight"),
    "transformer.h.*.mlp.c_fc.bias": place("d_mlp", "blocks.*.mlp.W_in.bias"),
    "transformer.h.*.mlp.c_proj.weight": place("d_model d_mlp", "blocks.*.mlp.W_out.weight"),
    "transformer.h.*.mlp.c_proj.bias": place("d_model", "blocks.*.mlp.W_out.bias"),
    "transformer.ln_f.weight": place("d_model", "unembed.ln_final.weight"),
    "transformer.ln_f.bias": place("d_model", "unembed.ln_final.bias"),
    "lm_head.weight": place("d_vocab d_model", "unembed.W_U.weight"),
}


class NanoGPTCheckpoint(ForeignState):
    """nanoGPT's `ckpt.pt`, whose shape is its `model_args`; which tokenizer it was trained with the file does not say.

    The activation is the exact gelu, nanoGPT's since July 2023; older checkpoints do not tell that theirs was the tanh form. Raises
    ValueError for what is no such checkpoint. Source: karpathy/nanoGPT, `model.py` and `train.py`.
    """

    kind: ClassVar[str] = "nanoGPT checkpoint"
    _layers_in = "transformer.h"

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        content = read_checkpoint(path)
        if not all(isinstance(content.get(key), Mapping) for key in ("model", "model_args")):
            raise ValueError(f"{path} is no nanoGPT checkpoint: it lacks 'model' and 'model_args'")
        self._about = {key: content.get(key) for key in ("iter_num", "best_val_loss")}
        # torch.compile puts its own module around the model
        tensors = {str(name).removeprefix("_orig_mod."): tensor for name, tensor in content["model"].items()}
        check_tensors(path, tensors)
        config = _nanogpt_config(path, content["model_args"], is_tied=_is_tied(tensors))
        super().__init__(path, config, tensors, _PLACES)

    def details(self) -> dict[str, str]:
        """Return how long it was trained, and its best validation loss."""
        steps, loss = self._about["iter_num"], self._about["best_val_loss"]
        loss = loss.item() if isinstance(loss, Tensor) and loss.numel() == 1 else loss
        details = {"steps trained": f"{steps:,}"} if isinstance(steps, int) else {}
        return details | ({"best validation loss": f"{loss:.4f}"} if isinstance(loss, float) else {})

    def _may_be_left_out(self, name: str) -> bool:
        is_mask = name.endswith(".attn.bias")  # kept by models that ran without fused attention
        return is_mask or (name == "lm_head.weight" and self.config.tie_embeddings)


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
