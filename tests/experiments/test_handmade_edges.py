"""The edges of models made by hand are those listed: what one part writes is taken out of one input of another."""

from collections.abc import Callable, Mapping, Set
from functools import cache

import pytest
from torch import Tensor

from cutaway.experiments.handmade import HANDMADE, Edge, Handmade, Head, Neuron
from cutaway.hooks import Hook
from cutaway.interp.refactoring import ungroup_heads
from cutaway.model import Transformer
from handmade_runs import all_heads, built, logit_diff, recorded


def writes(made: Handmade, tokens: str = "tokens") -> dict[object, tuple[int, Tensor]]:
    """What each sender adds to the stream, "batch pos d_model", and the layer after which it is there; neurons but the known as one."""
    config, clean = made.model.config, recorded(made, tokens)
    sent: dict[object, tuple[int, Tensor]] = {"embed": (-1, clean["embed"])}
    if config.position == "learned":
        sent["pos_embed"] = (-1, clean["pos_embed"].expand_as(clean["embed"]))
    for head in all_heads(made):
        sent[head] = (head.layer, clean[f"blocks.{head.layer}.attn.result"][:, :, head.head])
    for layer, block in enumerate(made.model.blocks if config.d_mlp else ()):
        post = clean[f"blocks.{layer}.mlp.post"].clone()
        for unit in made.circuit.neurons:
            if unit.layer == layer:
                sent[unit] = (layer, post[:, :, [unit.index]] @ block.mlp.W_out.weight[:, [unit.index]].T)
                post[:, :, unit.index] = 0
        sent[f"other neurons of layer {layer}"] = (layer, post @ block.mlp.W_out.weight.T)
    return sent


@cache
def ungrouped(model: Transformer) -> Transformer:
    return ungroup_heads(model)


def without(made: Handmade, written: Tensor, receiver: Head, letter: str) -> dict[str, Hook]:
    """What takes out of one input of one head, in the model where each head has keys and values of its own."""
    attn, d_head = ungrouped(made.model).blocks[receiver.layer].attn, made.model.config.d_head
    weight = getattr(attn, f"W_{letter.upper()}").weight[receiver.head * d_head : (receiver.head + 1) * d_head]

    def take_out(x: Tensor, _name: str) -> Tensor:
        x = x.clone()
        x[:, :, receiver.head] -= written @ weight.T
        return x

    return {f"blocks.{receiver.layer}.attn.{letter}": take_out}


EXACT = [
    name for name in HANDMADE if not built(name).leak and built(name).model.config.n_heads * built(name).model.config.n_layers < 18
]

LARGE = ("induction, with decoys", "indirect object, grouped")


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in EXACT])
def test_edges_are_those_listed(name: str) -> None:
    """Without a norm an input is the sum of what was written, so each edge can be cut alone: it matters exactly if it is listed."""
    made = built(name)
    clean = logit_diff(made)

    def matters(hooks: Mapping[str, Hook]) -> bool:
        change = (logit_diff(made, hooks, model=ungrouped(made.model)) - clean).abs().max()
        assert change < 1e-10 or change > 1e-4, change  # nothing in between
        return bool(change > 1e-4)

    found = edges_that_matter(made, writes(made), matters)
    if made.model.config.position == "attention_only":  # positions reach queries and keys alone, and past the stream
        positions = recorded(made)["pos_embed"]
        for receiver in all_heads(made):
            found |= {Edge("pos_embed", receiver, x) for x in ("q", "k") if matters(without(made, positions, receiver, x))}
    assert found == made.circuit.edges


@pytest.mark.parametrize("name", EXACT)
def test_what_carries_is_what_differs(name: str) -> None:
    """With what the sender writes in the corrupted run in the place of what it writes in the clean one; other edges never matter."""
    made = built(name)
    clean, gap = logit_diff(made), logit_diff(made) - logit_diff(made, tokens=made.corrupted_tokens)

    def matters(hooks: Mapping[str, Hook]) -> bool:
        share = ((clean - logit_diff(made, hooks, model=ungrouped(made.model))) / gap).abs().mean()
        assert share < 0.02 or share > 0.2, share  # nothing in between
        return bool(share > 0.2)

    own, other = writes(made), writes(made, "corrupted_tokens")
    differing = {sender: (layer, written - other[sender][1]) for sender, (layer, written) in own.items()}
    assert edges_that_matter(made, differing, matters, among=made.circuit.edges) == made.carrying


def edges_that_matter(
    made: Handmade,
    written_by: Mapping[object, tuple[int, Tensor]],
    matters: Callable[[Mapping[str, Hook]], bool],
    *,
    among: Set[Edge] | None = None,
) -> set[Edge]:
    """Take from one input at a time what is written, layer by layer of who writes it, and return where that matters."""
    found: set[Edge] = set()
    W_U = made.model.unembed.W_U.weight
    for sender, (layer, written) in written_by.items():
        for receiver in all_heads(made):
            for letter in "qkv":
                is_tried = among is None or any(
                    (edge.sender, edge.receiver, edge.input) == (sender, receiver, letter) for edge in among
                )
                if is_tried and receiver.layer > layer and matters(without(made, written, receiver, letter)):
                    found.add(Edge(sender, receiver, letter))  # type: ignore[arg-type]
        for unit in made.circuit.neurons:
            weight = made.model.blocks[unit.layer].mlp.W_in.weight[unit.index]

            def lower(pre: Tensor, _name: str, unit: Neuron = unit, less: Tensor = written @ weight) -> Tensor:
                pre = pre.clone()
                pre[:, :, unit.index] -= less
                return pre

            is_before = layer < unit.layer or (isinstance(sender, Head) and layer == unit.layer)
            if is_before and matters({f"blocks.{unit.layer}.mlp.pre": lower}):
                found.add(Edge(sender, unit, "mlp"))  # type: ignore[arg-type]
        if matters({"logits": lambda logits, _name, less=written @ W_U.T: logits - less}):
            found.add(Edge(sender, "logits", "logits"))  # type: ignore[arg-type]
    return found


def test_edges_name_parts_of_the_circuit(made: Handmade) -> None:
    parts = {*made.circuit.heads, *made.circuit.neurons}
    assert {edge.sender for edge in made.circuit.edges} - {"embed", "pos_embed"} == parts
    assert {edge.receiver for edge in made.circuit.edges} - {"logits"} == parts
    assert all(isinstance(edge.sender, Head) and isinstance(edge.receiver, Head) for edge in made.circuit.head_edges())
