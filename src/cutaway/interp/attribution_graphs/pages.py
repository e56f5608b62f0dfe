"""Pages of what a graph's features stand for, in a folder for each layer, and the graph that leads to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from cutaway.interp.attribution_graphs.graph import AttributionGraph
from cutaway.interp.attribution_graphs.replacement import by_layer
from cutaway.interp.sae import Dictionary, FeaturePages, describe_features
from cutaway.interp.sae.folder import layer_folder
from cutaway.interp.sae.pages import page_name
from cutaway.language_model import LanguageModel

__all__ = ["describe_strongest", "find_pages", "write_pages"]


def find_pages(graph: AttributionGraph, folder: Path | str) -> AttributionGraph:
    """Return the graph with the pages that are there for its features, in `layer-00` and so on, or in the folder itself.

    The folder itself is that of a graph with one transcoder. Raises ValueError where no feature has a page.
    """
    folder, found = Path(folder), dict[tuple[int, int], Path]()
    for layer, number in {(layer, number) for layer, _, number in graph.features.tolist()}:
        places = [layer_folder(folder, layer), *([folder] if len(graph.transcoders) == 1 else [])]
        if pages := [page for each in places if (page := each / page_name(number)).is_file()]:
            found[layer, number] = pages[0]
    if not found:
        raise ValueError(
            f"{folder} has no page of any feature of the graph: expected {layer_folder(folder, min(graph.transcoders))} and so on, as "
            "`cutaway interpret sae pages --out` writes each"
        )
    return replace(graph, pages=found)


def describe_strongest(
    lm: LanguageModel,
    graph: AttributionGraph,
    transcoders: Sequence[Dictionary],
    tokens: Int[Tensor, "window pos"],
    *,
    n_features: int = 25,
    first: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[int, FeaturePages]:
    """Return what is to be said of the features with most influence, by layer, from windows of tokens.

    What transcoders are refused for is as in `attribute`.
    """
    strongest = {(layer, number) for layer, _, number in graph.features[graph.strongest_features(n_features)].tolist()}
    dictionaries = by_layer(lm.model, transcoders, model_sha256=graph.model_sha256)
    layers, found = sorted({layer for layer, _ in strongest}), {}
    for place, layer in enumerate(layers):
        numbers = sorted(number for each, number in strongest if each == layer)
        found[layer] = describe_features(lm, dictionaries[layer], tokens, numbers, first=first)
        if progress is not None:
            progress(place + 1, len(layers))
    return found


def write_pages(graph: AttributionGraph, described: Mapping[int, FeaturePages], folder: Path | str) -> AttributionGraph:
    """Write pages of features, in a folder for each layer, and return the graph that leads to them."""
    for layer, each in described.items():
        each.write(layer_folder(Path(folder), layer), settings={"prompt": graph.prompt})
    return find_pages(graph, folder)
