"""Circuits that are known: what each method finds of them in the models made by hand, as precision and recall."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Set

import torch
from torch import Tensor

from cutaway.experiments.handmade import HANDMADE, Handmade
from cutaway.hooks import Hooks, recording
from cutaway.interp.circuits import candidate_circuits
from cutaway.language_model import LanguageModel

HeadSet = Set[tuple[int, int]]
Method = Callable[[Handmade], HeadSet]

MATTERS = 0.1  # of the logit difference, or of the difference between the runs: what a head has to change to count as found


def main() -> None:
    for line in [*table(METHODS), "", *detector_table()]:
        print(line)


def table(methods: Mapping[str, Method], models: Mapping[str, Callable[[], Handmade]] = HANDMADE) -> list[str]:
    """Return one line for each method and model: how many heads it named, precision, recall, seconds."""
    width = max(map(len, [*models, *methods]))
    lines = [f"{'method':{width}}  {'model':{width}}  heads  named  precision  recall  time"]
    for method, find in methods.items():
        for name, make in models.items():
            made = make()
            started = time.perf_counter()
            found = find(made)
            time_s = time.perf_counter() - started
            precision, recall = precision_and_recall(found, set(made.circuit.heads))
            n_heads = len(made.circuit.heads) + len(made.distractors)
            lines.append(
                f"{method:{width}}  {name:{width}}  {n_heads:5}  {len(found):5}  {precision:9.2f}  {recall:6.2f}  {time_s:.2f} s"
            )
    return lines


def precision_and_recall(found: HeadSet, known: HeadSet) -> tuple[float, float]:
    """Return the shares of what was found that is known, and of what is known that was found; nothing found is precise."""
    n_right = len(set(found) & set(known))
    return n_right / len(found) if found else 1.0, n_right / len(known)


def changed(made: Handmade, value_of: Callable[[str, Tensor], Tensor]) -> dict[tuple[int, int], float]:
    """Return by how much the mean logit difference falls when one head's z is another, a whole forward for each head."""
    config, base = made.model.config, made.logit_diff(made.model(made.tokens)).mean()
    falls = {}
    for layer in range(config.n_layers):
        for head in range(config.n_heads):

            def put(z: Tensor, name: str, head: int = head) -> Tensor:
                z = z.clone()
                z[:, :, head] = value_of(name, z)[:, :, head]
                return z

            logits = made.model(made.tokens, hooks=Hooks({f"blocks.{layer}.attn.z": put}))
            falls[layer, head] = float(base - made.logit_diff(logits).mean())
    return falls


def knock_out(made: Handmade) -> HeadSet:
    base = float(made.logit_diff(made.model(made.tokens)).mean())
    falls = changed(made, lambda _name, z: torch.zeros_like(z))
    return {head for head, fall in falls.items() if abs(fall) > MATTERS * base}


def patch(made: Handmade) -> HeadSet:
    hooks, corrupted = recording("blocks.*.attn.z")
    gap = made.logit_diff(made.model(made.tokens)) - made.logit_diff(made.model(made.corrupted_tokens, hooks=hooks))
    falls = changed(made, lambda name, _z: corrupted[name])
    return {head for head, fall in falls.items() if abs(fall) > MATTERS * float(gap.mean())}


DETECTED = {role: role for role in ("previous", "first", "duplicate")}
DETECTED |= {"previous token": "previous", "duplicate token": "duplicate", "induction": "induction"}


def detector_table(models: Mapping[str, Callable[[], Handmade]] = HANDMADE) -> list[str]:
    """Return one line for each model: heads of a kind, and pairs of heads that make an induction circuit, named by the detectors."""
    width = max(map(len, models))
    lines = [f"{'detectors':{width}}  heads of a kind  named  precision  recall  circuits  named  precision  recall  time"]
    for name, make in models.items():
        made = make()
        started = time.perf_counter()
        found = candidate_circuits(LanguageModel(made.model, made.tokenizer))
        time_s = time.perf_counter() - started
        roles = {**made.circuit.heads, **made.distractors}
        known = {(head, DETECTED[role]) for head, role in roles.items() if role in DETECTED}
        named = {((each.layer, each.head), kind) for kind in set(DETECTED.values()) for each in found.heads.of_kind(kind, 0.5)}
        edges = {(edge.sender, edge.receiver) for edge in made.circuit.head_edges() if roles[edge.receiver] == "induction"}
        pairs = {(pair.previous, pair.induction) for pair in found.candidates}
        lines.append(
            f"{name:{width}}  {len(known):15}  {len(named):5}  {_shares(named, known)}  {len(edges):8}  {len(pairs):5}  "
            f"{_shares(pairs, edges)}  {time_s:.2f} s"
        )
    return lines


def _shares(found: Set[object], known: Set[object]) -> str:
    precision = f"{len(found & known) / len(found):.2f}" if found else "-"
    recall = f"{len(found & known) / len(known):.2f}" if known else "-"
    return f"{precision:>9}  {recall:>6}"


METHODS: dict[str, Method] = {
    "zero each head, one forward each": knock_out,
    "patch each head, one forward each": patch,
}


if __name__ == "__main__":
    main()
