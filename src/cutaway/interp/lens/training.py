"""The translators of a tuned lens, learned: one affine map a layer, pulled towards the model's own final distribution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.data import Loader
from cutaway.interp.lens.states import state_label, state_place
from cutaway.interp.result import Result
from cutaway.interp.running import run_with_cache
from cutaway.model import Transformer
from cutaway.report.numbers import format_fixed
from cutaway.views import without_dropout

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["LensProgress", "LensRecipe", "LensTraining", "train_translators"]

LensProgress = Callable[[int, int, float], None]
"""Told after each step: the steps done, the steps in all, the mean KL of the layers in nats."""

_FEW_TOKENS = 2**14
"""Below this many tokens a lens is said to be a sketch; the paper's read 262,144 a step."""

_LOGITS_AT_ONCE = 2**22
"""Logits of one layer held at a time: 16 MiB in float32, and as much again for each of a few copies."""


@dataclass(frozen=True, kw_only=True)
class LensRecipe:
    """How translators are learned: stochastic gradient descent with Nesterov's momentum, its rate falling linearly to nothing.

    After Belrose et al. 2023, whose steps have far more tokens. Raises ValueError for numbers out of range.
    """

    n_steps: int = 250
    batch_size: int = 8
    n_pos: int = 64
    """Tokens of a window; the model's context where that is shorter."""
    learning_rate: float = 1.0
    """That of the first step, times 1 - momentum, which is how far momentum carries a step."""
    momentum: float = 0.9
    max_grad_norm: float = 1.0
    """The length at which each layer's gradient is cut off."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_steps", "batch_size", "n_pos", "learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected more than 0")
        if not 0 < self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; expected more than 0 and less than 1")


@dataclass(frozen=True, repr=False)
class LensTraining(Result):
    """What training made of a lens: the KL of both lenses on text that it did not see, in nats, layer by layer."""

    title: ClassVar[str] = "Tuned lens"
    source: ClassVar[str] = (
        "Belrose et al. 2023, Eliciting latent predictions from transformers with the tuned lens, arXiv 2303.08112"
    )

    recipe: LensRecipe
    names: tuple[str, ...]
    kl_logit_lens: tuple[float, ...]
    kl_tuned_lens: tuple[float, ...]
    n_tokens: int
    """Tokens of the text that windows were drawn from."""
    n_held_out: int
    """Tokens on which both lenses were compared."""
    corpus: str = ""

    def summary(self) -> str:
        """Return how much nearer to the model's answer the tuned lens is, and at how many layers."""
        before, after = self.kl_logit_lens[:-1], self.kl_tuned_lens[:-1]
        n_better = sum(b < a for a, b in zip(before, after, strict=True))
        mean_before, mean_after = sum(before) / len(before), sum(after) / len(after)
        n_read = self.recipe.n_steps * self.recipe.batch_size * self.recipe.n_pos
        corpus = f" of {self.corpus}" if self.corpus else ""
        sketch = " That is a sketch from few tokens: train longer before you rely on it." if n_read < _FEW_TOKENS else ""
        return (
            f"Mean KL of the model's answer from the reading, over the layers before the last: {mean_before:.3f} nats for the logit "
            f"lens, {mean_after:.3f} for the tuned lens, which is lower at {n_better} of {len(before)}; at the last they are the same. "
            f"Trained {self.recipe.n_steps} steps on {n_read:,} tokens{corpus}, compared on {self.n_held_out:,} held out.{sketch}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe and the KL of both lenses."""
        return {"layers": [state_label(name) for name in self.names]} | asdict(self)

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return the KL of both lenses, layer by layer."""
        rows = zip(self.names, self.kl_logit_lens, self.kl_tuned_lens, strict=True)
        headers = ["layer", "logit lens, nats", "tuned lens, nats"]
        return headers, [[state_label(name), format_fixed(before, 4), format_fixed(after, 4)] for name, before, after in rows]

    def views(self) -> Sequence[RenderableType]:
        """Return a table of the layers."""
        from cutaway.report import filled_table

        headers, rows = self.table()
        return [filled_table(headers, rows, right=headers[1:])]

    def figures(self) -> Sequence[Figure]:
        """Return the KL of both lenses over the layers."""
        from cutaway.plots import lines

        places = [state_place(name) for name in self.names]
        series = {"logit lens": (places, self.kl_logit_lens), "tuned lens": (places, self.kl_tuned_lens)}
        title = "How far from the model's answer, on held-out text"
        return [lines(series, title=title, x_label="layer (the embedding is at -1)", y_label="KL(final || lens), nats")]


def train_translators(
    model: Transformer, loader: Loader, names: Sequence[str], recipe: LensRecipe, *, progress: LensProgress | None = None
) -> tuple[Float[Tensor, "layer d_model d_model"], Float[Tensor, "layer d_model"]]:
    """Return `A` and `b` of `x + A x + b` for each of these states of the residual stream, which minimise KL(final || lens).

    Each step is one run of the model; then each layer's logits come and go, so that memory holds those of one. A bias is learned in
    units of its state's usual size, which makes the steps the same whatever that is.
    """
    n_layers, d_model = len(names), model.config.d_model
    device, dtype = model.embed.W_E.device, torch.promote_types(model.embed.W_E.dtype, torch.float32)
    A = [torch.zeros(d_model, d_model, device=device, dtype=dtype, requires_grad=True) for _ in range(n_layers)]
    b = [torch.zeros(d_model, device=device, dtype=dtype, requires_grad=True) for _ in range(n_layers)]
    sizes: list[Tensor] = []
    rate = recipe.learning_rate * (1 - recipe.momentum)
    optimizer = torch.optim.SGD([*A, *b], lr=rate, momentum=recipe.momentum, nesterov=True)
    model = without_dropout(model)
    for step in range(recipe.n_steps):
        tokens, _ = loader.next_batch(device)
        states, final = _states(model, tokens, names)
        sizes = sizes or [_usual_size(state.to(dtype)) for state in states]
        optimizer.zero_grad()
        kl = _accumulate_gradients(model, states, final, A, b, sizes)
        for pair in zip(A, b, strict=True):
            torch.nn.utils.clip_grad_norm_(pair, recipe.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / recipe.n_steps)
        optimizer.step()
        if progress is not None:
            progress(step + 1, recipe.n_steps, kl)
    biases = [size * each.detach() for size, each in zip(sizes, b, strict=True)]
    return torch.stack([each.detach() for each in A]), torch.stack(biases)


def _states(
    model: Transformer, tokens: Int[Tensor, "batch pos"], names: Sequence[str]
) -> tuple[list[Float[Tensor, "row d_model"]], Float[Tensor, "row d_model"]]:
    """Return the states of one run, and the last of all, a row for each row and position."""
    end = f"blocks.{model.config.n_layers - 1}.resid_post"
    _, cache = run_with_cache(model, tokens, [*names, end], stop_after_layer=-1)
    *states, final = [rearrange(cache[name], "batch pos d_model -> (batch pos) d_model") for name in [*names, end]]
    return states, final


def _usual_size(state: Float[Tensor, "row d_model"]) -> Float[Tensor, ""]:
    """Return the root mean square of a state's coordinates at the median position: a few positions are huge."""
    return state.square().mean(-1).sqrt().median()


def _accumulate_gradients(
    model: Transformer,
    states: Sequence[Float[Tensor, "row d_model"]],
    final: Float[Tensor, "row d_model"],
    A: Sequence[Float[Tensor, "d_model d_model"]],
    b: Sequence[Float[Tensor, " d_model"]],
    sizes: Sequence[Float[Tensor, ""]],
) -> float:
    """Add to each translator the gradient of its mean KL in nats over the rows, and return the mean KL of all."""
    dtype, total = A[0].dtype, 0.0
    for rows in torch.arange(len(final), device=final.device).split(max(1, _LOGITS_AT_ONCE // model.config.d_vocab_out)):
        with torch.no_grad():
            answer = model.unembed(final[rows]).to(dtype).log_softmax(-1)
        for layer, state in enumerate(states):
            x = state[rows].to(dtype)
            with torch.enable_grad():
                translated = x + F.linear(x, A[layer], sizes[layer] * b[layer])
                log_probs = model.unembed(translated.to(state.dtype)).to(dtype).log_softmax(-1)
                kl = F.kl_div(log_probs, answer, log_target=True, reduction="sum") / len(final)
            pair = (A[layer], b[layer])
            for weight, gradient in zip(pair, torch.autograd.grad(kl, pair), strict=True):
                weight.grad = gradient if weight.grad is None else weight.grad + gradient
            total += kl.item()
    return total / len(states)
