"""A graph as the JSON file that circuit-tracer's viewer shows, and Neuronpedia's with it.

Written are `metadata` (slug, scan, transcoder_list, prompt_tokens, prompt, node_threshold, schema_version 1; the sha256 of the model's
weights beside them under `cutaway`), `qParams` (empty: nothing is pinned), `nodes` (node_id, feature, layer, ctx_idx, feature_type,
token_prob, is_target_logit, run_idx, reverse_ctx_idx, jsNodeId, clerp, influence, activation) and `links` (source, target, weight),
for what pruning keeps. A feature's `feature` is the Cantor pairing of its layer and number, as there; `influence` is cumulative, by
which the viewer's slider hides nodes. Names of nodes, layers and types are those that its own files have; a layer without a transcoder
is an error.

Source: github.com/safety-research/circuit-tracer, frontend/graph_models.py, frontend/utils.py and the viewer's own code beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cutaway.interp.attribution_graphs.graph import AttributionGraph
from cutaway.interp.attribution_graphs.influence import cumulative
from cutaway.interp.attribution_graphs.nodes import Kind, Node
from cutaway.interp.attribution_graphs.viewer_features import names_of, paired, write_features
from cutaway.interp.sae import FeaturePages
from cutaway.runtime import atomic_write

__all__ = ["to_circuit_tracer", "write_circuit_tracer", "check_path"]

_LIST = "graph-metadata.json"
_TYPES: dict[Kind, str] = {
    "feature": "cross layer transcoder",
    "error": "mlp reconstruction error",
    "mlp": "mlp reconstruction error",
    "token": "embedding",
    "logit": "logit",
}


def to_circuit_tracer(
    graph: AttributionGraph,
    *,
    slug: str = "cutaway",
    scan: str = "custom",
    names: Mapping[tuple[int, int], str] | None = None,
    transcoder_list: tuple[str, ...] = (),
    node_threshold: float | None = None,
    edge_threshold: float | None = None,
) -> dict[str, Any]:
    """Return the graph, pruned, as that file's values; `scan` names model and transcoders, by which the viewer finds features.

    `names`, by layer and number, are what features are called there. Without a `transcoder_list` it is the folders that the graph
    knows, without thresholds they are the graph's own.
    """
    kept = graph.pruned(node_threshold=node_threshold, edge_threshold=edge_threshold)
    n_sources, spread, influence = graph.edges.shape[1], cumulative(graph.influence).tolist(), kept.sources.tolist()
    nodes = [
        _node(graph, place, node, None if place >= n_sources else spread[place], names or {})
        for place, node in enumerate(graph.nodes)
        if place >= n_sources or influence[place]
    ]
    return {
        "metadata": {
            "slug": slug,
            "scan": scan,
            "transcoder_list": list(transcoder_list or graph.folders),
            "prompt_tokens": list(graph.words),
            "prompt": graph.prompt,
            "node_threshold": kept.node_threshold,
            "schema_version": 1,
            "cutaway": {"model_sha256": graph.model_sha256},
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": nodes,
        "links": [
            {"source": _node_id(graph, source), "target": _node_id(graph, target), "weight": weight}
            for source, target, weight in graph.kept_edges(kept)
        ],
    }


def write_circuit_tracer(
    graph: AttributionGraph, path: Path | str, *, described: Mapping[int, FeaturePages] | None = None, **settings: Any
) -> Path:
    """Write that file, list it in the `graph-metadata.json` beside it, as the viewer wants, and return where it is.

    What is `described` of features, by layer, goes into a folder beside it, which the viewer reads where it serves both. `settings`
    are those of `to_circuit_tracer`, but for the slug, which is the file's name. Raises ValueError for a file that does not end in
    .json, one in a folder that is not there, and where the list is none.
    """
    path = Path(path)
    check_path(path)
    if described is not None:
        features = path.with_name(f"{path.stem}-features")
        write_features(described, features)
        settings = {"scan": f"./data/{features.name}", "names": names_of(described), **settings}
    listed = [each for each in _listed(path.parent) if each.get("slug") != path.stem]
    values = to_circuit_tracer(graph, slug=path.stem, **settings)
    atomic_write(path, json.dumps(values, ensure_ascii=False, allow_nan=False))
    atomic_write(path.parent / _LIST, json.dumps({"graphs": [*listed, values["metadata"]]}, indent=2, ensure_ascii=False))
    return path


def _listed(folder: Path) -> list[dict[str, Any]]:
    """Return what the viewer's list of graphs in a folder holds."""
    if not (folder / _LIST).is_file():
        return []
    try:
        return [{**each} for each in json.loads((folder / _LIST).read_text(encoding="utf-8"))["graphs"]]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder / _LIST} is no list of graphs for circuit-tracer's viewer ({error}): move it away") from None


def check_path(path: Path) -> None:
    """Raise ValueError for a file that the viewer would not find, and for one in a folder that is not there."""
    if path.suffix != ".json":
        raise ValueError(f"{path} is to be read by circuit-tracer's viewer: give a file that ends in .json")
    if path.name == _LIST:
        raise ValueError(f"{_LIST} is the viewer's list of graphs: give the graph another name")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {path.absolute().parent} to write {path.name} in")


def _node(
    graph: AttributionGraph, place: int, node: Node, influence: float | None, names: Mapping[tuple[int, int], str]
) -> dict[str, Any]:
    node_id, name = _node_id(graph, node), names.get((node.layer or 0, node.number or 0), "")
    values: dict[str, Any] = {
        "node_id": node_id,
        "feature": _feature(node),
        "layer": node_id.partition("_")[0],
        "ctx_idx": node.pos,
        "feature_type": _TYPES[node.kind],
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{node_id.rpartition('_')[0]}-{0 if node.kind == 'feature' else node.pos}",
        "clerp": f"#{node.number} {name}".strip() if node.kind == "feature" else "",
        "influence": influence,
        "activation": graph.activations[place].item() if node.kind == "feature" else None,
    }
    if node.kind == "logit":
        number = graph.logits.index(node.number or 0)
        p = graph.probs[number].item()
        said = f'Output "{graph.logit_words[number]}" (p={p:.3f})'
        values |= {"token_prob": p, "is_target_logit": number == 0, "clerp": said, "jsNodeId": f"L_{node.number}-{node.pos}"}
    return values


def _node_id(graph: AttributionGraph, node: Node) -> str:
    layer = {"token": "E", "logit": str(graph.n_layers + 1)}.get(node.kind, str(node.layer))
    return f"{layer}_{-1 if node.number is None else node.number}_{node.pos}"


def _feature(node: Node) -> int:
    match node.kind:
        case "feature":
            return paired(node.layer or 0, node.number or 0)
        case "token":
            return node.pos
        case "logit":
            return node.number or 0
    return -1
