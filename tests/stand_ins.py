"""Small programs that stand in for nanoGPT and for TransformerLens: the same function, written anew in their names and shapes."""

import sys
from pathlib import Path

NANOGPT = """
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool

class Norm(nn.Module):
    def __init__(self, width, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias)

class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for part in self.c_attn(x).chunk(3, dim=-1))
        scores = q @ k.mT * q.shape[-1] ** -0.5
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        z = scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v
        return self.c_proj(z.transpose(1, 2).flatten(2))

class Mlp(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x):
        return self.c_proj(ACTIVATION(self.c_fc(x)))

ACTIVATION = F.gelu

class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.ln_1, self.ln_2 = Norm(config.n_embd, config.bias), Norm(config.n_embd, config.bias)
        self.attn, self.mlp = Attention(config), Mlp(config)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))

class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        print("number of parameters: many")
        parts = {"wte": nn.Embedding(config.vocab_size, config.n_embd), "wpe": nn.Embedding(config.block_size, config.n_embd)}
        parts |= {"h": nn.ModuleList(Layer(config) for _ in range(config.n_layer)), "ln_f": Norm(config.n_embd, config.bias)}
        self.transformer = nn.ModuleDict(parts)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, idx, targets=None):
        x = self.transformer.wte(idx) + self.transformer.wpe(torch.arange(idx.shape[1]))
        for layer in self.transformer.h:
            x = layer(x)
        logits = self.lm_head(self.transformer.ln_f(x))
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        print("using fused AdamW")
        return torch.optim.AdamW(self.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay)
"""

LENS = """
import torch
from types import SimpleNamespace

class HookedTransformerConfig(SimpleNamespace):
    pass

class HookedTransformer:
    def __init__(self, cfg):
        self.cfg, self.weights = cfg, {}

    def eval(self):
        return self

    def load_state_dict(self, state, strict):
        self.weights = state
        layers = [f"blocks.{layer}.attn.mask" for layer in range(self.cfg.n_layers)]
        return SimpleNamespace(missing_keys=layers, unexpected_keys=[])

    def norm(self, x, name):
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.pow(2).mean(-1, keepdim=True) + self.cfg.eps).sqrt()
        return x * self.weights[name + ".w"] + self.weights[name + ".b"]

    def run(self, tokens, patch=None, cache=None):
        W, kept = self.weights, {}
        x = W["embed.W_E"][tokens] + W["pos_embed.W_pos"][: tokens.shape[1]]
        for layer in range(self.cfg.n_layers):
            at = f"blocks.{layer}."
            if patch and patch[:2] == ("resid_pre", layer):
                x = x.clone()
                x[:, patch[2]] = cache["resid_pre", layer][:, patch[2]]
            kept["resid_pre", layer] = x
            normalised = self.norm(x, at + "ln1")
            weights = [(W[at + f"attn.W_{part}"], W[at + f"attn.b_{part}"]) for part in "QKV"]
            q, k, v = (torch.einsum("bpm,hmd->bhpd", normalised, weight) + bias[:, None] for weight, bias in weights)
            scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / self.cfg.d_head**0.5
            scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), float("-inf"))
            z = torch.einsum("bhqk,bhkd->bqhd", scores.softmax(-1), v)
            if patch and patch[:2] == ("z", layer):
                z = z.clone()
                z[:, :, patch[2]] = cache["z", layer][:, :, patch[2]]
            kept["z", layer] = z
            x = x + torch.einsum("bqhd,hdm->bqm", z, W[at + "attn.W_O"]) + W[at + "attn.b_O"]
            hidden = self.norm(x, at + "ln2") @ W[at + "mlp.W_in"] + W[at + "mlp.b_in"]
            hidden = torch.nn.functional.gelu(hidden, approximate="tanh")
            x = x + hidden @ W[at + "mlp.W_out"] + W[at + "mlp.b_out"]
        return self.norm(x, "ln_final") @ W["unembed.W_U"], kept

    def __call__(self, tokens):
        return self.run(tokens)[0]

    def run_with_cache(self, tokens):
        return self.run(tokens)
"""

PATCHING = """
import torch

def _all(model, tokens, cache, metric, part, n):
    cells = [(part, layer, i) for layer in range(model.cfg.n_layers) for i in range(n)]
    scores = [metric(model.run(tokens, patch=cell, cache=cache)[0]) for cell in cells]
    return torch.stack(scores).reshape(model.cfg.n_layers, n)

def get_act_patch_resid_pre(model, tokens, cache, metric):
    return _all(model, tokens, cache, metric, "resid_pre", tokens.shape[1])

def get_act_patch_attn_head_out_all_pos(model, tokens, cache, metric):
    return _all(model, tokens, cache, metric, "z", model.cfg.n_heads)
"""


def write_nanogpt(folder: Path, source: str = NANOGPT) -> Path:
    """Write what stands in for a clone of nanoGPT."""
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(source)
    return folder


def write_lens_python(folder: Path, *, lens: str = LENS) -> Path:
    """Write a program that is this Python with what stands in for TransformerLens."""
    package, about = folder / "site/transformer_lens", folder / "site/transformer_lens-2.99.dist-info"
    package.mkdir(parents=True)
    about.mkdir()
    (package / "__init__.py").write_text(lens)
    (package / "patching.py").write_text(PATCHING)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: transformer_lens\nVersion: 2.99\n")
    return write_python(folder / "python", site=folder / "site")


def write_python(program: Path, *, site: Path) -> Path:
    """Write a program that is this Python, with packages from a folder too."""
    program.write_text(f'#!/bin/sh\nPYTHONPATH={site} exec {sys.executable} "$@"\n')
    program.chmod(0o755)
    return program
