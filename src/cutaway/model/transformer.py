"""The transformer: tokens to a residual stream, through the blocks, to logits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cutaway.config import ModelConfig
from cutaway.hooks import NO_HOOKS, Hook, Hooks, recording
from cutaway.model.block import Block
from cutaway.model.kv_cache import KVCache
from cutaway.model.masks import Mask, explicit_mask
from cutaway.model.norms import LayerNorm, NoNorm, RMSNorm, make_norm
from cutaway.model.positions import LearnedPositions, Rotary, SinusoidalPositions

__all__ = ["Embedding", "Unembedding", "Transformer"]


class Embedding(nn.Module):
    """`W_E[tokens]`, plus the vectors of their positions where the model adds those here; hooks `embed` and `pos_embed`.

    >>> import torch
    >>> from cutaway.model import Embedding
    >>> Embedding(d_vocab=50, d_model=8)(torch.tensor([[3, 1, 4]])).shape
    torch.Size([1, 3, 8])
    """

    def __init__(
        self,
        d_vocab: int,
        d_model: int,
        *,
        pos_embed: LearnedPositions | SinusoidalPositions | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.W_E = nn.Parameter(torch.randn(d_vocab, d_model).mul_(0.02))  # in place: a product on meta imports the compiler
        self.pos_embed = pos_embed
        self.dropout = dropout

    def forward(
        self,
        tokens: Int[Tensor, "*batch pos"],
        positions: Int[Tensor, "..."] | None = None,
        *,
        hooks: Hooks = NO_HOOKS,
    ) -> Float[Tensor, "*batch pos d_model"]:
        """Start the residual stream; `positions` count from 0 unless they are given. Raises ValueError for ids there are not.

        On a GPU, where looking would mean waiting for it, and in a compiled step nobody looks.
        """
        if tokens.is_cpu and not torch.compiler.is_compiling() and ((tokens < 0) | (tokens >= len(self.W_E))).any():
            raise ValueError(f"ids from {int(tokens.min())} to {int(tokens.max())}; expected 0 to d_vocab - 1, {len(self.W_E) - 1}")
        resid = hooks("embed", F.embedding(tokens, self.W_E))
        if self.pos_embed is not None:
            positions = torch.arange(tokens.shape[-1], device=tokens.device) if positions is None else positions
            resid = resid + hooks("pos_embed", self.pos_embed(positions).to(resid.dtype))
        return F.dropout(resid, self.dropout, self.training)


class Unembedding(nn.Module):
    """`W_U ln_final(resid)`, one logit for every token of the vocabulary; hooks `ln_final.*` and `logits`.

    >>> import torch
    >>> from cutaway.model import Unembedding
    >>> Unembedding(d_model=8, d_vocab=50)(torch.randn(1, 3, 8)).shape
    torch.Size([1, 3, 50])
    """

    def __init__(
        self, d_model: int, d_vocab: int, *, ln_final: LayerNorm | RMSNorm | NoNorm | None = None, bias: bool = False
    ) -> None:
        super().__init__()
        self.ln_final = NoNorm(d_model) if ln_final is None else ln_final
        self.W_U = nn.Linear(d_model, d_vocab, bias=bias)

    def forward(
        self, resid: Float[Tensor, "*batch pos d_model"], *, hooks: Hooks = NO_HOOKS
    ) -> Float[Tensor, "*batch pos d_vocab"]:
        """Read the residual stream; give it fewer positions to get only their logits."""
        return hooks("logits", self.W_U(self.ln_final(resid, hooks=hooks.at("ln_final"))))


class Transformer(nn.Module):
    """A decoder (or with is_causal=False an encoder) of the shape that `config` gives.

    Three parts make a forward pass, and each may be called alone: `embed`, `run_blocks`, `unembed`. The model holds weights,
    and torch's train or eval mode, which decides dropout: no hooks, no caches. Weights are drawn by `init_weights`, from `generator` or
    else torch's global one.

    >>> import torch
    >>> from cutaway import ModelConfig
    >>> from cutaway.model import Transformer
    >>> model = Transformer(ModelConfig(d_vocab=50, n_ctx=16, n_layers=2, n_heads=4, d_model=32))
    >>> model(torch.tensor([[3, 1, 4]])).shape
    torch.Size([1, 3, 50])
    """

    def __init__(self, config: ModelConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        device = torch.get_default_device()
        with torch.device("meta"):  # shapes alone: init_weights draws every weight once
            norm = partial(make_norm, config.norm, config.d_model, eps=config.norm_eps, bias=config.norm_bias)
            positions = _make_positions(config)
            in_stream = None if config.position == "attention_only" else positions
            self.embed = Embedding(config.d_vocab, config.d_model, pos_embed=in_stream, dropout=config.dropout)
            self.qk_positions = positions if config.position == "attention_only" else None
            self.rotary = (
                Rotary(config.d_head, rotary_dim=config.rotary_dim, base=config.rotary_base)
                if config.position == "rotary"
                else None
            )
            self.blocks = nn.ModuleList(_make_block(config) for _ in range(config.n_layers))
            self.unembed = Unembedding(config.d_model, config.d_vocab_out, ln_final=norm(), bias=config.unembed_bias)
        self.to_empty(device=device)
        if config.tie_embeddings:
            self.unembed.W_U.weight = self.embed.W_E
        if device.type != "meta":
            self.init_weights(generator)

    def forward(
        self,
        tokens: Int[Tensor, "*batch pos"],
        *,
        positions: Int[Tensor, "..."] | None = None,
        mask: Bool[Tensor, "*broadcast #q_pos #k_pos"] | None = None,
        kv: KVCache | None = None,
        hooks: Hooks | Mapping[str, Hook] = NO_HOOKS,
    ) -> Float[Tensor, "*batch pos d_vocab"]:
        """Return the logits after every token.

        `positions`, `"pos"` or `"batch pos"`, go on from those in `kv` unless they are given; `mask` takes away keys beyond those that
        causality does. Raises ValueError for more tokens than `n_ctx` and for hooks whose names never came up.
        """
        hooks = (hooks if isinstance(hooks, Hooks) else Hooks(hooks)).new_run()
        following = self.next_positions(tokens.shape[-1], kv=kv if positions is None else None, device=tokens.device)
        positions = following if positions is None else positions
        resid = self.embed(tokens, positions, hooks=hooks)
        resid = self.run_blocks(resid, positions=positions, mask=mask, kv=kv, hooks=hooks)
        logits: Tensor = self.unembed(resid, hooks=hooks)
        hooks.check_fired(self.hook_names)
        return logits

    def run_blocks(
        self,
        resid: Float[Tensor, "*batch pos d_model"],
        layers: range | None = None,
        *,
        positions: Int[Tensor, "..."] | None = None,
        mask: Bool[Tensor, "*broadcast #q_pos #k_pos"] | None = None,
        kv: KVCache | None = None,
        n_last: int | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> Float[Tensor, "*batch last_pos d_model"]:
        """Carry the residual stream through `layers`, all of them unless given, from positions that may follow those in `kv`.

        With `n_last` the last of these layers computes, and the result holds, so many of the last positions alone.
        """
        layers = range(self.config.n_layers) if layers is None else layers
        if positions is None:
            positions = self.next_positions(resid.shape[-2], kv=kv, layer=layers.start, device=resid.device)
        visible = self._visible(positions, mask, kv, layers)
        rotation = None if self.rotary is None else self.rotary.rotation(positions)
        qk_offset = None if self.qk_positions is None else hooks("pos_embed", self.qk_positions(positions))
        for layer in layers:
            extend_kv = None if kv is None else partial(kv.extend, layer, positions)
            resid = self.blocks[layer](
                resid,
                mask=visible,
                rotation=rotation,
                qk_offset=qk_offset,
                extend_kv=extend_kv,
                n_last=n_last if layer == layers[-1] else None,
                hooks=hooks.at("blocks", layer),
            )
        return resid

    def next_positions(
        self, n_new: int, *, kv: KVCache | None = None, layer: int = 0, device: torch.device | str = "cpu"
    ) -> Int[Tensor, " pos"]:
        """Return the positions of the next `n_new` tokens after those in `kv`; raises ValueError past `n_ctx`."""
        start = 0 if kv is None else kv.length(layer)
        if n_new == 0:
            raise ValueError("there are no tokens to run; give at least one")
        if start + n_new > self.config.n_ctx:
            raise ValueError(f"{start + n_new} tokens do not fit the context of n_ctx {self.config.n_ctx}; give fewer")
        return torch.arange(start, start + n_new, device=device)

    def _visible(self, positions: Tensor, mask: Tensor | None, kv: KVCache | None, layers: range) -> Mask:
        visible: Mask = None
        if kv is not None:
            visible = kv.mask(positions, layers.start)
        elif self.config.is_causal:
            visible = "causal"
        if mask is None:
            return visible
        visible = explicit_mask(visible, positions.shape[-1], positions.shape[-1], mask.device)
        if visible is None:
            return mask
        return mask & (visible.unsqueeze(-3) if visible.ndim < mask.ndim else visible)  # where a mask is for each head by itself

    def hook_names(self) -> list[str]:
        """Return every activation's name in the order of the computation, found by running a recorder on shapes alone."""
        hooks, activations = recording("*")
        with torch.device("meta"):
            Transformer(self.config)(torch.zeros(1, 1, dtype=torch.long), hooks=hooks)
        return list(activations)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None, *, std: float = 0.02) -> None:
        """Draw all weights anew, as GPT-2 does.

        | weights                            | drawn from                         | source                              |
        |------------------------------------|------------------------------------|-------------------------------------|
        | W_E W_Q W_K W_V W_in W_gate W_U    | N(0, std^2)                        | openai/gpt-2, model.py              |
        | W_pos                              | N(0, (std / 2)^2)                  | the same: 0.01                      |
        | W_O W_out, which write to resid    | N(0, (std / sqrt(2 n_layers))^2)   | Radford et al. 2019, section 2.3    |
        | weights of the norms               | 1                                  | the same code                       |
        | biases                             | 0                                  | the same code                       |
        """
        writing = std / math.sqrt(2 * max(self.config.n_layers, 1))
        for name, weight in self.named_parameters():
            match name.split("."):
                case [*_, "bias"]:
                    weight.zero_()
                case [*_, "ln1" | "ln2" | "ln_final", "weight"]:
                    weight.fill_(1.0)
                case [*_, "W_O" | "W_out", "weight"]:
                    weight.normal_(std=writing, generator=generator)
                case [*_, "W_pos"]:
                    weight.normal_(std=std / 2, generator=generator)
                case _:
                    weight.normal_(std=std, generator=generator)


def _make_positions(config: ModelConfig) -> LearnedPositions | SinusoidalPositions | None:
    if config.position in ("learned", "attention_only"):
        return LearnedPositions(config.n_ctx, config.d_model)
    return SinusoidalPositions(config.d_model) if config.position == "sinusoidal" else None


def _make_block(config: ModelConfig) -> Block:
    return Block(
        config.d_model,
        config.n_heads,
        n_kv_heads=config.n_kv_heads,
        d_head=config.d_head,
        d_mlp=config.d_mlp,
        norm=config.norm,
        norm_eps=config.norm_eps,
        norm_bias=config.norm_bias,
        attn_bias=config.attn_bias,
        act=config.act,
        gated_mlp=config.gated_mlp,
        mlp_bias=config.mlp_bias,
        block=config.block,
        dropout=config.dropout,
    )
