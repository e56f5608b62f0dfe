"""Patching sweeps beside one whole forward pass for each cell, and beside TransformerLens where a Python that has it is given.

GPT-2 small's shape with random weights, 24 tokens: `resid_pre` at every layer and position, and every head at all positions.
SmolLM2, 16 tokens: every head at all positions, and at the last alone. All in turn; medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import cutaway
from cutaway import ModelConfig, Transformer, edits, metrics, plan_sweep, run_with_cache
from cutaway.measure import measure_limits
from cutaway.runtime import seeded_generator

N_POS, N_ROUNDS = 24, 2
CORRECT, WRONG = 3, 7

# Runs in the other environment: the usual loop of one hooked forward pass a cell.
LENS = """
import json, sys, time
import torch
from safetensors.torch import load_file, save_file
from transformer_lens import HookedTransformer, HookedTransformerConfig

folder, dtype, wanted = sys.argv[1], getattr(torch, sys.argv[2]), sys.argv[3]
torch.manual_seed(0)
torch.set_grad_enabled(False)
config = HookedTransformerConfig(n_layers=12, d_model=768, n_ctx=1024, d_head=64, n_heads=12, d_mlp=3072, d_vocab=50257,
                                 act_fn="gelu_new", normalization_type="LN", dtype=dtype)
model = HookedTransformer(config).eval()
if wanted == "save":
    save_file({name: x.contiguous().float() for name, x in model.state_dict().items()}, folder + "/lens.safetensors")
    sys.exit()
state = load_file(folder + "/lens.safetensors")
model.load_state_dict({name: x.to(dtype) for name, x in state.items() if "mask" not in name and "IGNORE" not in name}, strict=False)
tokens = load_file(folder + "/tokens.safetensors")
clean, corrupted = tokens["clean"], tokens["corrupted"]
_, cache = model.run_with_cache(corrupted)

def put(x, hook, pos=None, head=None):
    if head is None:
        x[:, pos] = cache[hook.name][:, pos]
    else:
        x[:, :, head] = cache[hook.name][:, :, head]
    return x

def score(name, **where):
    logits = model.run_with_hooks(clean, fwd_hooks=[(name, lambda x, hook: put(x, hook, **where))])
    return (logits[0, -1, 3] - logits[0, -1, 7]).item()

cells = {"grid": [(f"blocks.{layer}.hook_resid_pre", {"pos": pos}) for layer in range(12) for pos in range(clean.shape[1])],
         "heads": [(f"blocks.{layer}.attn.hook_z", {"head": head}) for layer in range(12) for head in range(12)]}
found = {"logit": model(clean).abs().max().item()}
for work, places in cells.items():
    if work != wanted:
        continue
    started = time.perf_counter()
    scores = [score(name, **where) for name, where in places]
    found[work] = {"time_s": time.perf_counter() - started, "scores": scores}
print(json.dumps(found))
"""


def lens(python: Path, folder: Path, dtype: str, wanted: str) -> dict[str, Any]:
    """Run one work of the other environment's script and return its time and its scores."""
    command = [str(python), "-c", LENS, str(folder), dtype, wanted]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {} if wanted == "save" else json.loads(said.splitlines()[-1])[wanted]  # type: ignore[no-any-return]


