"""`cutaway interpret function-vector`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cutaway.cli.interpret.options import analysis
from cutaway.cli.interpret.overwriting import check_new_file
from cutaway.report import stderr_console
from cutaway.report.counting import count_progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["function_vector"]


@analysis(pairs="capital", n_prompts=8)
def function_vector(
    lm: LanguageModel,
    *,
    source: str,
    pairs: str,
    n_shots: int = 5,
    n_prompts: int = 16,
    n_heads: int | None = None,
    layer: int | None = None,
    strength: float | None = None,
    n_random: int = 5,
    save: Path | None = None,
    overwrite: bool = False,
    seed: int = 0,
) -> Result:
    """Find the heads that carry a task from examples to a question, and try their sum as a vector where there are no examples.

    Each head's mean output after examples is put into prompts whose examples are shuffled; those that raise the right answer most make
    the vector. It is tested on a third of the pairs, kept aside, beside no vector, random ones, and examples. Todd et al. 2024.

    Args:
        pairs FILE: a JSON object a line, of input and output; or capital, opposite: pairs that come with cutaway;
            outputs must differ in their first token, by which an answer is known
        n_shots: so many examples in a prompt
        n_prompts: so many prompts whose examples are shuffled
        n_heads: so many heads make the vector; 10 unless given
        layer: after which it is added, counted from 0; the best on the pairs that it was made of unless given
        strength X: how many times it is added; the best of 1, 2, 4 and 8 on those pairs unless given
        n_random: so many random vectors of its length beside it
        save FILE: write the vector, to a file that ends in .json or .safetensors, for `steer --vector`
        overwrite: write it over a file that is there
        seed: of what is drawn

    Examples:
        cutaway interpret function-vector --demo
        cutaway interpret function-vector smollm2-135m --pairs opposite --save opposite.safetensors
        cutaway interpret function-vector smollm2-135m --pairs pairs.jsonl --layer 12 --strength 2

    In Python:
        from cutaway import steering
        found = steering.function_vector(lm, [("hot", "cold"), ("big", "small"), ...], n_shots=5)
        found.accuracies, found.heads[:3]
    """
    from cutaway.interp import steering
    from cutaway.interp.steering.vector import checked_ending

    if save is not None:
        check_new_file(checked_ending(save), "the vector", overwrite=overwrite)
    given = _read(pairs)
    with count_progress("edits") as progress:
        found = steering.function_vector(
            lm, given, n_shots=n_shots, n_prompts=n_prompts, n_heads=n_heads, layer=layer, strength=strength, n_random=n_random,
            seed=seed, progress=progress,
        )  # fmt: skip
    if save is not None:
        replace(found.vector, model=source).save(save)
        stderr_console().print(f"The vector is in {save}.\n", style="dim", markup=False, soft_wrap=True)
    return found


def _read(pairs: str) -> Sequence[tuple[str, str]]:
    from cutaway.experiments.word_pairs import WORD_PAIRS
    from cutaway.interp.json_lines import read_text_columns

    if pairs in WORD_PAIRS:
        return WORD_PAIRS[pairs]
    columns = read_text_columns(pairs, needed=("input", "output"))
    return list(zip(columns["input"], columns["output"], strict=True))
