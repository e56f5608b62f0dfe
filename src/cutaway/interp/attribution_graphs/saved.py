"""A whole graph in a folder: `graph.json` says what it is of, `graph.safetensors` holds its numbers."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from cutaway import runtime
from cutaway.interp.attribution_graphs.changes import check_model
from cutaway.interp.attribution_graphs.graph import AttributionGraph
from cutaway.interp.attribution_graphs.replacement import Frozen
from cutaway.interp.rows import model_of
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.runtime import atomic_path, atomic_write
from cutaway.weights import model_sha256, save_tensors, stream_tensors

__all__ = ["DESCRIPTION", "save_graph", "load_graph", "name_of_model", "check_folder"]

DESCRIPTION = "graph.json"
"""The file that says what a folder's graph is of."""
_TENSORS = "graph.safetensors"
_NUMBERS = ("features", "activations", "errors", "probs", "edges", "biases", "left_out", "values")
_LISTS = ("tokens", "words", "logits", "logit_words")


def save_graph(graph: AttributionGraph, folder: Path | str) -> Path:
    """Write a graph into a folder of its own and return that; raises ValueError for a folder that holds anything else.

    Pages that it leads to are not remembered.
    """
    folder = Path(folder)
    check_folder(folder)
    plain = {each.name: getattr(graph, each.name) for each in fields(graph) if each.name not in (*_NUMBERS, "pages")}
    plain["transcoders"] = {str(layer): name for layer, name in graph.transcoders.items()}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / _TENSORS) as temporary:
        save_tensors({name: getattr(graph, name).cpu().contiguous() for name in _NUMBERS}, temporary)
    atomic_write(folder / DESCRIPTION, json.dumps(plain, indent=2, ensure_ascii=False))
    return folder


def load_graph(folder: Path | str, lm: LanguageModel | Transformer) -> AttributionGraph:
    """Read a graph of this model; raises ValueError for one of another model, and for a folder that holds none or a damaged one."""
    folder, model = Path(folder), model_of(lm)
    values = _description(folder)
    tensors = {name: tensor.to(model.embed.W_E.device) for name, tensor in _tensors(folder / _TENSORS)}
    if unlike := sorted({*_NUMBERS} ^ tensors.keys()):
        raise ValueError(f"{folder / _TENSORS} holds other tensors than those of a graph ({unlike[0]}): make the graph again")
    try:
        values |= {name: tuple(values[name]) for name in _LISTS}
        values["folders"] = tuple(map(str, values.get("folders", ())))
        values["transcoders"] = {int(layer): str(name) for layer, name in values["transcoders"].items()}
        _check_values(values)
        graph = AttributionGraph(**(values | tensors))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        said = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{folder / DESCRIPTION} describes no graph that is read here ({said}): make the graph again") from None
    check_model(graph, model_sha256(model))
    _check_shapes(graph, folder / _TENSORS)
    return graph


def name_of_model(folder: Path | str) -> str | None:
    """Return what a saved graph's model is called, None where it does not say; raises ValueError for a folder that holds no graph."""
    return str(_description(Path(folder)).get("model") or "") or None


def _description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    made_by = "`cutaway interpret graph MODEL --text TEXT --save FOLDER` makes one"
    runtime.check_holds(folder, DESCRIPTION, "no saved graph", made_by=made_by)
    try:
        return {**json.loads(path.read_text(encoding="utf-8"))}
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: it is not JSON (line {error.lineno}); make the graph again") from None
    except (ValueError, TypeError):
        raise ValueError(f"{path} describes no graph: expected a JSON object in UTF-8; make the graph again") from None


def _tensors(path: Path) -> list[tuple[str, Tensor]]:
    """Return a graph's numbers by name; raises ValueError for a file that is not there, or damaged."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: bring it back, or make the graph again")
    try:
        return list(stream_tensors(path))
    except ValueError:
        raise ValueError(f"{path} is damaged: it is no whole file of tensors; make the graph again") from None


def _check_values(values: dict[str, Any]) -> None:
    """Raise ValueError for settings that no graph has; KeyError and TypeError for those that are missing, or of another kind."""
    if values.get("frozen", "both") not in get_args(Frozen):
        raise ValueError(f"frozen is {values['frozen']!r}; expected one of {', '.join(get_args(Frozen))}")
    for name in ("node_threshold", "edge_threshold"):
        if not 0 <= values.get(name, 0) <= 1:
            raise ValueError(f"{name} is {values[name]}; expected a share, 0 to 1")
    for name in ("tokens", "logits"):
        if not values[name] or not all(isinstance(each, int) for each in values[name]):
            raise ValueError(f"{name} are {list(values[name])[:3]}; expected ids of tokens")
    if len(values["words"]) != len(values["tokens"]) or len(values["logit_words"]) != len(values["logits"]):
        raise ValueError("tokens and logits have not each a word")
    if not 0 <= values["pos"] < len(values["tokens"]):
        raise ValueError(f"pos is {values['pos']} and there are {len(values['tokens'])} tokens")


def check_folder(folder: Path) -> None:
    """Raise ValueError for a folder that a graph is not to be written into: a file, or one that holds other things."""
    runtime.check_folder(folder, "the graph", {DESCRIPTION, _TENSORS})


def _check_shapes(graph: AttributionGraph, path: Path) -> None:
    n_targets, n_sources = len(graph.features) + len(graph.logits), len(graph.features) + len(graph.errors) + len(graph.tokens)
    expected: dict[str, tuple[int, ...]] = {
        "features": (len(graph.features), 3),
        "activations": (len(graph.features),),
        "errors": (graph.n_layers * len(graph.tokens), 2),
        "probs": (len(graph.logits),),
        "edges": (n_targets, n_sources),
        **dict.fromkeys(("biases", "left_out", "values"), (n_targets,)),
    }
    for name, shape in expected.items():
        tensor: Tensor = getattr(graph, name)
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{path}: the shape of {name} is {tuple(tensor.shape)}; expected {shape}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{path}: {name} holds numbers that are not finite")
    for name, places, bounds in (
        ("features", graph.features[:, :2], (graph.n_layers, len(graph.tokens))),
        ("errors", graph.errors, (graph.n_layers, len(graph.tokens))),
    ):
        if bool((places < 0).any()) or bool((places >= torch.tensor(bounds, device=places.device)).any()):
            raise ValueError(f"{path}: {name} stand where the graph has no layer or position")
