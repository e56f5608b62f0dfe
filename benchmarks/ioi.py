"""Indirect object identification on SmolLM2: which heads write the name, found in three ways, on prompts of one template.

`python -m benchmarks.ioi [--prompts 32] [--seed 0]`. After Wang et al. 2022, "Interpretability in the Wild", who
looked at GPT-2 small.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import torch

import cutaway
from cutaway.experiments.ioi import IOIPrompts, ioi_prompts
from cutaway.interp import residual
from cutaway.interp.attention import head_label
from cutaway.interp.patching import patch
from cutaway.interp.path_patching import path_patch
from cutaway.language_model import LanguageModel

MODEL = "smollm2-135m"
N_SHOWN = 5

Scores = Sequence[tuple[str, float]]
Find = Callable[[LanguageModel, IOIPrompts], Scores]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ioi", description=__doc__)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    lm = cutaway.load(MODEL, device="cpu")
    prompts = ioi_prompts(lm, arguments.prompts, seed=arguments.seed)
    print(f"{MODEL}, {len(prompts.texts)} prompts such as {prompts.texts[0]!r}, {torch.get_num_threads()} threads")
    answered(lm, prompts)
    direct, patched, paths = (timed(words, find, lm, prompts) for words, find in METHODS.items())
    movers = [name for name, value in direct if value > 0][:N_SHOWN]
    negative = [name for name, value in direct if value < 0][:N_SHOWN]
    strongest = [name for name, _ in patched][:N_SHOWN]
    print(f"name movers, which write the right name: {said(direct, movers, 'logits')}")
    print(f"negative heads, which write against it:  {said(direct, negative, 'logits')}")
    print(f"heads that patching z finds:             {said(patched, strongest, '%')}")
    print(f"heads with a path to the logits:         {said(paths, [name for name, _ in paths][:N_SHOWN], '%')}")
    named = movers + negative
    for words, others in (("paths", paths), ("patching z", patched)):
        common = [name for name in named if name in dict(others[: len(named)])]
        print(f"of these {len(named)}, {len(common)} are among the first {len(named)} of {words}: {', '.join(common)}")


def answered(lm: LanguageModel, prompts: IOIPrompts) -> None:
    """Print how often the right name is likelier than the giver's, and by how much."""
    with torch.no_grad():
        diff, corrupted = (prompts.metric(lm.model(tokens)) for tokens in (prompts.tokens, prompts.corrupted_tokens))
    share = float((diff > 0).double().mean())
    print(f"mean logit difference {float(diff.mean()):+.3f} (right less wrong name; {float(corrupted.mean()):+.3f} corrupted)")
    print(f"accuracy {100 * share:.1f} % (the right name is likelier than the wrong one)")


def by_direct_attribution(lm: LanguageModel, prompts: IOIPrompts) -> Scores:
    """Return what each head adds to the logit difference by itself."""
    found = residual.attribute(lm, prompts.tokens, list(prompts.answers), list(prompts.wrong_answers), by="head")
    heads = {head_label(layer, head) for layer in range(lm.config.n_layers) for head in range(lm.config.n_heads)}
    return [each for each in found.strongest(top=len(found.labels)) if each[0] in heads]


def by_patching(lm: LanguageModel, prompts: IOIPrompts) -> Scores:
    """Return how much of the logit difference each head's clean output brings into the corrupted run, in percent."""
    found = patch(lm, *runs(prompts), site="z", by="head")
    cells = [
        (head_label(layer, head), 100 * share)
        for layer, row in enumerate(found.recovery.tolist())
        for head, share in enumerate(row)
    ]
    return sorted(cells, key=lambda cell: -abs(cell[1]))


def by_paths(lm: LanguageModel, prompts: IOIPrompts) -> Scores:
    """Return how far each head's corrupted output takes the clean run by its path to the logits, in percent of the way."""
    heads = [head_label(layer, head) for layer in range(lm.config.n_layers) for head in range(lm.config.n_heads)]
    found = path_patch(lm, *runs(prompts), senders=heads, receivers=["logits"])
    return [(path.sender, 100 * path.recovery) for path in found.ranked()]


def runs(prompts: IOIPrompts) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    return prompts.tokens, prompts.corrupted_tokens, torch.tensor(prompts.answers), torch.tensor(prompts.wrong_answers)


def timed(words: str, find: Find, lm: LanguageModel, prompts: IOIPrompts) -> Scores:
    started = time.perf_counter()
    found = find(lm, prompts)
    print(f"{words}: {time.perf_counter() - started:.1f} s", flush=True)
    return found


def said(scores: Scores, names: Sequence[str], unit: str) -> str:
    value = dict(scores)
    return ", ".join(f"{name} {value[name]:+.2f}" for name in names) + f" ({unit})"


METHODS: dict[str, Find] = {"direct attribution": by_direct_attribution, "patching z": by_patching, "paths to the logits": by_paths}


if __name__ == "__main__":
    main()
