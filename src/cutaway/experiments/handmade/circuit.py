"""What is known about a model made by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from cutaway.model import Transformer
from cutaway.tokenizers import CharTokenizer

__all__ = ["Head", "Neuron", "Edge", "Circuit", "Handmade"]


class Head(NamedTuple):
    """An attention head; equal to the pair `(layer, head)`."""

    layer: int
    head: int


@dataclass(frozen=True, order=True)
class Neuron:
    """A unit of an MLP's hidden layer."""

    layer: int
    index: int


@dataclass(frozen=True)
class Edge:
    """What `sender` writes is read by one input of `receiver`, past everything between them."""

    sender: Head | Neuron | Literal["embed", "pos_embed"]
    receiver: Head | Neuron | Literal["logits"]
    input: Literal["q", "k", "v", "mlp", "logits"]


@dataclass(frozen=True, kw_only=True)
class Circuit:
    """Everything that a model's answer depends on: no other head, neuron or edge changes a logit difference."""

    heads: Mapping[Head, str]
    """The role of each head."""
    neurons: Mapping[Neuron, str]
    """The role of each neuron."""
    edges: frozenset[Edge]
    """Who reads whom by which input."""

    def head_edges(self) -> frozenset[Edge]:
        """Return the edges from one head to another."""
        return frozenset(edge for edge in self.edges if isinstance(edge.sender, Head) and isinstance(edge.receiver, Head))


@dataclass(frozen=True, kw_only=True)
class Handmade:
    """A model with its circuit, and prompts for it: row i of the corrupted ones is row i with another answer.

    The metric is `logit_diff`, at the last position. In a corrupted prompt the answer and the wrong answer have changed places, and
    everything that does not say which is which is drawn anew.
    """

    name: str
    model: Transformer = field(repr=False)
    tokenizer: CharTokenizer
    circuit: Circuit
    distractors: Mapping[Head, str]
    """The kinds of the heads outside the circuit."""
    tokens: Int[Tensor, "batch pos"]
    corrupted_tokens: Int[Tensor, "batch pos"]
    answers: Int[Tensor, " batch"]
    """The token that should follow each prompt; the wrong answer to the corrupted one."""
    wrong_answers: Int[Tensor, " batch"]
    """The token that should follow each corrupted prompt."""
    positions: Mapping[Head | Neuron, Int[Tensor, " batch"]]
    """Where in each prompt this head or neuron does its part: set to zero everywhere else, the answer stays."""
    corrupted_positions: Mapping[Head | Neuron, Int[Tensor, " batch"]]
    """Where it does its part in the corrupted prompt: a patch from one run into the other acts at both positions."""
    sources: Mapping[Head, Int[Tensor, " batch"]]
    """The position that each head of the circuit attends to from there."""
    attention: float
    """How much it attends to it at least, in a context as long as the model reads."""
    carrying: frozenset[Edge]
    """The edges of the circuit along which something comes that is another in the corrupted prompt, and changes the answer: those that
    a patch of one sender, as one input of one receiver reads it, can show."""
    leak: float
    """The most that all outside the circuit can change a logit difference; 0 without a norm, which ties everything together.

    It holds while no vector of the stream is over twice as long as the longest of the prompts.
    """

    def logit_diff(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, " batch"]:
        """Return the answer's logit less the wrong answer's, after the last token of each prompt."""
        rows, last = range(len(logits)), logits[:, -1]
        return last[rows, self.answers] - last[rows, self.wrong_answers]
