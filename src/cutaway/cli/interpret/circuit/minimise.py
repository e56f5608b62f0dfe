"""`cutaway interpret circuit minimise`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cutaway.cli.interpret.circuit.given import DEMO, DEMO_PAIRS, GivenPairs, given_circuit, model_of_circuit
from cutaway.cli.interpret.options import analysis
from cutaway.cli.interpret.overwriting import check_new_file
from cutaway.report.counting import count_progress

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["minimise"]


@analysis(circuit=DEMO, ioi=DEMO_PAIRS, source_of=model_of_circuit, source_said="the circuit's own")
def minimise(
    lm: LanguageModel,
    circuit: str,
    /,
    *,
    source: str,
    given: GivenPairs,
    tolerance: float = 0.02,
    ablation: Literal["zero", "mean", "resample"] | None = None,
    held_out: float = 0.5,
    least_gap: float = 0.1,
    seed: int = 0,
    force: bool = False,
    features: tuple[Path, ...] = (),
    out: Path | None = None,
    overwrite: bool = False,
) -> Result:
    """Take out of a circuit the edges that it can do without, and hold what is left against it on other prompts.

    Edges are tried from the smallest score up, many at a time, and those without which the metric moves too far stay. Pairs that the
    circuit was found with say which are needed, and the others score it; where there are none of them, a share is kept for that.
    Wang et al. 2022, section 4.

    Args:
        circuit: a file that `circuit find --out` wrote; `demo` is found first
        tolerance: by how much of the gap between model and empty circuit the metric may move
        ablation: what is put in the place of everything outside; as the circuit was found unless given
        held_out: the share of the pairs that is kept for checking, where none is that the circuit was found with
        least_gap: the least difference between model and nothing that a share is taken of
        seed: of what pairs these are
        force: run it in a model of the same shape with other weights
        features FOLDER: the dictionary of the circuit's features, where it has moved; may be given again
        out FILE: where the smaller circuit is written, a JSON file
        overwrite: write it over a file that is there

    Examples:
        cutaway interpret circuit minimise --demo --out smaller.json
        cutaway interpret circuit minimise circuit.json --prompts pairs.jsonl --tolerance 0.05 --out smaller.json

    In Python:
        from cutaway import circuits
        circuit = circuits.Circuit.load("circuit.json")
        made = circuits.minimise_on_prompts(lm, circuits.read_pairs_file(lm, "pairs.jsonl"), circuit, tolerance=0.05)
        made.circuit.save("smaller.json")
    """
    from cutaway.interp.circuits import minimise_on_prompts

    if out is not None:
        check_new_file(out, "the circuit", overwrite=overwrite)
    with count_progress("edges scored") as progress:
        known = given_circuit(lm, circuit, source=source, features=features, progress=progress)
    known.check(lm.model, force=force)
    pairs = given.read(lm, known, "all")
    with count_progress("edges tried") as progress:
        made = minimise_on_prompts(
            lm, pairs, known, tolerance=tolerance, ablation=ablation, held_out=held_out, least_gap=least_gap, seed=seed,
            command=shlex.join(["cutaway", *sys.argv[1:]]), force=True, progress=progress,
        )  # fmt: skip
    said = "Keep it with --out FILE"
    if out is not None:
        said = f"The smaller circuit is in {made.circuit.save(out)}"
    return replace(made, notes=(*made.notes, said))