def timed(function: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Return how long a call takes and what it returns."""
    started = time.perf_counter()
    scores = function()
    return time.perf_counter() - started, scores


def whole_forwards(model: Transformer, tokens: Tensor, cells: list[list[edits.Edit]], metric: metrics.Metric) -> Tensor:
    """Return the metric of one edited run for each cell."""
    return torch.stack([metric(cutaway.run_with_edits(model, tokens, cell)) for cell in cells])


def compare(
    title: str,
    model: Transformer,
    tokens: Tensor,
    cells: list[list[edits.Edit]],
    metric: metrics.Metric,
    peer: Callable[[], dict[str, Any]] | None,
) -> Tensor:
    """Print how long a sweep takes beside whole forward passes, and beside a peer, in turn; return its scores."""
    ours, naive, theirs = [], [], []
    for _ in range(N_ROUNDS):
        time_s, scores = timed(lambda: plan_sweep(model, tokens, cells, metric).run())
        ours.append(time_s)
        time_s, expected = timed(lambda: whole_forwards(model, tokens, cells, metric))
        naive.append(time_s)
        if peer is not None:
            theirs.append(peer()["time_s"])
    flops = plan_sweep(model, tokens, cells, metric).flops
    logit = float(model(tokens).abs().max())
    middle = statistics.median(ours)
    print(f"{title}, {len(cells)} cells: {middle:.2f} s, {flops / middle / 1e9:.0f} GFLOP/s")
    print(f"  one forward a cell   {statistics.median(naive):6.1f} s   {statistics.median(naive) / middle:5.1f} x")
    if theirs:
        print(f"  TransformerLens      {statistics.median(theirs):6.1f} s   {statistics.median(theirs) / middle:5.1f} x")
    print(f"  largest difference {float((scores - expected).abs().max()) / logit:.1e} x the largest logit ({scores.dtype})")
    return scores


def gpt2_cells(model: Transformer, corrupted: Tensor) -> dict[str, list[list[edits.Edit]]]:
    """Return the two works of the table: every residual state, and every head."""
    _, cache = run_with_cache(model, corrupted, ["blocks.*.resid_pre", "blocks.*.attn.z"])
    layers = range(12)
    return {
        "grid": [[edits.patch(f"blocks.{layer}.resid_pre", cache, pos=pos)] for layer in layers for pos in range(N_POS)],
        "heads": [[edits.patch(f"blocks.{layer}.attn.z", cache, head=head)] for layer in layers for head in range(12)],
    }


def gpt2(python: Path | None) -> None:
    """GPT-2 small's shape, with TransformerLens's own random weights where it is there."""
    clean, corrupted = torch.randint(50_257, (2, 1, N_POS), generator=seeded_generator(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if python is None:
            model = Transformer(ModelConfig.preset("gpt2"), generator=seeded_generator(0)).eval()
        else:
            from safetensors.torch import save_file

            save_file({"clean": clean.contiguous(), "corrupted": corrupted.contiguous()}, folder / "tokens.safetensors")
            lens(python, folder, "float32", "save")
            config = ModelConfig.preset("gpt2", tie_embeddings=False, unembed_bias=True)
            model = cutaway.load(folder / "lens.safetensors", config=config).model
        metric = metrics.logit_diff(CORRECT, WRONG)
        for work, cells in gpt2_cells(model, corrupted).items():
            peer = None if python is None else lambda work=work: lens(python, folder, "float32", work)  # type: ignore[misc]
            compare(f"GPT-2 small, {work}", model, clean, cells, metric, peer)
        exact(model.double(), clean, corrupted, lambda work: None if python is None else lens(python, folder, "float64", work))


def exact(model: Transformer, clean: Tensor, corrupted: Tensor, peer: Callable[[str], dict[str, Any] | None]) -> None:
    """Print how far the scores are from whole runs, and from the peer's, in float64."""
    for work, cells in gpt2_cells(model, corrupted).items():
        plan = plan_sweep(model, clean, cells, metrics.logit_diff(CORRECT, WRONG))
        scores = plan.run()
        line = f"float64, {work}: {plan.verify(scores, 12):.1e} from whole runs"
        if (theirs := peer(work)) is not None:
            apart = (scores[:, 0] - torch.tensor(theirs["scores"], dtype=torch.float64)).abs().max()
            line += f", {float(apart):.1e} from TransformerLens"
        print(line)


def smollm2() -> None:
    """SmolLM2: every head at all positions, and at the last alone, between two prompts of 16 tokens."""
    lm = cutaway.load("smollm2-135m")
    tokens = lm.tokens("When Mary and John went to the store, John gave a drink to Mary")[:, :16]
    corrupted = torch.randint(1000, 40_000, tokens.shape, generator=seeded_generator(0))
    _, cache = run_with_cache(lm.model, corrupted, "blocks.*.attn.z")
    heads = [(layer, head) for layer in range(lm.config.n_layers) for head in range(lm.config.n_heads)]
    metric = metrics.logit_diff(CORRECT, WRONG)
    for title, pos in (("all positions", None), ("the last position", -1)):
        cells = [[edits.patch(f"blocks.{layer}.attn.z", cache, head=head, pos=pos)] for layer, head in heads]
        compare(f"SmolLM2, every head at {title}", lm.model, tokens, cells, metric, None)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transformer-lens", type=Path, metavar="PYTHON", help="a Python that has TransformerLens 2.18")
    arguments = parser.parse_args()
    print(f"this machine: {measure_limits().gflops_per_s:.0f} GFLOP/s in square products, {torch.get_num_threads()} threads")
    gpt2(arguments.transformer_lens)
    smollm2()


if __name__ == "__main__":
    main()
