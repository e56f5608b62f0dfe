"""Where models are made by hand: the residual stream as named orthogonal spaces, and weights that read and write them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.config import Activation, ModelConfig, Norm, Position
from cutaway.experiments.handmade.circuit import Head
from cutaway.hooks import recording
from cutaway.model import MLP, Attention, LearnedPositions, Transformer

__all__ = ["BALLAST", "LOGIT_SCALE", "N_JUNK", "ROTARY_BASE", "Workbench", "odds", "make_generator"]

BALLAST = 1000.0
"""The length of a constant vector in the stream of models with a norm, which leaves the norm little else to depend on."""
LOGIT_SCALE = 10.0
"""The logit of a token that the circuit writes with weight 1."""
N_JUNK = 24
"""Dimensions that only what is outside the circuit writes."""
ROTARY_BASE = 1e6
"""In a rotary model the fastest pair turns by a radian a position, and the slowest by about a millionth of one."""


class Workbench:
    """A transformer whose weights begin as zeros, and whose stream is a sum of orthogonal spaces.

    `spaces` gives each space its dimensions; `token` holds the tokens one-hot, `pos` the positions (a rotary model has none), `out` is
    what the logits read. To these are added `junk`, which no part of a circuit reads, and `common`, which every logit reads alike.
    `is_rotated` turns the stream's axes, and those inside each head, at random. With LayerNorm all spaces are orthogonal to the vector
    of ones: the mean is 0.

    A head has `width` dimensions for queries and keys, and as many for values. Heads that share keys and values have so many each, and
    its neighbours' are nothing to a head. In a rotary model they are pairs, the fastest first, turned at random within each pair alone.
    """

    def __init__(
        self,
        spaces: Mapping[str, int],
        *,
        n_layers: int,
        n_heads: int,
        width: int,
        n_ctx: int,
        n_kv_heads: int | None = None,
        d_mlp: int = 0,
        act: Activation = "relu",
        norm: Norm = "none",
        position: Position = "attention_only",
        seed: int = 0,
        is_rotated: bool = True,
    ) -> None:
        self.is_rotated, self.generator, self.width = is_rotated, make_generator(seed, "weights"), width
        self._n_group = n_heads // (n_kv_heads or n_heads)
        self._axes: dict[tuple[str, int, int], Tensor] = {}
        sizes = {**spaces, "junk": N_JUNK, "common": 1, **({} if norm == "none" else {"ballast": 1})}
        d_model = sum(sizes.values()) + (norm == "layernorm")
        self.config = ModelConfig(
            d_vocab=spaces["token"], n_ctx=n_ctx, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads or n_heads,
            d_head=width * self._n_group, d_model=d_model, d_mlp=d_mlp, act=act, norm=norm, norm_bias=False, position=position,
            rotary_base=ROTARY_BASE, attn_bias=False, tie_embeddings=False,
        )  # fmt: skip
        basis = self._basis(sum(sizes.values()))
        self._spaces = dict(zip(sizes, basis.split(list(sizes.values())), strict=True))
        self._scale = 1.0 if norm == "none" else math.sqrt(BALLAST**2 / d_model + self.config.norm_eps)
        self._places: dict[int, list[int]] = {
            layer: torch.randperm(n_heads, generator=make_generator(seed, f"heads of layer {layer}")).tolist()
            for layer in range(n_layers)
        }
        self.model = Transformer(self.config, generator=self.generator).double().eval().requires_grad_(False)
        self._begin()

    def _basis(self, n: int) -> Float[Tensor, "n d_model"]:
        d_model, has_mean = self.config.d_model, self.config.norm == "layernorm"
        columns = self.draw(d_model, d_model) if self.is_rotated else torch.eye(d_model, dtype=torch.float64)
        if has_mean:
            columns = torch.cat([torch.ones(d_model, 1, dtype=torch.float64), columns[:, 1:]], dim=1)
        orthogonal: Tensor = torch.linalg.qr(columns).Q
        return orthogonal[:, d_model - n :].T

    def _begin(self) -> None:
        for name, weight in self.model.named_parameters():
            weight.fill_(1.0 if ".ln" in name and name.endswith("weight") else 0.0)
        self.model.embed.W_E.add_(self._spaces["token"])
        if self.config.norm != "none":
            self.model.embed.W_E.add_(BALLAST * self._spaces["ballast"])
        if self.config.position != "rotary":
            where = self.model.qk_positions if self.is_offset else self.model.embed.pos_embed
            assert isinstance(where, LearnedPositions)
            where.W_pos.add_(self._spaces["pos"])
        self.model.unembed.W_U.weight.add_(LOGIT_SCALE * self.read("out") + self.read("common"))

    @property
    def is_offset(self) -> bool:
        """Whether positions are added to what queries and keys read, and never pass a norm."""
        return self.config.position == "attention_only"

    def draw(self, *shape: int) -> Float[Tensor, "..."]:
        """Return random normal numbers."""
        return torch.randn(*shape, dtype=torch.float64, generator=self.generator)

    def read(self, space: str) -> Float[Tensor, "n d_model"]:
        """Return the rows that turn what a part of the model gets to see into coordinates of this space."""
        rows: Tensor = self._spaces[space]
        return rows * (1.0 if space == "pos" and self.is_offset else self._scale)

    def write(self, space: str) -> Float[Tensor, "d_model n"]:
        """Return the columns that turn coordinates into vectors of the stream."""
        rows: Tensor = self._spaces[space]
        return rows.T

    def read_stream(self) -> Float[Tensor, "n d_model"]:
        """Return the rows that read everything that differs from prompt to prompt."""
        unread = {"ballast"} | ({"pos"} if self.is_offset else set())
        return torch.cat([self.read(space) for space in self._spaces if space not in unread])

    def write_aside(self) -> Float[Tensor, "d_model n"]:
        """Return the columns that no part of a circuit reads and no logit difference shows."""
        return torch.cat([self.write("junk"), self.write("common")], dim=1)

    def take_head(self, layer: int) -> Head:
        """Return a head of this layer that has no part yet; which one was drawn at random."""
        return Head(layer, self._places[layer].pop(0))

    def free_heads(self) -> list[Head]:
        """Take all heads that are left."""
        return [self.take_head(layer) for layer, places in self._places.items() for _ in range(len(places))]

    def set_head(
        self,
        at: Head,
        *,
        q: Float[Tensor, "n d_model"],
        k: Float[Tensor, "n d_model"],
        v: Float[Tensor, "m d_model"],
        o: Float[Tensor, "d_model m"],
    ) -> None:
        """Let a head attend by the scores `(q x_i) (k x_j)` and write `o v x_j`."""
        attn, d_head, group = self.model.blocks[at.layer].attn, self.config.d_head, at.head // self._n_group
        assert isinstance(attn, Attention)
        rows, shared = (slice(each * d_head, (each + 1) * d_head) for each in (at.head, group))
        within = self._own_axes("keys", at)[:, : len(q)]
        attn.W_Q.weight[rows] = math.sqrt(d_head) * within @ q
        attn.W_K.weight[shared] += within @ k
        within = self._own_axes("values", at)[:, : len(v)]
        attn.W_V.weight[shared] += within @ v
        attn.W_O.weight[:, rows] = o @ within.T

    def _own_axes(self, of: Literal["keys", "values"], at: Head) -> Float[Tensor, "d_head width"]:
        """Return the axes inside a group of heads that one of them has to itself."""
        key = of, at.layer, at.head // self._n_group
        place = at.head % self._n_group
        if of == "keys" and self.config.position == "rotary":
            if key not in self._axes:
                self._axes[key] = self._pairs()
            return self._axes[key][:, place :: self._n_group].flatten(1)  # d_head pair 2 -> d_head width
        if key not in self._axes:
            self._axes[key] = self._orthogonal(self.config.d_head)
        return self._axes[key][:, place * self.width : (place + 1) * self.width]

    def _pairs(self) -> Float[Tensor, "d_head pair 2"]:
        """Return the two axes of each pair that turns with the position, the fastest first, turned at random between themselves."""
        d_head = self.config.d_head
        first, second = torch.eye(d_head, dtype=torch.float64).split(d_head // 2)  # pair d_head
        angle = self.draw(d_head // 2)[:, None] if self.is_rotated else torch.zeros(d_head // 2, 1, dtype=torch.float64)
        turned = [angle.cos() * first + angle.sin() * second, angle.cos() * second - angle.sin() * first]
        return torch.stack(turned, dim=-1).transpose(0, 1)

    def frequencies(self, at: Head) -> Float[Tensor, " pair"]:
        """Return by how many radians a position each pair turns that a head of a rotary model has, the fastest first."""
        n = self.config.d_head // 2
        all_of_group = ROTARY_BASE ** (-torch.arange(n, dtype=torch.float64) / n)
        return all_of_group[at.head % self._n_group :: self._n_group]

    def _orthogonal(self, n: int) -> Float[Tensor, "n n"]:
        return torch.linalg.qr(self.draw(n, n)).Q if self.is_rotated else torch.eye(n, dtype=torch.float64)

    def mlp(self, layer: int) -> MLP:
        """Return the MLP of a layer, for its weights to be set."""
        mlp = self.model.blocks[layer].mlp
        assert isinstance(mlp, MLP)
        return mlp

    def finished(self) -> Transformer:
        """Return the model, as one is that was loaded: its weights may be trained, and gradients flow through it."""
        return self.model.requires_grad_(True)

    def set_neurons_aside(self) -> None:
        """Let every neuron respond to everything at random, and write where nothing reads."""
        read, aside = self.read_stream(), self.write_aside()
        d_mlp = self.config.d_mlp
        for layer in range(self.config.n_layers):
            mlp = self.mlp(layer)
            mlp.W_in.weight[:] = 2 * self.draw(d_mlp, len(read)) / math.sqrt(len(read)) @ read
            mlp.W_in.bias[:] = self.draw(d_mlp).abs() / 2
            mlp.W_out.weight[:] = aside @ self.draw(aside.shape[1], d_mlp) / math.sqrt(d_mlp)

    def norm_slack(self, tokens: Int[Tensor, "batch pos"]) -> float:
        """Return by what fraction norms may scale anything differently from run to run; 0 without a norm.

        Besides the ballast B the stream holds a vector of at most some length N, and a norm divides by the length of both: whatever is
        written, it scales by 1 - N^2 / (2 B^2) to 1. N is taken as twice the longest that these tokens bring about.
        """
        if self.config.norm == "none":
            return 0.0
        hooks, activations = recording("blocks.*.resid_*")
        with torch.no_grad():
            self.model(tokens, hooks=hooks)
        ballast = self._spaces["ballast"]  # 1 d_model
        longest = max(float((resid - resid @ ballast.T @ ballast).norm(dim=-1).max()) for resid in activations.values())
        return (2 * longest) ** 2 / (2 * BALLAST**2)


def odds(attention: float) -> float:
    """Return a / (1 - a); raises ValueError for attention that is too weak for a circuit, or for all of it, which is never paid."""
    if not 0.8 <= attention < 1:
        raise ValueError(f"attention is {attention}; give a fraction of at least 0.8 and less than 1, such as 0.95")
    return attention / (1 - attention)


def make_generator(seed: int, purpose: str) -> torch.Generator:
    """Return random numbers of their own for each purpose, so that changing one leaves the others as they are."""
    return torch.Generator().manual_seed(zlib.crc32(f"{purpose}, seed {seed}".encode()))
