"""Every head scored in one run, its patterns reduced to a few sums as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.hooks import Hooks
from cutaway.interp.attention import entropy
from cutaway.interp.factored import copying_scores
from cutaway.interp.heads.repeated_tokens import RepeatedTokens, repeated_tokens
from cutaway.interp.heads.scores import THRESHOLD, HeadKind, HeadScores
from cutaway.interp.rows import model_of
from cutaway.interp.sites import check_layers
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.views import without_dropout

__all__ = ["detect_heads"]


def detect_heads(
    lm: LanguageModel | Transformer,
    *,
    n_sequences: int = 16,
    seq_length: int | None = None,
    seed: int = 0,
    threshold: float = THRESHOLD,
    bos: bool | None = None,
    batch_size: int = 8,
) -> HeadScores:
    """Score every head for what heads are known to do, in one run over `n_sequences` of random tokens that come twice.

    Each sequence is `seq_length` tokens drawn without replacement, and the same once more; by default 50, or as many as the model's
    context and tokenizer have room for. Special tokens are never drawn; `bos` is as in `lm.tokens`. Scores are means over queries:

    - previous, first: attention to the position before, to the first one; of queries from the third position on.
    - duplicate: attention of each token of the second copy to its earlier occurrence.
    - induction: attention of each token of the second copy to the position after its earlier occurrence: prefix matching.
    - uniform: how many tokens are attended to in effect, exp(entropy), as a share of those that are seen.
    - copying: eigenvalues of the full OV circuit, as in `factored.copying_scores`; no tokens are needed for it.

    Patterns are reduced to these numbers layer by layer and never kept. Raises ValueError for lengths that do not fit,
    and for a model without layers.
    Source: Olsson et al. 2022, "Prefix matching"; they leave out common and rare tokens, and repeat 25 four times.
    """
    model = without_dropout(model_of(lm))
    check_layers(model.config)
    drawn = repeated_tokens(lm, n_sequences=n_sequences, seq_length=seq_length, seed=seed, bos=bos)
    counter = _Counter(model, drawn)
    with torch.inference_mode():
        for tokens in drawn.tokens.split(batch_size):
            counter.run(tokens)
    scores = counter.scores()
    nulls: dict[HeadKind, float] = counter.nulls()
    if model.config.d_vocab_out == model.config.d_vocab:
        scores["copying"], nulls["copying"] = copying_scores(model).to(scores["induction"]), 0.0
    kinds: tuple[HeadKind, ...] = get_args(HeadKind)
    return HeadScores(
        scores={kind: scores[kind] for kind in kinds if kind in scores},
        nulls={kind: nulls[kind] for kind in kinds if kind in nulls},
        losses=counter.mean_losses(),
        drawn=drawn,
        threshold=threshold,
    )


class _Counter:
    """Sums over sequences of what each head gives to the keys that count."""

    def __init__(self, model: Transformer, drawn: RepeatedTokens) -> None:
        config = model.config
        self.model, self.drawn = model, drawn
        n_pos, device = drawn.tokens.shape[1], drawn.tokens.device
        self.sums: dict[HeadKind, Tensor] = {
            kind: torch.zeros(config.n_layers, config.n_heads, dtype=torch.float64, device=device) for kind in _READ
        }
        self.n_keys = torch.full((n_pos,), n_pos, dtype=torch.float64, device=device)
        if config.is_causal:
            self.n_keys = torch.arange(1, n_pos + 1, dtype=torch.float64, device=device)
        foretells = config.is_causal and config.d_vocab_out == config.d_vocab
        self.losses = torch.zeros(n_pos - 1, dtype=torch.float64, device=device) if foretells else None

    def run(self, tokens: Int[Tensor, "batch pos"]) -> None:
        """Add the sequences of one batch."""
        logits = self.model(tokens, hooks=Hooks({"blocks.*.attn.pattern": self._count}))
        if self.losses is not None:
            following = logits[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]  # batch pos
            self.losses += (logits[:, :-1].logsumexp(dim=-1) - following).double().sum(dim=0)

    def _count(self, pattern: Float[Tensor, "batch head q_pos k_pos"], name: str) -> None:
        layer = int(name.split(".")[1])
        for kind, read in _READ.items():
            of_queries = read(pattern, self.drawn, self.n_keys)  # batch head query
            self.sums[kind][layer] += of_queries.double().mean(dim=-1).sum(dim=0)

    def scores(self) -> dict[HeadKind, Float[Tensor, "layer head"]]:
        """Return the means over sequences."""
        return {kind: total / len(self.drawn.tokens) for kind, total in self.sums.items()}

    def mean_losses(self) -> Float[Tensor, " pos"] | None:
        """Return the mean loss after each position."""
        return None if self.losses is None else self.losses / len(self.drawn.tokens)

    def nulls(self) -> dict[HeadKind, float]:
        """Return what uniform attention scores, read from its pattern; for uniform, what attention to one token scores."""
        n_pos = len(self.n_keys)
        seen = torch.ones(n_pos, n_pos, dtype=torch.float64, device=self.n_keys.device)
        uniform = (seen.tril() if self.model.config.is_causal else seen) / self.n_keys[:, None]
        one = torch.eye(n_pos, dtype=torch.float64, device=self.n_keys.device)
        patterns = {kind: one if kind == "uniform" else uniform for kind in _READ}
        return {kind: read(patterns[kind][None, None], self.drawn, self.n_keys).mean().item() for kind, read in _READ.items()}


_Read = Callable[
    [Float[Tensor, "batch head q_pos k_pos"], RepeatedTokens, Float[Tensor, " q_pos"]], Float[Tensor, "batch head query"]
]
"""What a kind reads of a pattern, of the queries that count, given how many keys each query sees."""

_SECOND = 2  # the first query whose position before is not the first position


def _back(pattern: Tensor, distance: int, start: int) -> Tensor:
    """Return what each query from `start` on gives to the key `distance` before it."""
    return pattern.diagonal(offset=-distance, dim1=-2, dim2=-1)[..., start - distance :]


_READ: Mapping[HeadKind, _Read] = {
    "previous": lambda pattern, _drawn, _n_keys: _back(pattern, 1, _SECOND),
    "first": lambda pattern, _drawn, _n_keys: pattern[..., _SECOND:, 0],
    "duplicate": lambda pattern, drawn, _n_keys: _back(pattern, drawn.seq_length, drawn.start + drawn.seq_length),
    "induction": lambda pattern, drawn, _n_keys: _back(pattern, drawn.seq_length - 1, drawn.start + drawn.seq_length),
    "uniform": lambda pattern, _drawn, n_keys: (entropy(pattern) - n_keys.log()).exp()[..., 1:],
}
