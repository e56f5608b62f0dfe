"""Two models on one text: how their predictions differ, and at which layer they part."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.evaluation.encoding import text_ids
from cutaway.hooks import Hooks, recording
from cutaway.language_model import LanguageModel
from cutaway.tokenizers import tokenizer_hash
from cutaway.views import without_dropout

__all__ = ["Comparison", "Position", "Difference", "compare", "relative_difference"]

_LOGITS_AT_ONCE = 2**22
"""Logits of each model held together in float64: 32 MiB."""

_ACTIVATIONS_AT_MOST = 256
"""Positions on which activations are compared: those of a block are held together, and patterns grow with the square."""


@dataclass(frozen=True)
class Position:
    """What both models predict after one token: losses in nats on the token that follows, KL(a || b), whether the likeliest agree."""

    token: str
    loss_a: float
    loss_b: float
    kl: float
    agrees: bool


@dataclass(frozen=True)
class Difference:
    """How far an activation of b is from a's: ||a - b|| / ||a||, over the positions compared."""

    name: str
    relative: float


@dataclass(frozen=True)
class Comparison:
    """Two models on the same tokens; losses and KL in nats.

    `layers` holds embed, pos_embed, every resid_post and the logits; `finer` all activations of the first part that differs by more
    than `tolerance`, in the order of the computation; both on the text's first `n_compared` positions, at most 256. Both are empty for
    models of different shapes, as `note` then says.
    """

    positions: list[Position]
    layers: list[Difference]
    finer: list[Difference]
    tolerance: float
    n_compared: int
    note: str | None = None

    @property
    def loss_difference(self) -> float:
        """The mean loss of b less that of a."""
        return math.fsum(position.loss_b - position.loss_a for position in self.positions) / len(self.positions)

    @property
    def kl(self) -> float:
        """The mean of KL(a || b) over positions."""
        return math.fsum(position.kl for position in self.positions) / len(self.positions)

    @property
    def agreement(self) -> float:
        """The share of positions at which the likeliest tokens are the same."""
        return sum(position.agrees for position in self.positions) / len(self.positions)

    @property
    def first_difference(self) -> str | None:
        """The name of the first activation that differs by more than the tolerance, None where there is none."""
        differing = (each.name for each in [*self.finer, *self.layers] if _exceeds(each.relative, self.tolerance))
        return next(differing, None)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, with the means, as values that JSON can hold."""
        means = {name: getattr(self, name) for name in ("loss_difference", "kl", "agreement", "first_difference")}
        return {**means, **asdict(self)}

    def __str__(self) -> str:
        lines = [
            f"{len(self.positions)} tokens predicted by both",
            f"  loss of b less a   {self.loss_difference:+.2e} nats a token",
            f"  KL(a || b)         {self.kl: .2e} nats a token, at most {max(position.kl for position in self.positions):.2e}",
            f"  top-1 agreement    {100 * self.agreement:9.2f} %",
        ]
        if self.note is not None:
            return "\n".join([*lines, f"  {self.note}"])
        lines.append(f"  activations are compared on the first {self.n_compared} positions")
        if self.first_difference is None:
            lines.append(f"  no activation differs by more than {self.tolerance:g} of its norm")
        else:
            lines.append(f"  the first activation to differ by more than {self.tolerance:g} of its norm is {self.first_difference}")
        width = max(len(each.name) for each in [*self.layers, *self.finer])
        lines += [f"    {each.name:<{width}}  {each.relative:.2e}" for each in self.layers]
        if self.finer:
            lines += ["  where they part:", *(f"    {each.name:<{width}}  {each.relative:.2e}" for each in self.finer)]
        return "\n".join(lines)


def compare(
    a: LanguageModel,
    b: LanguageModel,
    text: str | Int[Tensor, " pos"] | Sequence[int],
    *,
    bos: bool | None = None,
    tolerance: float = 1e-5,
) -> Comparison:
    """Return how two models with one tokenizer differ on a text, or on its ids, read in windows of the shorter `n_ctx`.

    Activations are compared on the first window, of which at most 256 positions. Differences are computed in float64, whatever the
    models' dtypes. Raises ValueError for different tokenizers or numbers of logits, models that do not predict the next token, and a
    text of fewer than two tokens.
    """
    _check(a, b)
    tokens = torch.tensor(text_ids(a, text, bos=bos))
    n_ctx = min(a.config.n_ctx, b.config.n_ctx)
    positions: list[Position] = []
    a, b = (replace(each, model=without_dropout(each.model)) for each in (a, b))
    with torch.inference_mode():
        for start in range(0, len(tokens) - 1, n_ctx):
            positions += _positions(a, b, tokens[start : start + n_ctx + 1])
        beginning = tokens[: min(n_ctx, _ACTIVATIONS_AT_MOST)]
        layers, finer, note = _where_they_part(a, b, beginning.unsqueeze(0), tolerance)
    return Comparison(positions, layers, finer, tolerance, len(beginning) if layers else 0, note)


def relative_difference(a: Float[Tensor, "..."], b: Float[Tensor, "..."]) -> float:
    """Return ||a - b|| / ||a|| in float64; what is equal, minus infinity too, differs by nothing, and any number from 0 by infinity."""
    a, b = a.cpu().double(), b.cpu().double()
    is_equal = a == b
    distance = torch.where(is_equal, 0.0, a - b).norm().item()
    size = torch.where(is_equal & a.isinf(), 0.0, a).norm().item()
    if distance == 0:
        return 0.0
    return distance / size if size else math.inf


def _check(a: LanguageModel, b: LanguageModel) -> None:
    if tokenizer_hash(a.tokenizer) != tokenizer_hash(b.tokenizer):
        raise ValueError(
            "the models have different tokenizers, so their tokens cannot be compared one by one: "
            "compare the perplexity per byte that `cutaway evaluate` gives of each"
        )
    if a.config.d_vocab_out != b.config.d_vocab_out:
        raise ValueError(
            f"the models have {a.config.d_vocab_out} and {b.config.d_vocab_out} logits: their predictions are not over the same tokens"
        )
    for which, lm in (("first", a), ("second", b)):
        if not lm.config.is_causal or lm.config.d_vocab_out != lm.config.d_vocab:
            raise ValueError(f"the {which} model does not predict the next token of its own vocabulary from those before it")


def _positions(a: LanguageModel, b: LanguageModel, tokens: Int[Tensor, " pos"]) -> Iterator[Position]:
    """Yield what both predict after every token of a window but the last."""
    resids = [lm.model.run_blocks(lm.model.embed(_on(lm, tokens[None, :-1])))[0] for lm in (a, b)]  # pos d_model each
    n_at_once = max(1, _LOGITS_AT_ONCE // a.config.d_vocab_out)
    for start in range(0, len(tokens) - 1, n_at_once):
        part = slice(start, start + n_at_once)
        following = tokens[1:][part].cpu()
        log_probs_a, log_probs_b = (
            lm.model.unembed(resid[part]).cpu().double().log_softmax(dim=-1) for lm, resid in zip((a, b), resids, strict=True)
        )
        place = torch.arange(len(following))
        is_same = log_probs_a.argmax(dim=-1) == log_probs_b.argmax(dim=-1)
        columns = [-log_probs_a[place, following], -log_probs_b[place, following], _kl(log_probs_a, log_probs_b), is_same]
        for token, *numbers in zip(following.tolist(), *(column.tolist() for column in columns), strict=True):
            yield Position(a.tokenizer.decode([token]), *numbers)


def _kl(log_probs_a: Float[Tensor, "pos d_vocab"], log_probs_b: Float[Tensor, "pos d_vocab"]) -> Float[Tensor, " pos"]:
    """Return sum_x p_a(x) (log p_a(x) - log p_b(x)); a token that a never gives adds nothing."""
    terms = log_probs_a.exp() * (log_probs_a - log_probs_b)
    return terms.masked_fill(log_probs_a.isneginf(), 0.0).sum(dim=-1)


def _where_they_part(
    a: LanguageModel, b: LanguageModel, tokens: Int[Tensor, "1 pos"], tolerance: float
) -> tuple[list[Difference], list[Difference], str | None]:
    """Compare the residual stream after every layer, then all activations of the first layer that differs."""
    shapes = [(lm.config.n_layers, lm.config.d_model) for lm in (a, b)]
    if shapes[0] != shapes[1]:
        said = " and ".join(f"{n_layers} layers of d_model {d_model}" for n_layers, d_model in shapes)
        return [], [], f"the models have {said}, so their activations are not compared"
    names_a, names_b = a.model.hook_names(), set(b.model.hook_names())
    names = [name for name in names_a if name in names_b]
    milestones = [name for name in names if name in ("embed", "pos_embed", "logits") or name.endswith(".resid_post")]
    layers = _differences(a, b, tokens, milestones)
    part = next((each.name for each in layers if _exceeds(each.relative, tolerance)), None)
    if part is None or part in ("embed", "pos_embed"):
        return layers, [], None
    prefix = "ln_final." if part == "logits" else part.removesuffix("resid_post")
    return layers, _differences(a, b, tokens, [name for name in names if name.startswith(prefix)]), None


def _differences(a: LanguageModel, b: LanguageModel, tokens: Tensor, names: list[str]) -> list[Difference]:
    """Compare these activations, a's order kept; those that have another shape in b are left out."""
    if not names:
        return []
    hooks_a, of_a = recording(*names)
    a.model(_on(a, tokens), hooks=hooks_a)
    found: dict[str, float] = {}

    def look(x: Tensor, name: str) -> None:
        if x.shape == of_a[name].shape:
            found[name] = relative_difference(of_a[name], x)

    b.model(_on(b, tokens), hooks=Hooks(dict.fromkeys(names, look)))
    return [Difference(name, found[name]) for name in names if name in found]


def _exceeds(relative: float, tolerance: float) -> bool:
    return not relative <= tolerance  # NaN too


def _on(lm: LanguageModel, tokens: Tensor) -> Tensor:
    return tokens.to(lm.model.embed.W_E.device)
