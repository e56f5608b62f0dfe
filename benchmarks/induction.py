"""SmolLM2 without its induction heads: the loss on random tokens that come twice, beside draws of as many other heads.

Heads with prefix matching >= 0.5 are set to their mean over runs of random tokens, all at once; the null are 20 draws of as many
heads with prefix matching < 0.1, of the same layers, as many in each. Prints every draw, and the same with zeros.
"""

from __future__ import annotations

import random
import statistics
import time

import torch
from torch import Tensor

import cutaway
from cutaway.interp import metrics
from cutaway.interp.ablation import Ablation, ablate_heads
from cutaway.interp.attention import head_label
from cutaway.interp.heads import detect_heads, repeated_tokens
from cutaway.runtime import seeded_generator

N_DETECT, N_MEASURE, N_REFERENCE, N_DRAWS = 16, 16, 32, 20
SEQ_LENGTH = 50
IS_INDUCTION, IS_OTHER = 0.5, 0.1
SECOND_RISES, FIRST_RISES, RATIO = 4.0, 0.5, 8.0  # nats at least, nats at most, times the median draw at least

Heads = list[tuple[int, int]]


def main() -> None:
    started = time.perf_counter()
    lm = cutaway.load("smollm2-135m", device="cpu")
    found = detect_heads(lm, n_sequences=N_DETECT, seq_length=SEQ_LENGTH, seed=0)
    matching = found.scores["induction"]
    induction, others = heads_where(matching >= IS_INDUCTION), heads_where(matching < IS_OTHER)
    print(found.losses_said())
    print(f"prefix matching >= {IS_INDUCTION}: {', '.join(f'{head_label(*head)} {matching[head]:.2f}' for head in induction)}")
    sets = {"induction": induction} | {f"draw {i + 1}": draw for i, draw in enumerate(draws(induction, others))}
    measured = repeated_tokens(lm, n_sequences=N_MEASURE, seq_length=SEQ_LENGTH, seed=1)
    reference = random_tokens(lm.config.d_vocab, found.drawn.tokens.shape[1])
    first, last = measured.start, measured.start + measured.seq_length  # predictions that begin with each copy's first token
    copies = {
        "first": (measured.tokens[:, :last], metrics.loss(measured.tokens[:, :last], first=first)),
        "second": (measured.tokens, metrics.loss(measured.tokens, first=last)),
    }
    for how in ("mean", "zero"):
        rises = {
            copy: ablate_heads(lm, sets, tokens, how=how, metric=loss, reference=reference if how == "mean" else None)
            for copy, (tokens, loss) in copies.items()
        }
        report(how, sets, rises)
    print(f"{time.perf_counter() - started:.0f} s, {torch.get_num_threads()} threads")


def heads_where(chosen: Tensor) -> Heads:
    return [(layer, head) for layer, head in chosen.nonzero().tolist()]


def draws(induction: Heads, others: Heads) -> list[Heads]:
    """Draw as many other heads of each layer as it has induction heads."""
    generator = random.Random(0)
    layers = sorted({layer for layer, _ in induction})
    return [
        [
            head
            for layer in layers
            for head in sorted(
                generator.sample([each for each in others if each[0] == layer], sum(each[0] == layer for each in induction))
            )
        ]
        for _ in range(N_DRAWS)
    ]


def random_tokens(d_vocab: int, n_pos: int) -> Tensor:
    """Return runs of random tokens, each token of a run another one."""
    generator = seeded_generator(2)
    return torch.stack([torch.randperm(d_vocab, generator=generator)[:n_pos] for _ in range(N_REFERENCE)])


def report(how: str, sets: dict[str, Heads], rises: dict[str, Ablation]) -> None:
    print(f"\n{how} ablation: {rises['second'].replacement}")
    print(f"{'heads':10}  {'first copy':>10}  {'second copy':>11}")
    base = {copy: float(rise.base.mean()) for copy, rise in rises.items()}
    print(f"{'none':10}  {base['first']:10.3f}  {base['second']:11.3f}   nats")
    for name, heads in sets.items():
        rise = {copy: each.effect(name) for copy, each in rises.items()}
        print(f"{name:10}  {rise['first']:+10.3f}  {rise['second']:+11.3f}   {' '.join(head_label(*head) for head in heads)}")
    of_draws = [rises["second"].effect(name) for name in sets if name != "induction"]
    median = statistics.median(of_draws)
    second, first = rises["second"].effect("induction"), rises["first"].effect("induction")
    print(f"second copy {second:+.2f} (at least {SECOND_RISES:+}): {verdict(second >= SECOND_RISES)}")
    print(f"first copy {first:+.2f} (at most {FIRST_RISES:+}): {verdict(first <= FIRST_RISES)}")
    print(
        f"median of {len(of_draws)} draws {median:+.3f}, largest {max(of_draws):+.3f}; the rise is "
        f"{second / median if median > 0 else float('inf'):.1f} x the median (at least {RATIO:g}): {verdict(second >= RATIO * median)}"
    )


def verdict(holds: bool) -> str:
    return "holds" if holds else "DOES NOT HOLD"


if __name__ == "__main__":
    main()
