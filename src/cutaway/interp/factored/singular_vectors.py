"""The singular vectors of a head's circuits, read through the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.factored.circuits import ov_circuit, qk_circuit
from cutaway.interp.factored.weights import W_E, W_U, read_through
from cutaway.interp.result import Result
from cutaway.model import Transformer
from cutaway.report import table, token_label
from cutaway.tokenizers import Tokenizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["Circuit", "TokenScore", "SingularPair", "SingularVectors", "singular_vectors"]

Circuit = Literal["ov", "qk"]
"""What a head moves, or where it looks."""

_SIDES: dict[Circuit, tuple[str, str]] = {"ov": ("reads", "writes"), "qk": ("at (query)", "looks for (key)")}


@dataclass(frozen=True)
class TokenScore:
    """A token and its product with a vector: of its embedding, or for what OV writes its logit."""

    token_id: int
    token: str
    score: float


@dataclass(frozen=True)
class SingularPair:
    """One end of a pair of singular vectors: what makes the left one positive makes the right one positive.

    `sign` -1 is the other end of the same pair, both vectors turned round.
    """

    number: int
    sign: Literal[1, -1]
    singular_value: float
    left: tuple[TokenScore, ...]
    right: tuple[TokenScore, ...]


@dataclass(frozen=True, eq=False, repr=False)
class SingularVectors(Result):
    """What the strongest directions of a head's circuit are in words."""

    title: ClassVar[str] = "Singular vectors of a head"
    source: ClassVar[str] = (
        "Millidge & Black 2022, The Singular Value Decompositions of Transformer Weight Matrices are Highly Interpretable"
    )

    layer: int
    head: int
    circuit: Circuit
    offset: int | None
    singular_values: Float[Tensor, " rank"]
    pairs: tuple[SingularPair, ...]

    def summary(self) -> str:
        """Return how much of the circuit the strongest pairs hold, and the first of them."""
        power = self.singular_values.square()
        n_read = len(self.pairs) // 2
        share = power[:n_read].sum() / power.sum().clamp(min=torch.finfo(power.dtype).tiny)
        first = self.pairs[0]
        left, right = _SIDES[self.circuit]
        return (
            f"{n_read} of {len(power)} pairs of singular vectors hold {100 * share:.0f} % of the squared norm of the "
            f"{self.circuit.upper()} circuit of L{self.layer}H{self.head}. "
            f"The strongest {left} {_words(first.left[:3])} and {right} {_words(first.right[:3])}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the singular values and the tokens at both ends of every pair."""
        return {
            "layer": self.layer,
            "head": self.head,
            "circuit": self.circuit,
            "offset": self.offset,
            "singular_values": self.singular_values.tolist(),
            "pairs": [asdict(pair) for pair in self.pairs],
        }

    def figures(self) -> list[Figure]:
        """Return the singular values, and for both sides the tokens of every vector."""
        from cutaway.plots import lines, token_grid

        name = f"{self.circuit.upper()} of L{self.layer}H{self.head}"
        strengths = self.singular_values.tolist()
        values = lines(
            {name: (range(len(strengths)), strengths)},
            title=f"Singular values: {name}",
            x_label="vector",
            y_label="singular value",
        )
        sides = []
        for side, verb in zip(("left", "right"), _SIDES[self.circuit], strict=True):
            scores = [getattr(pair, side) for pair in self.pairs]
            sides.append(
                token_grid(
                    [[token_label(each.token) for each in row] for row in scores],
                    torch.tensor([[each.score for each in row] for row in scores]).numpy(),
                    rows=[_number(pair) for pair in self.pairs],
                    columns=[str(rank + 1) for rank in range(len(scores[0]))],
                    title=f"{name} {verb}",
                    label="score",
                    signed=True,
                )
            )
        return [values, *sides]

    def views(self) -> list[RenderableType]:
        """Return one row for each end of each pair."""
        (number, value, *sides), rows = self.table()
        view = table(number, value, *sides, right=(value,))
        for row in rows:
            view.add_row(*row)
        return [view]

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return one row for each end of each pair: number, singular value, tokens of both sides."""
        rows = [
            (_number(pair), f"{pair.singular_value:.3f}" if pair.sign > 0 else "", _words(pair.left), _words(pair.right))
            for pair in self.pairs
        ]
        return ("vector", "value", *_SIDES[self.circuit]), rows


@torch.no_grad()
def singular_vectors(
    model: Transformer,
    layer: int,
    head: int,
    *,
    circuit: Circuit = "ov",
    offset: int | None = None,
    n_vectors: int = 5,
    n_tokens: int = 6,
    tokenizer: Tokenizer | None = None,
) -> SingularVectors:
    """Return the tokens along the strongest singular vectors of a head's OV or QK circuit, at both ends of each.

    The linear parts of the norms are in the circuit. The vectors that read the stream (OV's left ones, both of QK) are multiplied with
    the embeddings, those that write to it (OV's right ones) with the unembedding behind ln_final's linear part. Singular vectors have
    no sign of their own: at end +1 the right side has its largest score. `offset` (q_pos - k_pos) is for the QK circuits of rotary
    models. Without a tokenizer tokens are named by their ids. Raises ValueError for a layer or head that is not there.
    Source: Millidge & Black 2022.
    """
    if circuit not in _SIDES:
        raise ValueError(f"there is no circuit {circuit!r}; give 'ov' or 'qk'")
    if n_vectors < 1 or n_tokens < 1:
        raise ValueError(f"{n_vectors} vectors of {n_tokens} tokens were asked for; ask for at least 1 of each")
    reads, writes = W_E(model), W_E(model)  # d_vocab d_model
    if circuit == "ov":
        matrix = ov_circuit(model, layer, head, with_norm=True)
        writes = read_through(model.unembed.ln_final, W_U(model)).T
    else:
        matrix = qk_circuit(model, layer, head, offset=offset, with_norm=True)
    U, S, Vh = matrix.svd()
    n_vectors = min(n_vectors, len(S))
    left, right = reads.to(U.dtype) @ U[:, :n_vectors], writes.to(U.dtype) @ Vh[:n_vectors].T  # d_vocab vector each
    turn = torch.where(right.amax(0) < -right.amin(0), -1.0, 1.0)
    left, right = left * turn, right * turn
    pairs = tuple(
        SingularPair(
            number,
            sign,
            S[number].item(),
            _top(sign * left[:, number], n_tokens, sign, tokenizer),
            _top(sign * right[:, number], n_tokens, sign, tokenizer),
        )
        for number in range(n_vectors)
        for sign in (1, -1)
    )
    at_offset = offset if circuit == "qk" and model.rotary is not None else None
    return SingularVectors(layer % model.config.n_layers, head % model.config.n_heads, circuit, at_offset, S, pairs)


def _top(scores: Float[Tensor, " d_vocab"], n_tokens: int, sign: int, tokenizer: Tokenizer | None) -> tuple[TokenScore, ...]:
    """Return the tokens with the highest scores, whose scores are given with the sign that they had."""
    best = scores.topk(min(n_tokens, len(scores)))
    ids = best.indices.tolist()
    unused = set() if tokenizer is None else {*tokenizer.unused_ids, *(i for i in ids if i >= tokenizer.d_vocab)}
    texts = [str(i) if tokenizer is None or i in unused else tokenizer.decode([i]) for i in ids]
    return tuple(TokenScore(i, text, sign * score) for i, text, score in zip(ids, texts, best.values.tolist(), strict=True))


def _words(tokens: Sequence[TokenScore]) -> str:
    return " ".join(token_label(each.token) for each in tokens)


def _number(pair: SingularPair) -> str:
    return f"{pair.number}{'+' if pair.sign > 0 else '-'}"
