"""cutaway: a GPT you can see inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cutaway.config import ModelConfig
    from cutaway.evaluation import compare
    from cutaway.hooks import Hooks
    from cutaway.language_model import LanguageModel, load
    from cutaway.model import Transformer
    from cutaway.training import TrainConfig, train

    __version__: str

__all__ = ["ModelConfig", "Transformer", "LanguageModel", "Hooks", "load", "compare", "TrainConfig", "train"]

# Every name comes from its module when it is first used (PEP 562): `cutaway --help` waits for no torch.
_HOMES = {
    "ModelConfig": "cutaway.config",
    "Transformer": "cutaway.model",
    "LanguageModel": "cutaway.language_model",
    "Hooks": "cutaway.hooks",
    "load": "cutaway.language_model",
    "compare": "cutaway.evaluation",
    "TrainConfig": "cutaway.training",
    "train": "cutaway.training",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("cutaway")
    elif name in _HOMES:
        from importlib import import_module

        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'cutaway' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
