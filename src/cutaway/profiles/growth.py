"""How cost grows with the length of a text and the size of a model, beside the law that it should follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.costs import (
    attention_flops,
    forward_peak_bytes,
    is_like_gpt2,
    kv_bytes_a_token,
    n_parameters,
    step_peak_bytes,
    train_state_bytes,
)
from cutaway.flops import forward_flops, training_flops
from cutaway.measure import matrix_products, peak_bytes, seconds
from cutaway.model import Transformer, fused_attend
from cutaway.profiles.bench import Bench
from cutaway.runtime import free_memory_gib, seeded_generator
from cutaway.training import TrainConfig
from cutaway.training.optimizer import make_optimizers
from cutaway.training.step import next_token_loss

__all__ = ["Law", "LengthCost", "SizeCost", "Growth", "measure_growth", "LENGTHS", "SIZES"]

LENGTHS = (256, 512, 1024, 2048, 4096)
SIZES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
_AT = 1024
"""The length at which the rates of the parts are measured."""
_LONG_S = 5.0
_MOST_OF_FREE = 0.8
"""Of the free memory, as kernels take some for themselves."""

_Step = Callable[[Tensor], object]


@dataclass(frozen=True, kw_only=True)
class Law:
    """Seconds by length, from counted operations and the rates at which a model's parts alone run on this machine.

    Matrix products with weights grow with the length, attention with its square; the update of the weights does not grow.
    """

    config: ModelConfig
    gflops_per_s: float
    """Of the products with weights alone."""
    attention_gflops_per_s: float
    """Of fused attention alone, operations counted as if every position saw every other."""
    read_gb_per_s: float
    """Of memory."""

    @property
    def update_s(self) -> float:
        """How long a step's update takes: AdamW reads weights, gradients and two averages, and writes all but the gradients."""
        return 7 * torch.float32.itemsize * n_parameters(self.config) / self.read_gb_per_s / 1e9

    def forward_s(self, n_pos: int) -> float:
        """Return how long a forward pass of one row should take."""
        attention = attention_flops(self.config, n_pos)
        linear = forward_flops(self.config, n_pos) - attention
        return linear / self.gflops_per_s / 1e9 + attention / self.attention_gflops_per_s / 1e9

    def step_s(self, n_pos: int) -> float:
        """Return how long a training step with one row should take: two more products for each, and the update."""
        return training_flops(self.config, n_pos) / forward_flops(self.config, n_pos) * self.forward_s(n_pos) + self.update_s


@dataclass(frozen=True, kw_only=True)
class LengthCost:
    """What one row of a length costs, measured and by the law; None where the machine has not enough memory."""

    n_pos: int
    law_forward_s: float
    law_step_s: float
    law_forward_bytes: int
    law_step_bytes: int
    forward_s: float | None = None
    step_s: float | None = None
    forward_bytes: int | None = None
    step_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class SizeCost:
    """What a size of model costs: memory by arithmetic on shapes alone, and time by the law; what was measured here where it was."""

    name: str
    n_parameters: int
    weights_bytes: int
    train_state_bytes: int
    kv_bytes_a_token: int
    flops_a_token: float
    """Of a forward pass over 1,024 tokens, for each."""
    law_forward_s: float
    law_step_s: float
    """Of one row of 1,024 tokens, at the rates that the law was measured at."""
    measured_train_state_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Costs by length and by size, in float32, the step as it is."""

    preset: str
    law: Law
    lengths: tuple[LengthCost, ...]
    sizes: tuple[SizeCost, ...]

    def record(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold."""
        law = {name: value for name, value in asdict(self.law).items() if name != "config"}
        return {**asdict(self), "law": law}


def measure_growth(bench: Bench, *, preset: str = "gpt2", lengths: Sequence[int] = LENGTHS, sizes: Sequence[str] = SIZES) -> Growth:
    """Return what one row costs as it grows longer, and models as they grow larger; of a shape like GPT-2's, in float32.

    Times are medians, memory is the most that tensors beside the weights hold at once. Raises ValueError for other shapes, and for a
    model whose training state does not fit into the memory.
    """
    config = ModelConfig.preset(preset)
    if not is_like_gpt2(config):
        raise ValueError(f"growth knows what activations take for shapes like GPT-2's, and {preset} is none: give gpt2 to gpt2-xl")
    if not lengths or min(lengths) < 1:
        raise ValueError(f"the lengths are {list(lengths)}; expected at least one of at least 1")
    state = _measured_state_bytes(bench, config, preset)
    config = config.replace(n_ctx=max(*lengths, config.n_ctx))
    model = bench.model(config, name=preset, n_copies=4)
    law, take_step = _law(bench, config), _stepping(model)
    take_step(bench.tokens(config, 1, 1))  # from then on AdamW's averages are there
    costs = tuple(_at_length(bench, model, take_step, law, n_pos) for n_pos in lengths)
    shapes = {name: ModelConfig.preset(name) for name in dict.fromkeys((*sizes, preset))}
    sized = tuple(_of_size(name, shape, law, measured=state if name == preset else None) for name, shape in shapes.items())
    return Growth(preset=preset, law=law, lengths=costs, sizes=sized)


