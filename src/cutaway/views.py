"""A model seen in evaluation mode, while the model itself stays in whatever mode its owner has it."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from cutaway.model import Transformer

__all__ = ["original", "without_dropout"]

_Module = TypeVar("_Module", bound=nn.Module)

_OF = "_view_of"  # among a view's attributes, where torch does not take it for a part


def without_dropout(model: Transformer) -> Transformer:
    """Return the model as it computes without dropout: itself where it has none, else a view of it in evaluation mode.

    A view's modules are its own and its parameters are the model's, the same tensors. So nothing is switched and switched back on a
    model that others use meanwhile: one that trains goes on training, and several callers do not meet. It costs a few attributes for
    each module.
    """
    if not model.config.dropout or _OF in vars(model):
        return model
    view = _in_evaluation_mode(model)
    vars(view)[_OF] = model
    return view


def original(model: Transformer) -> Transformer:
    """Return the model that a view is of; any other is its own."""
    found: Transformer = vars(model).get(_OF, model)
    return found


def _in_evaluation_mode(module: _Module) -> _Module:
    view: _Module = object.__new__(type(module))
    parts = {name: part and _in_evaluation_mode(part) for name, part in module._modules.items()}
    vars(view).update(vars(module) | {"training": False, "_modules": parts})
    vars(view).pop("_compiled_call_impl", None)  # what module.compile() leaves, which would call the module itself
    return view
