"""Attribution graphs: which features, through which features, lead from a prompt's tokens to the logits."""

from cutaway.interp.attribution_graphs.attribute import attribute
from cutaway.interp.attribution_graphs.changes import Held, measured_changes, predicted_changes
from cutaway.interp.attribution_graphs.circuit_tracer import to_circuit_tracer, write_circuit_tracer
from cutaway.interp.attribution_graphs.graph import AttributionGraph
from cutaway.interp.attribution_graphs.influence import Pruning
from cutaway.interp.attribution_graphs.interventions import Interventions, intervene, pool
from cutaway.interp.attribution_graphs.nodes import Node, Path
from cutaway.interp.attribution_graphs.pages import describe_strongest, find_pages, write_pages
from cutaway.interp.attribution_graphs.replacement import Frozen, Replacement, replace_mlps
from cutaway.interp.attribution_graphs.saved import load_graph, save_graph

__all__ = [
    "attribute",
    "AttributionGraph",
    "Path",
    "Node",
    "Pruning",
    "intervene",
    "Interventions",
    "pool",
    "Held",
    "predicted_changes",
    "measured_changes",
    "replace_mlps",
    "Replacement",
    "Frozen",
    "describe_strongest",
    "find_pages",
    "write_pages",
    "save_graph",
    "load_graph",
    "to_circuit_tracer",
    "write_circuit_tracer",
]