def _law(bench: Bench, config: ModelConfig) -> Law:
    """Measure the parts alone: products with the weights, and attention, of one length."""
    generator = seeded_generator(0)
    q, k, v = (torch.randn(1, config.n_heads, _AT, config.d_head, generator=generator).to(bench.device) for _ in range(3))
    with torch.inference_mode():
        linear_s = seconds(matrix_products(config, _AT, device=bench.device), n_rounds=bench.rounds(5))
        one_layer_s = seconds(lambda: fused_attend(q, k, v, "causal")[0, 0, 0, 0].item(), n_rounds=bench.rounds(5))
    attention = attention_flops(config, _AT)
    return Law(
        config=config,
        gflops_per_s=(forward_flops(config, _AT) - attention) / linear_s / 1e9,
        attention_gflops_per_s=attention / (config.n_layers * one_layer_s) / 1e9,
        read_gb_per_s=bench.limits(torch.float32).read_gb_per_s,
    )


def _at_length(bench: Bench, model: Transformer, take_step: _Step, law: Law, n_pos: int) -> LengthCost:
    """Measure a forward pass and a step, each where what it holds fits into the memory that is free; long ones once."""
    config = model.config
    forward_bytes, step_bytes = forward_peak_bytes(config, n_pos), step_peak_bytes(config, n_pos)
    cost = LengthCost(
        n_pos=n_pos,
        law_forward_s=law.forward_s(n_pos),
        law_step_s=law.step_s(n_pos),
        law_forward_bytes=forward_bytes,
        law_step_bytes=step_bytes,
    )
    tokens, n_rounds = bench.tokens(config, 1, n_pos), bench.rounds(3 if law.step_s(n_pos) < _LONG_S else 1)
    known = [tokens, *model.parameters()]
    if _fits(bench, forward_bytes):
        with torch.inference_mode():
            run = partial(_forward, model, tokens)
            peak = peak_bytes(run, device=bench.device, known=known)
            cost = replace(cost, forward_bytes=peak, forward_s=seconds(run, n_rounds=n_rounds, n_warmups=0))
    if _fits(bench, step_bytes):
        peak = peak_bytes(partial(_add_gradients, model, tokens), device=bench.device, known=known)
        model.zero_grad(set_to_none=True)
        cost = replace(cost, step_bytes=peak, step_s=seconds(partial(take_step, tokens), n_rounds=n_rounds, n_warmups=0))
    return cost


def _fits(bench: Bench, n_bytes: float) -> bool:
    free = free_memory_gib(bench.device)
    return free is None or n_bytes / 2**30 < _MOST_OF_FREE * free


def _forward(model: Transformer, tokens: Int[Tensor, "1 pos"]) -> float:
    return float(model(tokens)[0, 0, 0])  # which waits for a GPU


def _add_gradients(model: Transformer, tokens: Int[Tensor, "1 pos"]) -> float:
    loss = next_token_loss(model, tokens, tokens)
    loss.backward()
    return loss.item()


def _stepping(model: Transformer) -> _Step:
    """Return a function that takes a step of training on some tokens."""
    (optimizer,) = make_optimizers(model, TrainConfig(model=model.config))

    def step(tokens: Tensor) -> float:
        loss = _add_gradients(model, tokens)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss + model.embed.W_E[0, 0].item()  # once the weights have moved, on a GPU too

    return step


def _measured_state_bytes(bench: Bench, config: ModelConfig, name: str) -> int:
    """Return what weights, gradients and AdamW's averages take once a step was taken."""
    model = bench.model(config, name=name, n_copies=4)
    (optimizer,) = make_optimizers(model, TrainConfig(model=config))
    _add_gradients(model, bench.tokens(config, 1, 1))
    optimizer.step()
    weights = list(model.parameters())
    averages = [x for state in optimizer.state.values() for x in state.values() if x.ndim]  # but for the number of steps
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    return sum(x.nbytes for x in (*weights, *gradients, *averages))


def _of_size(name: str, config: ModelConfig, law: Law, *, measured: int | None) -> SizeCost:
    n_pos, law = min(_AT, config.n_ctx), replace(law, config=config)
    return SizeCost(
        name=name,
        n_parameters=n_parameters(config),
        weights_bytes=torch.float32.itemsize * n_parameters(config),
        train_state_bytes=train_state_bytes(config),
        kv_bytes_a_token=kv_bytes_a_token(config),
        flops_a_token=forward_flops(config, n_pos) / n_pos,
        law_forward_s=law.forward_s(n_pos),
        law_step_s=law.step_s(n_pos),
        measured_train_state_bytes=measured,
    )
