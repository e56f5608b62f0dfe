"""Transformers built by hand, so that their circuit is known exactly: what methods that look for circuits are tried on.

Each function returns a `Handmade`: a real `Transformer` in float64, prompts that it answers, corrupted prompts that it answers
otherwise, and the circuit that does it. All other heads and neurons are active, change from prompt to prompt, and are nothing to the
answer. The stream's directions, and those inside each head, are turned at random: no zero of the weights shows what belongs to what.
"""

from collections.abc import Callable, Mapping
from functools import partial

from cutaway.experiments.handmade.circuit import Circuit, Edge, Handmade, Head, Neuron
from cutaway.experiments.handmade.duplicates import copying, indirect_object
from cutaway.experiments.handmade.induction import induction
from cutaway.experiments.handmade.neuron import neuron

__all__ = [
    "HANDMADE",
    "Circuit",
    "Edge",
    "Handmade",
    "Head",
    "Neuron",
    "induction",
    "copying",
    "indirect_object",
    "neuron",
]

HANDMADE: Mapping[str, Callable[..., Handmade]] = {
    "induction": induction,
    "induction, 3 layers of 6 heads": partial(induction, n_layers=3, n_heads=6, seed=1),
    "induction, with an MLP": partial(induction, d_mlp=24, seed=2),
    "induction, learned positions": partial(induction, position="learned", seed=3),
    "induction, RMSNorm": partial(induction, norm="rmsnorm", seed=4),
    "induction, LayerNorm and MLP": partial(induction, norm="layernorm", d_mlp=24, seed=5),
    "induction, with decoys": partial(induction, n_heads=6, distractors=("previous", "duplicate", "uniform", "fixed"), seed=6),
    "copying": copying,
    "indirect object": indirect_object,
    "neuron": neuron,
    "induction, rotary": partial(induction, position="rotary", seed=7),
    "induction, grouped": partial(induction, n_kv_heads=2, seed=8),
    "induction, rotary, grouped, RMSNorm": partial(induction, position="rotary", norm="rmsnorm", n_kv_heads=2, seed=9),
    "indirect object, grouped": partial(indirect_object, n_kv_heads=2, seed=10),
}
"""The models by name, each made with `HANDMADE[name]()`."""
