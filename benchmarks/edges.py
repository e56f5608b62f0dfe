"""Edge scores: what each method finds of circuits that are known, and what scoring every edge of SmolLM2 takes.

`python -m benchmarks.edges [--prompts 32] [--top 200] [--known-only]`. Known circuits are the models made by hand, as they are
(attention 0.95) and saturated (scores of attention ten times as large). Precision is the share of the edges found that are in the
circuit, recall that of the edges which what tells the two prompts apart must pass. SmolLM2's edges are scored on indirect object
identification, and the best of them tried.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

import cutaway
from cutaway.experiments.handmade import HANDMADE, Handmade, Head
from cutaway.experiments.ioi import ioi_prompts
from cutaway.interp import metrics
from cutaway.interp.circuits import EdgeMethod, EdgeScores, score_edges
from cutaway.interp.metrics import Metric
from cutaway.runtime import peak_memory_gib

MODEL = "smollm2-135m"
THRESHOLD = 0.05  # of the difference between the runs: from where on an edge counts, fixed beforehand
SATURATION = 10.0
N_ROWS = 8
# An odd number of points has one in the middle, where two keys that change places are attended to alike even if all is saturated.
METHODS: Mapping[str, tuple[EdgeMethod, int]] = {
    "exact": ("exact", 1),
    "eap": ("eap", 1),
    "eap-ig-inputs, 5": ("eap-ig-inputs", 5),
    "eap-ig-inputs, 10": ("eap-ig-inputs", 10),
    "eap-ig-activations, 5": ("eap-ig-activations", 5),
    "eap-ig-activations, 10": ("eap-ig-activations", 10),
}

# The roles, by the name of a model, that the difference between its two prompts must pass, with the input by which it enters each.
CHAINS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "induction": (("previous token", "v"), ("induction", "k"), ("logits", "")),
    "copying": (("duplicate token", "k"), ("copying", "k"), ("logits", "")),
    "indirect object": (("duplicate token", "q"), ("S-inhibition", "v"), ("name mover", "q"), ("logits", "")),
    "neuron": (("previous token", "v"), ("exception", ""), ("logits", "")),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.edges", description=__doc__)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--top", type=int, default=200, help="how many of SmolLM2's edges are tried")
    parser.add_argument("--known-only", action="store_true", help="leave SmolLM2 out")
    arguments = parser.parse_args()
    for line in known_table():
        print(line, flush=True)
    if not arguments.known_only:
        print()
        score_model(arguments.prompts, arguments.top)


def known_table(
    models: Mapping[str, Callable[[], Handmade]] = HANDMADE, methods: Mapping[str, tuple[EdgeMethod, int]] = METHODS
) -> list[str]:
    """Return one line for each model and method: precision and recall with finite and with saturated attention; and their means."""
    width = max(map(len, models))
    lines = [
        f"{'':{width}}  {'':22}  attention 0.95       saturated",
        f"{'model':{width}}  {'method':22}  precision  recall  precision  recall  time",
    ]
    found: dict[str, list[tuple[float, ...]]] = {method: [] for method in methods}
    for name, make in models.items():
        for method, (how, steps) in methods.items():
            started = time.perf_counter()
            shares = tuple(share for each in (make(), saturated(make())) for share in precision_and_recall(each, how, steps))
            found[method].append(shares)
            lines.append(f"{name:{width}}  {method:22}  {_shares(shares)}  {time.perf_counter() - started:.1f} s")
    lines.append("")
    for method, shares in found.items():
        means = tuple(torch.tensor(shares).nanmean(0).tolist())
        lines.append(f"{f'mean of {len(shares)}':{width}}  {method:22}  {_shares(means)}")
    return lines


def precision_and_recall(made: Handmade, method: EdgeMethod, steps: int) -> tuple[float, float]:
    """Return the share of the edges found that are the circuit's, and of those that must be found that are."""
    rows = slice(0, N_ROWS)
    scores = score_edges(
        made.model, made.tokens[rows], made.corrupted_tokens[rows], metric_of(made, rows), method=method, steps=steps
    )
    wrong, missing = wrong_or_missing(scores, made, THRESHOLD)
    n_found, n_known = len(edges_found(scores, THRESHOLD)), len(known_edges(made))
    return 1 - len(wrong) / n_found if n_found else float("nan"), 1 - len(missing) / n_known


