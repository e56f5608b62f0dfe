"""A model with a stream of its own for every receiver, the oracle of edge scores, and what their tests begin with."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.hooks import NO_HOOKS, Hooks, recording, replacing
from cutaway.interp import metrics
from cutaway.model import Transformer

METRIC = metrics.logit_diff(3, 5)
METHODS = ("eap", "eap-ig-inputs", "eap-ig-activations", "exact")
same = partial(torch.testing.assert_close, rtol=0, atol=1e-10, equal_nan=True)  # float64: logits of size 1 to 10
SMOOTH: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": {"norm": "rmsnorm", "position": "rotary", "rotary_dim": 4, "act": "silu", "gated_mlp": True, "n_kv_heads": 2},
    "parallel": {"block": "parallel", "position": "attention_only"},
    "attention only": {"d_mlp": 0, "norm": "none", "is_causal": False},
}


def record(model: Transformer, tokens: Tensor) -> dict[str, Tensor]:
    hooks, found = recording("*")
    with torch.no_grad():
        model(tokens, hooks=hooks)
    return found


def pair(make_tokens: Callable) -> tuple[Tensor, Tensor]:
    """Two runs with a common beginning, where nothing differs."""
    tokens, other_tokens = make_tokens(), make_tokens(seed=2)
    other_tokens[:, :3] = tokens[:, :3]
    return tokens, other_tokens


class Streams:
    """A model written out with a stream of its own for every receiver, each a sum of every sender's output and a leaf of zeros."""

    def __init__(self, model: Transformer, tokens: Tensor, *, frozen: tuple[str, ...] = ()) -> None:
        self.model, self.config, self.leaves = model, model.config, {}
        base = record(model, tokens)
        self.scales = {name: base[name] for name in frozen}
        self.written = {"embed": model.embed(tokens)}
        self.constant = torch.zeros_like(self.written["embed"])  # biases, which no sender writes
        positions = torch.arange(tokens.shape[1])
        self.offset = 0 if model.qk_positions is None else model.qk_positions(positions)
        self.rotate = (lambda x: x) if model.rotary is None else model.rotary.rotation(positions).turn
        for layer in range(self.config.n_layers):
            self.run_layer(layer)
        self.logits = model.unembed(self.stream("logits"), hooks=self.held("ln_final.scale", "ln_final.scale"))

    def held(self, name: str, scale: str) -> Hooks:
        return replacing({name: self.scales[scale]}) if scale in self.scales else NO_HOOKS

    def stream(self, receiver: str) -> Tensor:
        total = self.constant
        for sender, written in self.written.items():
            leaf = torch.zeros_like(written, requires_grad=True)
            self.leaves[sender, receiver] = leaf
            total = total + written + leaf
        return total

    def run_layer(self, layer: int) -> None:
        block, config = self.model.blocks[layer], self.config
        attn, n_kv = block.attn, self.config.n_kv_heads
        is_shared = n_kv < config.n_heads

        def normed(receiver: str, part: str = "ln1") -> Tensor:
            return getattr(block, part)(self.stream(receiver), hooks=self.held("scale", f"blocks.{layer}.{part}.scale"))

        def part_of(linear: torch.nn.Linear, i: int, x: Tensor) -> Tensor:
            rows = slice(i * config.d_head, (i + 1) * config.d_head)
            return F.linear(x, linear.weight[rows], None if linear.bias is None else linear.bias[rows])

        shared = "G" if is_shared else "H"
        keys = [part_of(attn.W_K, i, normed(f"L{layer}{shared}{i}.k") + self.offset) for i in range(n_kv)]
        values = [part_of(attn.W_V, i, normed(f"L{layer}{shared}{i}.v")) for i in range(n_kv)]
        hidden = (
            torch.ones(keys[0].shape[1], keys[0].shape[1], dtype=torch.bool).triu(1) if config.is_causal else torch.tensor(False)
        )
        new = {}
        for head in range(config.n_heads):
            group = head * n_kv // config.n_heads
            q = part_of(attn.W_Q, head, normed(f"L{layer}H{head}.q") + self.offset)
            q, k = (self.rotate(x[:, :, None])[:, :, 0] for x in (q, keys[group]))
            pattern = (q @ k.mT / config.d_head**0.5).masked_fill(hidden, -torch.inf).softmax(-1)
            columns = slice(head * config.d_head, (head + 1) * config.d_head)
            new[f"L{layer}H{head}"] = pattern @ values[group] @ attn.W_O.weight[:, columns].mT
        bias = 0 if attn.W_O.bias is None else attn.W_O.bias
        if block.mlp is not None and block.is_parallel:
            new[f"mlp{layer}"] = block.mlp(normed(f"mlp{layer}"))
        self.written |= new
        self.constant = self.constant + bias
        if block.mlp is not None and not block.is_parallel:
            self.written[f"mlp{layer}"] = block.mlp(normed(f"mlp{layer}", "ln2"))

    def scores(self, other: "Streams") -> dict[str, Tensor]:
        grads = torch.autograd.grad(METRIC(self.logits).mean(), list(self.leaves.values()))
        return {
            f"{sender}->{receiver}": ((other.written[sender] - self.written[sender]) * grad).sum().detach()
            for (sender, receiver), grad in zip(self.leaves, grads, strict=True)
        }


def still(model: Transformer) -> Transformer:
    """Let every query be nothing, so that each position attends to all alike whatever comes; and all neurons be on."""
    with torch.no_grad():
        for block in model.blocks:
            for weight in block.attn.W_Q.parameters():
                weight.zero_()
            if block.mlp is not None:
                block.mlp.W_in.bias += 100
                block.mlp.W_out.weight *= 0.01  # or what that writes would turn later neurons off
    return model
