"""How faithful circuits of SmolLM2 are: indirect object identification on prompts that they were not found with, beside random ones.

`python -m benchmarks.circuit_faithfulness [--prompts 32] [--random 50] [--method eap] [--scored resample]`. Edges are scored on half of
the prompt pairs, under resample ablation or with `--scored same` under the one that circuits run under; circuits of MIB's ten sizes are
run on the other half, under zero, mean and resample ablation, with 95 % intervals over pairs. Beside five of the sizes stand random
connected circuits with as many edges into each layer. About 6 minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch

import cutaway
from cutaway.experiments.ioi import ioi_prompts
from cutaway.interp import circuits
from cutaway.interp.circuits import How
from cutaway.language_model import LanguageModel

MODEL = "smollm2-135m"
ALL: list[tuple[How, ...]] = [("zero",), ("mean",), ("resample",)]
RANDOM_AT = (0.002, 0.005, 0.01, 0.02, 0.05)
"""The sizes, as shares of the edges, that random circuits stand beside."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.circuit_faithfulness", description=__doc__)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--random", type=int, default=50)
    parser.add_argument("--method", default="eap", choices=["eap", "eap-ig-inputs", "eap-ig-activations"])
    parser.add_argument(
        "--scored", default="resample", choices=["resample", "same"], help="the ablation that edges are scored under"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    lm = cutaway.load(MODEL, device="cpu")
    pairs = ioi_prompts(lm, arguments.prompts, seed=arguments.seed).pairs(lm)
    finding, others = pairs.split(0.5, seed=arguments.seed)
    print(f"{MODEL}, {len(finding)} pairs to find with and {len(others)} others, {torch.get_num_threads()} threads", flush=True)

    for ablations in ALL if arguments.scored == "same" else [sum(ALL, ())]:
        scored_under = ablations[0] if arguments.scored == "same" else "resample"
        started = time.perf_counter()
        found = circuits.score_edges(
            lm.model, finding.tokens, finding.other_tokens, finding.metric, method=arguments.method, ablation=scored_under
        )
        time_s = time.perf_counter() - started
        print(
            f"\n{found.graph.n_edges} edges scored by {arguments.method} under {scored_under} ablation in {time_s:.1f} s",
            flush=True,
        )
        run(lm, others, found, ablations, n_random=arguments.random, seed=arguments.seed)


def run(
    lm: LanguageModel,
    others: circuits.PromptPairs,
    found: circuits.EdgeScores,
    ablations: tuple[How, ...],
    *,
    n_random: int,
    seed: int,
) -> None:
    """Print the curves of circuits of the best edges under these ablations, and random circuits beside some of their sizes."""
    given = (lm.model, others.tokens, others.other_tokens, others.metric, found.graph, found.scores)
    started = time.perf_counter()
    curve = circuits.faithfulness_curve(*given, ablations=ablations, seed=seed, measured=others.measured, progress=telling("sizes"))
    print(f"the curve took {time.perf_counter() - started:.1f} s", flush=True)
    for line in curve_lines(curve):
        print(line, flush=True)
    if not n_random:
        return
    started = time.perf_counter()
    beside = circuits.faithfulness_curve(
        *given, shares=RANDOM_AT, ablations=ablations, n_random=n_random, seed=seed, progress=telling("random circuits")
    )
    print(f"random circuits took {time.perf_counter() - started:.1f} s", flush=True)
    for line in random_lines(beside):
        print(line)


def curve_lines(curve: circuits.FaithfulnessCurve) -> list[str]:
    """Return for each ablation the metric of model and empty circuit, each size with its interval, and both areas."""
    lines = []
    for each in curve.curves:
        lines.append(f"{each.how} ablation: model {float(each.model.mean()):+.3f}, empty {float(each.empty.mean()):+.3f}")
        if each.refusal:
            lines.append(f"  no share is taken of a gap of {each.gap:.3g}")
            continue
        intervals = each.intervals()
        for size, share in enumerate(each.shares):
            ends = f" ({intervals[size]})" if intervals else ""
            lines.append(
                f"  {100 * share:5g} % {curve.n_edges[size]:6} edges ({curve.n_dropped[size]} dropped)  metric "
                f"{float(each.circuits[size].mean()):+.3f}  faithfulness {float(each.normalised[size]):+.3f}{ends}"
            )
        areas = (("CPR", each.cpr, each.cpr_interval), ("CMD", each.cmd, each.cmd_interval))
        lines.append("  " + ", ".join(f"{name} {value:.3f} ({interval})" for name, value, interval in areas))
    return lines


def random_lines(curve: circuits.FaithfulnessCurve) -> list[str]:
    """Return for each ablation and size the circuit's faithfulness beside the range of the random circuits'."""
    lines = []
    for each in curve.curves:
        for size, (share, shares) in enumerate(zip(each.shares, each.random_shares(), strict=True)):
            if shares:
                ranked, own = sorted(shares), float(each.normalised[size])
                lines.append(
                    f"{each.how} ablation, {100 * share:g} %: circuit {own:+.3f}; {len(shares)} random from {ranked[0]:+.3f} to "
                    f"{ranked[-1]:+.3f}, median {ranked[len(ranked) // 2]:+.3f}, {sum(each < own for each in shares)} below"
                )
    return lines


def telling(unit: str) -> Callable[[int, int], None]:
    """Return a function that says on standard error every so often how many runs are done."""
    last = time.perf_counter()

    def tell(n_done: int, n_all: int) -> None:
        nonlocal last
        if time.perf_counter() - last > 10 or n_done == n_all:
            last = time.perf_counter()
            print(f"  {unit}: {n_done} of {n_all} runs", file=sys.stderr, flush=True)

    return tell


if __name__ == "__main__":
    main()
