"""`cutaway interpret circuit compare`."""

from __future__ import annotations

import shlex
from pathlib import Path

from cutaway.cli.errors import UsageError
from cutaway.cli.interpret.circuit.given import DEMO, given_circuit
from cutaway.cli.interpret.present import present
from cutaway.cli.loading import load_named
from cutaway.cli.pages import check_page

__all__ = ["compare"]

_MODEL = "smollm2-135m"


def compare(
    circuit: str | None = None,
    other: str | None = None,
    /,
    *,
    demo: bool = False,
    report: Path | None = None,
    json: bool = False,
) -> None:
    """Compare two circuits of one model: the edges and nodes of both, and those of one alone; no model is needed. Hanna et al. 2024.

    Jaccard is what both have over what either has: 1 for the same circuit, 0 for two with nothing in common.

    Args:
        circuit: a file that `circuit find --out` wrote
        other: another of the same model
        demo: a worked example, on SmolLM2: scored along a line, and in one point
        report FILE: write a page of it with a figure, one self-contained HTML file
        json: print JSON

    Examples:
        cutaway interpret circuit compare --demo
        cutaway interpret circuit compare eap.json exact.json

    In Python:
        from cutaway import circuits
        print(circuits.compare(circuits.Circuit.load("eap.json"), circuits.Circuit.load("exact.json")))
    """
    from cutaway.interp.circuits import Circuit
    from cutaway.interp.circuits import compare as compare_circuits

    if not demo and (circuit is None or other is None):
        raise UsageError("two circuits are compared: give two files that `cutaway interpret circuit find --out` wrote, or --demo")
    check_page(report)
    if circuit is None or other is None:
        lm, names = load_named(_MODEL), ("eap-ig-inputs", "eap")
        first, second = given_circuit(lm, DEMO, source=_MODEL), given_circuit(lm, DEMO, source=_MODEL, method="eap")
    else:
        names = circuit, other
        first, second = Circuit.load(circuit), Circuit.load(other)
    command = ["cutaway", "interpret", "circuit", "compare", *(["--demo"] if None in (circuit, other) else names)]
    present(compare_circuits(first, second, names=names), json=json, report=report, command=shlex.join(command))


compare.needs, compare.demo = ("circuit", "other"), {"demo": True}  # type: ignore[attr-defined]  # what the menu asks for
