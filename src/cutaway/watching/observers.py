"""What is inside a model while it learns: small numbers by name, read off the same tokens every time.

Three things are looked at, each once however many values are read off it, and always in the same way, so that a value does not depend
on what else is watched. Nothing is drawn at random but by a seed of its own; the model's mode, weights and gradients stay as they are.

- Random tokens that come twice: 16 sequences of twice 50 tokens, or of as many as a window holds; one forward pass, and the eigenvalues
  of every head's OV circuit. They give induction, previous_token, duplicate_token, first_token, copying and repetition.
- Held-out text: as many windows as are validated on, 4,096 tokens at most; one forward pass. It gives icl, attention_entropy and
  residual_norms.
- The logit lens on the 2,048 of these tokens: one more pass, and the unembedding once a layer. It gives logit_lens.

The norms of matrices, norms, cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.data import validation_batches
from cutaway.hooks import Hooks
from cutaway.interp.attention import entropy, head_label
from cutaway.interp.heads import HeadKind, HeadScores, detect_heads, repeated_tokens
from cutaway.interp.lens.states import mean_kl, state_names
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.training import WEIGHTS, Observer, Watchable
from cutaway.training.setup import Materials
from cutaway.views import without_dropout
from cutaway.watching.families import FAMILIES

__all__ = ["WATCHABLE", "TextReading", "read_text"]

_N_SEQUENCES = 16
_N_TEXT_TOKENS, _N_LENS_TOKENS = 4096, 2048
_N_TOKENS_AT_ONCE, _N_LOGITS_AT_ONCE = 2048, 2**24
_EARLY, _LATE, _OF = 50, 500, 512
"""Where Olsson et al. 2022 compare losses: at the 50th and the 500th of 512 tokens."""
_N_BANDS = 16
"""The loss of one token is noise: a sixteenth of the window is averaged over."""


# --- on random tokens that come twice


def _scorer(materials: Materials) -> Callable[[Transformer], HeadScores]:
    """Return what scores every head on sequences that a window of this run holds; raises ValueError where none can be drawn."""
    shape = materials.config.model.replace(n_ctx=materials.config.window)
    with torch.device("meta"):
        outline = LanguageModel(Transformer(shape), materials.tokenizer)
    seq_length = repeated_tokens(outline, n_sequences=1).seq_length

    def score(model: Transformer) -> HeadScores:
        return detect_heads(LanguageModel(model, materials.tokenizer), n_sequences=_N_SEQUENCES, seq_length=seq_length)

    return score


def _heads_of(kind: HeadKind) -> Callable[[HeadScores], dict[str, float]]:
    """Return what reads the scores of one kind, and the highest of them."""

    def read(scores: HeadScores) -> dict[str, float]:
        values = _by_head(scores.scores[kind])
        return values | {"best": max(values.values())}

    return read


def _by_head(values: Float[Tensor, "layer head"]) -> dict[str, float]:
    return {head_label(layer, head): value for layer, row in enumerate(values.tolist()) for head, value in enumerate(row)}


def _repetition(scores: HeadScores) -> dict[str, float]:
    first, second = scores.both_losses()
    return {"score": second - first, "first": first, "second": second}


# --- on held-out text


@dataclass(frozen=True)
class TextReading:
    """What one run over windows of text shows."""

    losses: Float[Tensor, " pos"]
    """The mean loss in nats after each position."""
    entropies: Float[Tensor, "layer head"]
    """The mean entropy in nats of what the queries attend to that see more than one token."""
    resid_norms: Float[Tensor, " state"]
    """The mean length of the residual stream that comes into the first layer and that leaves each."""


def read_text(
    model: Transformer, inputs: Int[Tensor, "batch pos"], targets: Int[Tensor, "batch pos"], *, batch_size: int
) -> TextReading:
    """Return the losses of `targets` by position, the entropies of all heads and the length of the stream after each layer."""
    n_layers, n_rows = model.config.n_layers, len(inputs)
    losses = torch.zeros(inputs.shape[1], dtype=torch.float64)  # sums are on the CPU, as not every device has float64
    entropies = torch.zeros(n_layers, model.config.n_heads, dtype=torch.float64)
    norms = torch.zeros(n_layers + 1, dtype=torch.float64)

    def add_entropy(pattern: Float[Tensor, "batch head q_pos k_pos"], name: str) -> None:
        entropies[int(name.split(".")[1])] += entropy(pattern)[..., 1:].mean(dim=-1).sum(dim=0).cpu()

    def add_norm(resid: Float[Tensor, "batch pos d_model"], name: str) -> None:
        place = 0 if name.endswith("resid_pre") else int(name.split(".")[1]) + 1
        norms[place] += resid.norm(dim=-1).mean(dim=-1).sum().cpu()

    looks: dict[str, Any] = {"blocks.*.attn.pattern": add_entropy, "blocks.0.resid_pre": add_norm, "blocks.*.resid_post": add_norm}
    hooks = Hooks(looks if n_layers else {})
    model = without_dropout(model)
    with torch.inference_mode():
        for rows, following in zip(inputs.split(batch_size), targets.split(batch_size), strict=True):
            logits = model(rows, hooks=hooks.new_run()).float()
            chosen = logits.gather(-1, following[..., None])[..., 0]  # batch pos
            losses += (logits.logsumexp(dim=-1) - chosen).sum(dim=0).cpu()
    return TextReading(losses / n_rows, entropies / n_rows, norms / n_rows)


def _held_out(materials: Materials, n_tokens: int) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Return windows of the validation text, spread over those that are validated on, and the token after each of theirs."""
    window, n_validated = materials.config.window, materials.config.n_validation_windows
    n_windows = max(1, n_tokens // window)
    return next(
        validation_batches(
            materials.validation_tokens, batch_size=n_windows, n_ctx=window, max_windows=min(n_windows, n_validated or n_windows)
        )
    )


def _reader(materials: Materials) -> Callable[[Transformer], TextReading]:
    inputs, targets = _held_out(materials, _N_TEXT_TOKENS)
    window, d_vocab = inputs.shape[1], materials.config.model.d_vocab_out
    batch_size = max(1, min(_N_TOKENS_AT_ONCE // window, _N_LOGITS_AT_ONCE // (window * d_vocab)))

    def read(model: Transformer) -> TextReading:
        device = model.embed.W_E.device
        return read_text(model, inputs.to(device), targets.to(device), batch_size=batch_size)

    return read


def _icl(reading: TextReading) -> dict[str, float]:
    """Return the losses early and late in the window, and their difference, as far into it as Olsson et al. 2022 look."""
    early, late = (_around(reading.losses, share / _OF) for share in (_EARLY, _LATE))
    return {"score": late - early, "early": early, "late": late}


def _around(losses: Float[Tensor, " pos"], share: float) -> float:
    n_band = max(1, len(losses) // _N_BANDS)
    start = min(max(round(share * len(losses)) - n_band // 2, 0), len(losses) - n_band)
    return losses[start : start + n_band].mean().item()


def _resid_norms(reading: TextReading) -> dict[str, float]:
    return dict(zip(_states(len(reading.resid_norms) - 1), reading.resid_norms.tolist(), strict=True))


def _states(n_layers: int) -> list[str]:
    """Return what the states of the stream are called: what comes into the first layer, and what leaves each."""
    return ["embed", *(f"L{layer}" for layer in range(n_layers))]


# --- by the logit lens


def _lens(materials: Materials) -> Callable[[Transformer], Mapping[str, float]]:
    inputs, _ = _held_out(materials, _N_LENS_TOKENS)

    def read(model: Transformer) -> dict[str, float]:
        names = state_names(model.config)[:-1]  # the last says what the model says
        divergences = mean_kl(model, inputs.to(model.embed.W_E.device), names).tolist()
        return dict(zip(_states(model.config.n_layers), divergences, strict=False))

    return read


# --- by name


@dataclass(frozen=True)
class _Group:
    """Values that are read off one look at the model: how the look is made ready for a run, and what each name reads of it."""

    prepare: Callable[[Materials], Callable[[Transformer], Any]]
    read: Mapping[str, Callable[[Any], Mapping[str, float]]]


_GROUPS: Mapping[str, _Group] = {
    "random tokens that come twice": _Group(
        _scorer,
        {
            "induction": _heads_of("induction"),
            "previous_token": _heads_of("previous"),
            "duplicate_token": _heads_of("duplicate"),
            "first_token": _heads_of("first"),
            "copying": _heads_of("copying"),
            "repetition": _repetition,
        },
    ),
    "held-out text": _Group(
        _reader,
        {
            "icl": _icl,
            "attention_entropy": lambda reading: _by_head(reading.entropies),
            "residual_norms": _resid_norms,
        },
    ),
    "the logit lens": _Group(_lens, {"logit_lens": lambda values: values}),
}

_WITHOUT_LAYERS = {"icl", "norms"}
_OF_TOKENS = {"copying", "repetition"}


def _make(names: Sequence[str], materials: Materials) -> dict[str, Observer]:
    """Return the observers of these names, those that look at one thing as one; raises ValueError for a model without it."""
    shape = materials.config.model
    if shape.n_layers == 0 and (wrong := [name for name in names if name not in _WITHOUT_LAYERS]):
        raise ValueError(f"a model without layers has no {', '.join(wrong)}: watch {' or '.join(sorted(_WITHOUT_LAYERS))} alone")
    if shape.d_vocab_out != shape.d_vocab and (wrong := [name for name in names if name in _OF_TOKENS]):
        raise ValueError(
            f"the model has {shape.d_vocab_out} logits for {shape.d_vocab} tokens, so it has no {' and no '.join(wrong)}: watch others"
        )
    observers: dict[str, Observer] = {}
    for what, group in _GROUPS.items():
        if readers := {name: read for name, read in group.read.items() if name in names}:
            observers[what] = _observer(group.prepare(materials), readers)
    return observers | dict(WEIGHTS.make([name for name in names if name in WEIGHTS.names], materials))


def _observer(look: Callable[[Transformer], Any], readers: Mapping[str, Callable[[Any], Mapping[str, float]]]) -> Observer:
    def observe(_step: int, model: Transformer) -> dict[str, float]:
        try:
            seen = look(model)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # weights that overflow; the next loss stops such a run
            return {}
        return {f"{name}.{label}": value for name, read in readers.items() for label, value in read(seen).items()}

    return observe


WATCHABLE = Watchable(tuple(FAMILIES), _make)
"""Everything that `cutaway.train` knows to watch."""
