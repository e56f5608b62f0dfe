"""nanoGPT as a peer: the model and optimizer of a clone, stepped as its train.py steps them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cutaway.config import ModelConfig
from cutaway.costs import is_like_gpt2
from cutaway.data import Batch
from cutaway.model import Transformer
from cutaway.runtime import check_holds
from cutaway.training import TrainConfig
from cutaway.weights.nanogpt import nanogpt_tensors

__all__ = ["NanoGPT"]

_HOW = "give a clone of it (git clone https://github.com/karpathy/nanoGPT)"


class NanoGPT:
    """A clone of nanoGPT, whose code is run and not copied; raises ValueError for a folder that is none."""

    name = "nanoGPT"

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        check_holds(self.folder, "model.py", "no clone of nanoGPT", made_by=_HOW)
        self._module = _imported(self.folder / "model.py")
        if missing := [name for name in ("GPT", "GPTConfig") if not hasattr(self._module, name)]:
            raise ValueError(f"{self.folder / 'model.py'} has no {' and no '.join(missing)}, so it is not nanoGPT's: {_HOW}")

    @staticmethod
    def why_not(config: ModelConfig) -> str | None:
        """Return why nanoGPT has no model of a shape, None where it has one."""
        if not is_like_gpt2(config):
            return "it has shapes like GPT-2's alone"
        if config.act != "gelu":
            return f"its activation is gelu, and here it is {config.act}"
        return None if config.norm_bias == config.attn_bias == config.mlp_bias else "its biases are everywhere or nowhere"

    def model(self, model: Transformer) -> nn.Module:
        """Return its model with the weights of one of ours, on the same device."""
        config = model.config
        with redirect_stdout(StringIO()):  # it says how many parameters it has
            made: nn.Module = self._module.GPT(
                self._module.GPTConfig(
                    block_size=config.n_ctx,
                    vocab_size=config.d_vocab,
                    n_layer=config.n_layers,
                    n_head=config.n_heads,
                    n_embd=config.d_model,
                    dropout=config.dropout,
                    bias=config.norm_bias,
                )
            )
        found = made.load_state_dict(nanogpt_tensors(model), strict=False)
        missing = [name for name in found.missing_keys if name != "lm_head.weight" and not name.endswith(".attn.bias")]  # a mask
        if missing or found.unexpected_keys:
            raise RuntimeError(f"this nanoGPT names its weights otherwise ({', '.join([*missing, *found.unexpected_keys][:3])})")
        return made.to(model.embed.W_E.device)

    @staticmethod
    def logits(made: nn.Module, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Return its model's logits at every position, which it computes where it is given targets."""
        logits: Tensor = made(tokens, tokens)[0]
        return logits

    @staticmethod
    def steps(made: nn.Module, config: TrainConfig, batches: Sequence[Batch], *, compile: bool) -> Callable[[], object]:
        """Return a function that learns from each batch once, as its train.py does: in bfloat16 on a GPU, in float32 on a CPU.

        There the loss is read now and then; here it is after the last batch.
        """
        device = next(made.parameters()).device
        given: Any = made
        with redirect_stdout(StringIO()):
            betas = (config.beta1, config.beta2)
            optimizer = given.configure_optimizers(config.weight_decay, config.learning_rate, betas, device.type)
        run = torch.compile(made) if compile else made
        on_gpu = device.type == "cuda"

        def step(inputs: Tensor, targets: Tensor) -> Tensor:
            with torch.autocast(device.type, dtype=torch.bfloat16) if on_gpu else nullcontext():
                _, loss = run(inputs, targets)
            loss.backward()
            nn.utils.clip_grad_norm_(made.parameters(), config.max_grad_norm or float("inf"))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return loss.detach()  # type: ignore[no-any-return]

        def steps() -> object:
            with _rounding_as_theirs() if on_gpu else nullcontext():
                return [step(*batch) for batch in batches][-1].item()

        return steps


@contextmanager
def _rounding_as_theirs() -> Iterator[None]:
    """Let float32 products round to TF32, as its train.py does, and put the setting back."""
    settings: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [each.allow_tf32 for each in settings]
    try:
        for each in settings:
            each.allow_tf32 = True
        yield
    finally:
        for each, was in zip(settings, before, strict=True):
            each.allow_tf32 = was


def _imported(file: Path) -> ModuleType:
    """Return a file as a module of a name that nothing else has; its dataclasses look themselves up by it."""
    name = f"nanogpt_of_{abs(hash(file.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"{file} cannot be imported ({type(error).__name__}: {error}): {_HOW}") from error
    return module
