"""`cutaway interpret circuit find`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cutaway.cli.command import excludes, needs_one_of
from cutaway.cli.interpret.circuit.given import DEMO_PAIRS, GivenPairs
from cutaway.cli.interpret.options import analysis
from cutaway.cli.interpret.overwriting import check_new_file
from cutaway.report.counting import count_progress

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["find"]


@excludes("select", "threshold", why="it takes --n-edges of them", values=("greedy", "largest"))
@excludes("select", "n_edges", why="how many edges it keeps follows from --threshold", values=("threshold", "acdc"))
@excludes("select", "method", "steps", "exact_top", why="it scores no edges", values=("acdc",))
@excludes("method", "steps", why="it takes no gradient along a line", values=("eap", "exact"))
@needs_one_of("prompts", "ioi", ("text", "corrupted", "target"))
@analysis(ioi=DEMO_PAIRS)
def find(
    lm: LanguageModel,
    *,
    source: str,
    given: GivenPairs,
    method: Literal["eap", "eap-ig-inputs", "eap-ig-activations", "exact"] = "eap-ig-inputs",
    select: Literal["greedy", "largest", "threshold", "acdc"] = "greedy",
    n_edges: int = 200,
    threshold: float = 0.01,
    ablation: Literal["zero", "mean", "resample"] = "resample",
    kv: Literal["group", "query-head"] = "group",
    features: tuple[Path, ...] = (),
    n_features: int = 20,
    steps: int = 5,
    exact_top: int | None = None,
    held_out: float = 0.5,
    least_gap: float = 0.1,
    seed: int = 0,
    out: Path | None = None,
    overwrite: bool = False,
) -> Result:
    """Find the edges of a model that carry an answer: score them all, keep the best, and check them on prompts not used for it.

    Edges lead from the embedding, heads and MLPs to the queries, keys and values of heads, MLPs and the logits. Prompts come in pairs
    of as many tokens; pairs may differ in length. A file of them has a JSON object a line: clean, corrupted, correct and perhaps wrong.
    Syed et al. 2023; Hanna et al. 2024; Conmy et al. 2023.

    Args:
        method: how edges are scored
        select: so many of the best edges, greedily from the logits up or the largest anywhere; all above a threshold; or ACDC, which
            runs a circuit for each edge of a small model
        n_edges: how many edges greedy and largest take, before those on no path are dropped
        threshold: of an edge's score, as a share of the difference between the runs; for ACDC what it changes the next token's
            distribution by, in nats
        ablation: what edges are scored by, and what is put in the place of everything outside
        kv: with grouped heads, whether an edge enters a group's keys and values or one head's
        features FOLDER: a dictionary of an MLP's output, or a transcoder, whose best features are nodes too; may be given again
        n_features: how many of each
        steps: of the line that gradients are averaged over
        exact_top: so many edges of the largest scores are tried one by one, to see how scores agree with what they estimate
        held_out: the share of the pairs that is kept for checking
        least_gap: the least difference between model and nothing that a share is taken of
        seed: of what pairs these are
        out FILE: where the circuit is written, a JSON file
        overwrite: write it over a file that is there

    Examples:
        cutaway interpret circuit find --demo --out circuit.json
        cutaway interpret circuit find smollm2-135m --prompts pairs.jsonl --n-edges 500 --out circuit.json
        cutaway interpret circuit find --demo --method eap --select threshold --threshold 0.02 --report circuit.html
        cutaway interpret circuit find --demo --features runs/transcoder-12 --out circuit.json

    In Python:
        from cutaway import circuits
        pairs = circuits.read_pairs(lm, ["When Mary and John ..."], ["When ..."], ["Mary"], ["John"])
        found = circuits.find_circuit(lm, pairs, n_edges=200)
        found.circuit.save("circuit.json")
    """
    from cutaway.interp.circuits import find_circuit

    if out is not None:
        check_new_file(out, "the circuit", overwrite=overwrite)
    pairs = given.read(lm)
    with count_progress("edges") as progress:
        found = find_circuit(
            lm, pairs, method=method, selection=select, n_edges=n_edges, threshold=threshold, ablation=ablation, kv=kv, steps=steps,
            features=features, n_features=n_features, exact_top=exact_top, held_out=held_out, least_gap=least_gap, seed=seed,
            name=source,
            command=shlex.join(["cutaway", *sys.argv[1:]]), progress=progress,
        )  # fmt: skip
    if out is None:
        return replace(
            found, notes=(*found.notes, "Keep it with --out FILE: `cutaway interpret circuit score FILE` goes on from there")
        )
    found.circuit.save(out)
    command = shlex.join(["cutaway", "interpret", "circuit", "score", str(out)])
    kept = found.circuit.prompts
    beside = "with other prompts" if not kept else "on the prompts held out, which it keeps" if kept.held_out else "on its prompts"
    said = f"The circuit is in {out}; next `{command}`, {beside}"
    return replace(found, notes=(*found.notes, said))
