"""The transformer and the parts it is made of; each part can be built from plain sizes and called alone."""

from cutaway.model.attention import Attention, attend, fused_attend
from cutaway.model.block import Block
from cutaway.model.kv_cache import KVCache
from cutaway.model.masks import Mask, causal_mask
from cutaway.model.mlp import MLP, GatedMLP
from cutaway.model.norms import LayerNorm, NoNorm, RMSNorm
from cutaway.model.positions import LearnedPositions, Rotary, SinusoidalPositions
from cutaway.model.transformer import Embedding, Transformer, Unembedding

__all__ = [
    "Embedding",
    "Unembedding",
    "LearnedPositions",
    "SinusoidalPositions",
    "Rotary",
    "LayerNorm",
    "RMSNorm",
    "NoNorm",
    "Attention",
    "attend",
    "fused_attend",
    "Mask",
    "causal_mask",
    "MLP",
    "GatedMLP",
    "Block",
    "KVCache",
    "Transformer",
]
