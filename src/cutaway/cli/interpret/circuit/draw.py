"""`cutaway interpret circuit draw`."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.text import Text

from cutaway.cli.errors import UsageError
from cutaway.cli.interpret.circuit.given import DEMO, given_circuit
from cutaway.cli.interpret.present import present
from cutaway.cli.loading import load_named
from cutaway.cli.pages import check_page
from cutaway.report import print_sentence, stderr_console, stdout_console

__all__ = ["draw"]

_MODEL = "smollm2-135m"


def draw(
    circuit: str | None = None,
    /,
    *,
    out: Path | None = None,
    demo: bool = False,
    report: Path | None = None,
    json: bool = False,
) -> None:
    """Draw a circuit: its nodes by layer, its edges as wide as their scores; no model is needed. Conmy et al. 2023.

    Blue edges have scores above 0, orange ones below: what the metric gains when an edge carries the corrupted run.

    Args:
        circuit: a file that `circuit find --out` wrote; `demo` is found first
        out FILE: where the picture is written: .svg, .png or .pdf
        demo: a worked example, on SmolLM2
        report FILE: write a page of it with the picture, one self-contained HTML file
        json: print JSON

    Examples:
        cutaway interpret circuit draw --demo --out circuit.svg
        cutaway interpret circuit draw circuit.json --report circuit.html

    In Python:
        from cutaway import circuits
        circuit = circuits.Circuit.load("circuit.json")
        circuits.draw_circuit(circuit, "circuit.svg").show()
    """
    from cutaway.interp.circuits import Circuit, draw_circuit

    if circuit is None and not demo:
        raise UsageError("CIRCUIT is missing: give a file that `cutaway interpret circuit find --out` wrote, or --demo")
    check_page(report)
    is_demo = circuit in (None, DEMO)
    known = given_circuit(load_named(_MODEL), DEMO, source=_MODEL) if is_demo else Circuit.load(circuit or DEMO)
    command = ["cutaway", "interpret", "circuit", "draw", circuit or DEMO, *(["--out", str(out)] if out is not None else [])]
    present(draw_circuit(known, out), json=json, report=report, command=shlex.join(command))
    if out is not None:
        print_sentence(
            stderr_console() if json else stdout_console(), Text.assemble("\nThe picture is in ", (str(out), "bold"), ".")
        )


draw.needs, draw.demo = ("circuit",), {"circuit": DEMO}  # type: ignore[attr-defined]  # what the menu asks for
