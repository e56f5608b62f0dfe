"""What a model says next with a circuit alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.interp.ablation import How
from cutaway.interp.circuits.circuit import Circuit
from cutaway.interp.circuits.prompts import PromptPairs
from cutaway.interp.circuits.running import CircuitRuns
from cutaway.interp.result import Result
from cutaway.interp.rows import token_texts
from cutaway.language_model import LanguageModel
from cutaway.report import table
from cutaway.report.tokens import token_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

__all__ = ["CircuitRun", "run_on_prompts"]

_N_TOP, _N_SHOWN = 5, 12


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CircuitRun(Result):
    """The metric and the likeliest next tokens of each prompt: of the model, of the circuit, and with everything ablated."""

    title: ClassVar[str] = "Circuit run"
    source: ClassVar[str] = (
        'circuits run with everything outside ablated (Conmy et al. 2023, "Towards Automated Circuit Discovery")'
    )

    circuit: Circuit
    how: How
    said: str
    measured: str
    texts: tuple[str, ...]
    """The prompts."""
    n_known_pairs: int = 0
    """How many of the pairs the circuit was found with."""
    notes: tuple[str, ...] = ()
    metric: Float[Tensor, "run batch"]
    """Of model, circuit and empty circuit."""
    tokens: tuple[tuple[tuple[str, ...], ...], ...]
    """The likeliest next tokens, by run and prompt."""
    probs: Float[Tensor, "run batch top"]

    runs: ClassVar[tuple[str, ...]] = ("model", "circuit", "empty")

    def summary(self) -> str:
        """Return the metric of the three runs, and how often circuit and model say the same."""
        n, means = len(self.texts), [f"{name} {float(each.mean()):.3g}" for name, each in zip(self.runs, self.metric, strict=True)]
        n_same = sum(a[0] == b[0] for a, b in zip(self.tokens[0], self.tokens[1], strict=True))
        return (
            f"Everything outside the circuit ({self.circuit}) is ablated: {self.said}. The {self.measured} is, of {', '.join(means)}. "
            f"Circuit and model say the same next token after {n_same} of {n} prompt{'s' * (n > 1)}.{self._known_said()}"
            + "".join(f" {note.rstrip('.')}." for note in self.notes)
        )

    def _known_said(self) -> str:
        """Return a sentence on whether the circuit was found with these pairs, where that is known."""
        if not self.circuit.pair_hashes:
            return ""
        n, n_known = len(self.texts), self.n_known_pairs
        if not n_known:
            return " It was found with other prompts."
        return f" It was found with {'them' if n_known == n else f'{n_known} of them'}: give others to see whether it holds."

    def to_dict(self) -> dict[str, Any]:
        """Return metric and next tokens of every prompt and run."""
        return {
            "metric": self.measured,
            "ablation": self.how,
            "n_edges": len(self.circuit),
            "n_known_pairs": self.n_known_pairs,
            "notes": list(self.notes),
            "prompts": [
                {"text": text}
                | {
                    name: {
                        "metric": float(self.metric[run, row]),
                        "next": dict(zip(self.tokens[run][row], self.probs[run, row].tolist(), strict=True)),
                    }
                    for run, name in enumerate(self.runs)
                }
                for row, text in enumerate(self.texts)
            ],
        }

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return a row for each prompt: the metric of the three runs, and what each says next."""
        rows = []
        for row, text in enumerate(self.texts):
            said = [
                f"{token_label(self.tokens[run][row][0])} {100 * self.probs[run, row, 0]:.0f} %" for run in range(len(self.runs))
            ]
            rows.append([text, *(f"{value:.2f}" for value in self.metric[:, row].tolist()), *said])
        return ["prompt", *self.runs, *(f"{name} says" for name in self.runs)], rows

    def figures(self) -> list[Figure]:
        """Return the metric of the circuit beside that of the model, prompt by prompt."""
        from cutaway.plots import lines

        rows = list(range(1, len(self.texts) + 1))
        series = {name: (rows, each.tolist()) for name, each in zip(self.runs, self.metric, strict=True)}
        return [lines(series, title=f"The {self.measured}, prompt by prompt", x_label="prompt", y_label=self.measured)]

    def views(self) -> list[RenderableType]:
        """Return what each run says next after the first prompt, and the metric after each."""
        first = table(*self.runs, title=token_label(f"after: {self.texts[0]}"))
        for i in range(self.probs.shape[-1]):
            first.add_row(
                *(f"{token_label(self.tokens[run][0][i])}  {100 * self.probs[run, 0, i]:.1f} %" for run in range(len(self.runs)))
            )
        each = table("prompt ends", *self.runs, "circuit says", right=self.runs, title=self.measured)
        for row, text in enumerate(self.texts[:_N_SHOWN]):
            said = f"{token_label(self.tokens[1][row][0])} {100 * self.probs[1, row, 0]:.0f} %"
            each.add_row(f"...{text[-26:]}", *(f"{value:.2f}" for value in self.metric[:, row].tolist()), said)
        return [first, each]


def run_on_prompts(
    lm: LanguageModel, pairs: PromptPairs, circuit: Circuit, *, ablation: How | None = None, force: bool = False
) -> CircuitRun:
    """Return what a model says after each clean prompt: whole, with a circuit alone, and with everything ablated.

    The ablation is that which the circuit was found under unless one is given. Raises ValueError for a circuit of another model, unless
    forced for other weights alone.
    """
    ablation = ablation or circuit.ablation
    runs = CircuitRuns.of(
        lm.model, pairs.tokens, circuit, ablation=ablation, other_tokens=pairs.other_tokens, force=force, **pairs.runs
    )
    masks = (runs.everything, circuit.kept, runs.nothing)
    last = [_last_logits(runs, mask) for mask in masks]
    top = torch.stack([logits.float().softmax(-1) for logits in last]).topk(min(_N_TOP, last[0].shape[-1]), dim=-1)
    return CircuitRun(
        circuit=circuit,
        how=ablation,
        said=runs.ablated.said,
        measured=pairs.measured,
        texts=tuple(lm.text(ids) for ids in pairs.clean_ids),
        n_known_pairs=sum(each in circuit.pair_hashes for each in pairs.hashes),
        metric=torch.stack([runs.metric(mask, pairs.metric) for mask in masks]),
        tokens=tuple(tuple(tuple(token_texts(lm, ids)) for ids in rows) for rows in top.indices),
        probs=top.values,
    )


def _last_logits(runs: CircuitRuns, mask: Tensor) -> Float[Tensor, "batch d_vocab"]:
    logits = runs.logits(mask)
    if runs.lengths is None:
        return logits[:, -1]
    return logits[torch.arange(len(logits)), torch.tensor(runs.lengths) - 1]
