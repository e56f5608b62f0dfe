"""The verbs of the command, and which of them have verbs of their own."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

__all__ = ["VERBS", "NESTED", "package_of"]

VERBS: dict[str, dict[str, str]] = {
    "Start": {
        "demo": "train a small GPT on Shakespeare in minutes, see it learn",
    },
    "Make": {
        "train": "a model from a preset, or go on with a run",
        "generate": "text from a run, a pretrained model or random weights",
    },
    "Look": {
        "inspect": "a run or a model: configuration, parameters, loss, checkpoints",
        "evaluate": "perplexity, HellaSwag, LAMBADA; where two models part",
        "interpret": "what happens inside: attention, heads, circuits, patching",
        "reproduce": "published results, trained and measured here, each with checks",
    },
    "Set up": {
        "download": "models, vocabularies, corpora: list, fetch, verify",
        "bench": "how fast this is here, beside other programs and the limits",
        "doctor": "what this machine has: versions, device, memory, sources, compiler",
    },
}
"""The verbs by group, in the order in which they are shown. `cutaway NAME` calls the function NAME of cutaway.cli.NAME."""

NESTED = ("interpret", "interpret circuit", "interpret sae")
"""The verbs that have verbs of their own, which their package lists: that of `interpret circuit` is cutaway.cli.interpret.circuit."""


def package_of(verb: str) -> ModuleType:
    """Return the package that lists the verbs of one that has verbs of its own, `interpret circuit`."""
    return import_module(".".join(["cutaway.cli", *verb.replace("-", "_").split()]))
