"""Circuits: which edges of the computation carry a behaviour."""

from cutaway.interp.ablation import How
from cutaway.interp.circuits.ablated import Ablated, ablated_outputs
from cutaway.interp.circuits.acdc import Divergence, find_by_acdc
from cutaway.interp.circuits.bootstrap import Interval, ratio_interval
from cutaway.interp.circuits.choosing import choose_features
from cutaway.interp.circuits.circuit import Circuit, hash_data, hash_pairs, hash_tokens
from cutaway.interp.circuits.circuit_scores import CircuitScores
from cutaway.interp.circuits.comparison import CircuitComparison, compare
from cutaway.interp.circuits.curve import faithfulness_curve
from cutaway.interp.circuits.curve_result import SHARES, FaithfulnessCurve
from cutaway.interp.circuits.drawing import CircuitDrawing, draw_circuit
from cutaway.interp.circuits.evaluation import evaluate_circuit
from cutaway.interp.circuits.faithfulness import Faithfulness
from cutaway.interp.circuits.finding import FoundCircuit, find_circuit
from cutaway.interp.circuits.graph import Edge, Graph
from cutaway.interp.circuits.kept_features import KeptFeatures, keep_features
from cutaway.interp.circuits.minimised import MinimisedCircuit, minimise_on_prompts
from cutaway.interp.circuits.minimising import minimise
from cutaway.interp.circuits.next_tokens import CircuitRun, run_on_prompts
from cutaway.interp.circuits.prompts import PromptPairs, StoredPart, pairs_to_store, read_pairs, read_pairs_file, stored_pairs
from cutaway.interp.circuits.pruning import PRUNINGS, Pruned, Pruning, Ranking, prune_by_threshold, prune_greedily, prune_to_largest
from cutaway.interp.circuits.random_circuits import random_circuit, random_circuits
from cutaway.interp.circuits.result import EdgeMethod, EdgeScore, EdgeScores
from cutaway.interp.circuits.running import CircuitRuns, RunOptions, circuit_metric, run_circuit
from cutaway.interp.circuits.scoring import score_edges
from cutaway.interp.circuits.selecting import SelectedCircuit, Selection, SelectionOptions, select_circuit
from cutaway.interp.circuits.stored_prompts import MOST_TOKENS, StoredPair, StoredPrompts
from cutaway.interp.feature_nodes import FeatureNodes

__all__ = [
    "Graph",
    "Edge",
    "FeatureNodes",
    "choose_features",
    "KeptFeatures",
    "keep_features",
    "score_edges",
    "EdgeScores",
    "EdgeScore",
    "EdgeMethod",
    "Circuit",
    "hash_tokens",
    "hash_pairs",
    "hash_data",
    "CircuitComparison",
    "compare",
    "How",
    "Ablated",
    "ablated_outputs",
    "CircuitRuns",
    "RunOptions",
    "run_circuit",
    "circuit_metric",
    "Pruning",
    "Ranking",
    "Pruned",
    "PRUNINGS",
    "prune_by_threshold",
    "prune_to_largest",
    "prune_greedily",
    "Divergence",
    "find_by_acdc",
    "minimise",
    "minimise_on_prompts",
    "MinimisedCircuit",
    "random_circuit",
    "random_circuits",
    "PromptPairs",
    "read_pairs",
    "read_pairs_file",
    "StoredPair",
    "StoredPrompts",
    "StoredPart",
    "MOST_TOKENS",
    "pairs_to_store",
    "stored_pairs",
    "Selection",
    "SelectionOptions",
    "SelectedCircuit",
    "select_circuit",
    "FoundCircuit",
    "find_circuit",
    "CircuitRun",
    "run_on_prompts",
    "Faithfulness",
    "CircuitScores",
    "evaluate_circuit",
    "SHARES",
    "FaithfulnessCurve",
    "faithfulness_curve",
    "CircuitDrawing",
    "draw_circuit",
    "Interval",
    "ratio_interval",
]
