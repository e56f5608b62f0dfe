"""cutaway: a GPT you can see inside."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cutaway import experiments
    from cutaway.config import ModelConfig
    from cutaway.evaluation import compare
    from cutaway.hooks import Hooks
    from cutaway.interp import (
        ablation,
        attention,
        attribution,
        attribution_graphs,
        circuits,
        composition,
        edits,
        factored,
        heads,
        lens,
        metrics,
        patching,
        path_patching,
        probing,
        refactoring,
        residual,
        sae,
        steering,
        store,
        tracing,
    )
    from cutaway.interp.cache import ActivationCache, cache_gib
    from cutaway.interp.editing import run_with_edits
    from cutaway.interp.edits import Edit
    from cutaway.interp.generating import generate_with_edits
    from cutaway.interp.running import gradients, means, run_with_cache, run_with_hooks
    from cutaway.interp.sweep import plan_sweep, sweep
    from cutaway.language_model import LanguageModel, load
    from cutaway.model import Transformer
    from cutaway.ranks import shared_work
    from cutaway.training import TrainConfig
    from cutaway.watching.run import train

    __version__: str

# Every name comes from its module when it is first used (PEP 562): `cutaway --help` waits for no torch.
_HOMES = {
    "ModelConfig": "cutaway.config",
    "Transformer": "cutaway.model",
    "LanguageModel": "cutaway.language_model",
    "Hooks": "cutaway.hooks",
    "load": "cutaway.language_model",
    "compare": "cutaway.evaluation",
    "TrainConfig": "cutaway.training",
    "train": "cutaway.watching.run",
    "ActivationCache": "cutaway.interp.cache",
    "cache_gib": "cutaway.interp.cache",
    "generate_with_edits": "cutaway.interp.generating",
    "Edit": "cutaway.interp.edits",
    "run_with_cache": "cutaway.interp.running",
    "run_with_hooks": "cutaway.interp.running",
    "run_with_edits": "cutaway.interp.editing",
    "means": "cutaway.interp.running",
    "gradients": "cutaway.interp.running",
    "sweep": "cutaway.interp.sweep",
    "plan_sweep": "cutaway.interp.sweep",
    "shared_work": "cutaway.ranks",
}
_MODULES = (
    "edits", "metrics", "residual", "attention", "heads", "composition", "circuits", "refactoring", "lens", "ablation", "factored",
    "patching", "tracing", "path_patching", "attribution", "store", "probing", "steering", "sae", "attribution_graphs",
)  # fmt: skip

__all__ = [
    "ModelConfig", "Transformer", "LanguageModel", "Hooks", "load", "compare", "TrainConfig", "train",
    "ActivationCache", "cache_gib", "Edit", "run_with_cache", "run_with_hooks", "run_with_edits", "generate_with_edits",
    "means", "gradients", "shared_work",
    "sweep", "plan_sweep", "edits", "metrics", "residual", "attention", "heads", "composition", "circuits", "refactoring", "lens",
    "ablation", "factored", "patching", "tracing", "path_patching", "attribution", "store", "probing", "steering", "sae",
    "attribution_graphs", "experiments",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("cutaway")
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    elif name == "experiments":
        value = import_module("cutaway.experiments")
    elif name in _MODULES:
        value = import_module(f"cutaway.interp.{name}")
    else:
        raise AttributeError(f"module 'cutaway' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