def edges_found(scores: EdgeScores, threshold: float) -> set[str]:
    """Return the edges that move the metric by this share of the difference between the runs, or more."""
    least = threshold * abs(scores.gap)
    return {str(each.edge) for each in scores.ranked() if abs(each.score) >= least}


def wrong_or_missing(scores: EdgeScores, made: Handmade, threshold: float) -> tuple[set[str], set[str]]:
    """Return the edges found that are not in the circuit, and those not found that the difference between the prompts must pass."""
    found = edges_found(scores, threshold)
    return found - circuit_edges(made), known_edges(made) - found


def known_edges(made: Handmade) -> set[str]:
    """Return the edges of the chain from the embedding to the logits that tells the prompts of a pair apart."""
    nodes = {role: node for node, role in [*made.circuit.heads.items(), *made.circuit.neurons.items()]}
    chain, sender, found = CHAINS[made.name], "embed", set()
    for role, part in chain:
        receiver = nodes.get(role, "logits")
        found.add(f"{sender}->{_received(made, receiver, part)}")
        sender = _name(receiver)
    return found


def circuit_edges(made: Handmade) -> set[str]:
    """Return all edges of the circuit; what positions write is the embedding's too."""
    return {
        f"{'embed' if edge.sender == 'pos_embed' else _name(edge.sender)}->{_received(made, edge.receiver, edge.input)}"
        for edge in made.circuit.edges
    }


def _received(made: Handmade, node: object, part: str) -> str:
    """Return the input of a head, or of the group that it shares keys and values with, or the node itself."""
    config = made.model.config
    if not isinstance(node, Head):
        return _name(node)
    if part == "q" or config.n_kv_heads == config.n_heads:
        return f"{_name(node)}.{part}"
    return f"L{node.layer}G{node.head * config.n_kv_heads // config.n_heads}.{part}"


def _name(node: object) -> str:
    if isinstance(node, Head):
        return f"L{node.layer}H{node.head}"
    return node if isinstance(node, str) else f"mlp{node.layer}"  # type: ignore[attr-defined]


def saturated(made: Handmade) -> Handmade:
    """Return the same with all attention scores larger, so that patterns hardly answer to small changes."""
    model = copy.deepcopy(made.model)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_Q.weight *= SATURATION  # type: ignore[operator, union-attr]
    return replace(made, model=model)


def metric_of(made: Handmade, rows: slice = slice(None)) -> Metric:
    return metrics.logit_diff(made.answers[rows], made.wrong_answers[rows])


def score_model(n_prompts: int, n_tried: int) -> None:
    """Print the time and the peak memory of scoring all edges of SmolLM2, and of trying the best of them."""
    lm = cutaway.load(MODEL, device="cpu")
    prompts = ioi_prompts(lm, n_prompts)
    runs, device = (lm.model, prompts.tokens, prompts.corrupted_tokens, prompts.metric), torch.device("cpu")
    loaded = peak_memory_gib(device)
    print(f"{MODEL}, {n_prompts} prompts of {prompts.tokens.shape[1]} tokens, {torch.get_num_threads()} threads")
    print(f"loaded: peak {loaded:.2f} GiB")
    for method, options in {"eap": {}, "eap-ig-inputs, 5 points": {"steps": 5}, "eap, best tried": {"exact_top": n_tried}}.items():
        started = time.perf_counter()
        scores = score_edges(*runs, method=method.partition(",")[0], **options)  # type: ignore[arg-type]
        time_s = time.perf_counter() - started
        print(f"{method}: {scores.graph.n_edges:,} edges, {time_s:.1f} s, peak {peak_memory_gib(device):.2f} GiB", flush=True)
    print(scores.summary())
    for each in scores.ranked(10):
        print(f"  {each.edge!s:18} {each.score:+.3f} estimated, {each.exact:+.3f} tried")


def _shares(shares: tuple[float, ...]) -> str:
    return "  ".join(
        f"{'-' if share != share else f'{share:.2f}':>{width}}" for share, width in zip(shares, (9, 6, 9, 6), strict=True)
    )


if __name__ == "__main__":
    main()
