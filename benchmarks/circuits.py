"""Circuits that are known: what each method finds of them in the models made by hand, as precision and recall."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Set

from cutaway.experiments.handmade import HANDMADE, Handmade
from cutaway.interp import metrics
from cutaway.interp.ablation import How, ablate
from cutaway.interp.attribution import Along, attribute_patches
from cutaway.interp.composition import candidate_circuits
from cutaway.interp.heads import HeadKind, detect_heads
from cutaway.interp.metrics import Metric
from cutaway.interp.patching import patch
from cutaway.interp.path_patching import patch_paths
from cutaway.language_model import LanguageModel

KINDS: tuple[HeadKind, ...] = ("previous", "duplicate", "induction")

HeadSet = Set[tuple[int, int]]
Method = Callable[[Handmade], HeadSet]

MATTERS = 0.1  # of the logit difference, or of the difference between the runs: what a head has to change to count as found
N_ROWS = 4  # of prompts for paths between all heads, which are many


def main() -> None:
    for line in [*table(METHODS), "", *detector_table()]:
        print(line)


def table(methods: Mapping[str, Method], models: Mapping[str, Callable[[], Handmade]] = HANDMADE) -> list[str]:
    """Return one line for each method and model: how many heads it named, precision, recall, seconds; and each method's means,
    precision's over the models where it named any."""
    width = max(map(len, [*models, *methods]))
    lines = [f"{'method':{width}}  {'model':{width}}  heads  named  precision  recall  time"]
    means = []
    for method, find in methods.items():
        of_models = []
        for name, make in models.items():
            made = make()
            started = time.perf_counter()
            found = find(made)
            time_s = time.perf_counter() - started
            of_models.append(precision_and_recall(found, set(made.circuit.heads)))
            n_heads = len(made.circuit.heads) + len(made.distractors)
            lines.append(f"{method:{width}}  {name:{width}}  {n_heads:5}  {len(found):5}  {_said(*of_models[-1])}  {time_s:.2f} s")
        precise = [each for each, _ in of_models if each is not None]
        precision = sum(precise) / len(precise) if precise else None
        recall = sum(each for _, each in of_models) / len(of_models)
        means.append(f"{method:{width}}  {f'mean of {len(of_models)} models':{width}}  {'':5}  {'':5}  {_said(precision, recall)}")
    return [*lines, "", *means]


def precision_and_recall(found: HeadSet, known: HeadSet) -> tuple[float | None, float]:
    """Return the shares of what was found that is known, None where nothing was found, and of what is known that was found."""
    n_right = len(set(found) & set(known))
    return n_right / len(found) if found else None, n_right / len(known)


def ablating(how: How) -> Method:
    """Return the heads without which the logit difference changes."""

    def find(made: Handmade) -> HeadSet:
        found = ablate(made.model, made.tokens, what="head", how=how, metric=metric_of(made))
        least = MATTERS * float(found.base.mean())
        return {(unit.layer or 0, unit.index or 0) for unit, effect in found.ranked() if abs(effect) > least}

    return find


def patching(site: str) -> Method:
    """Return the heads whose activation, patched, takes the run part of the way to the other."""

    def find(made: Handmade) -> HeadSet:
        lm = LanguageModel(made.model, made.tokenizer)
        found = patch(lm, made.tokens, made.corrupted_tokens, made.answers, made.wrong_answers, site=site, by="head")
        return {(layer, head) for layer, head in (found.recovery.abs() > MATTERS).nonzero().tolist()}

    return find


def path_patching(made: Handmade) -> HeadSet:
    """Return the heads with a path that matters: to the logits, or to an input of a head that has one."""
    rows, config = slice(0, N_ROWS), made.model.config
    heads = [f"L{layer}H{head}" for layer in range(config.n_layers) for head in range(config.n_heads)]
    mlps = [f"mlp{layer}" for layer in range(config.n_layers) if config.d_mlp]
    found = patch_paths(
        made.model, made.tokens[rows], made.corrupted_tokens[rows], metric_of(made, rows), senders=heads + mlps,
        receivers=[*heads, *mlps, "logits"],
    )  # fmt: skip
    strong = {(path.sender, path.receiver.split(".")[0] if path.receiver.startswith("L") else path.receiver)
              for path in found.ranked() if abs(path.recovery) > MATTERS}  # fmt: skip
    reached, before = {"logits"}, set[str]()
    while reached != before:
        before = set(reached)
        reached |= {sender for sender, receiver in strong if receiver in reached}
    return {(layer, head) for layer in range(config.n_layers) for head in range(config.n_heads) if f"L{layer}H{head}" in reached}


def attributing(along: Along | None) -> Method:
    """Return as many heads as the circuit has, those whose `z` has the largest estimates."""

    def find(made: Handmade) -> HeadSet:
        found = attribute_patches(made.model, made.tokens, made.corrupted_tokens, metric_of(made), kinds=("z",), along=along)
        return {(each.node.layer, each.node.unit or 0) for each in found.ranked("z")[: len(made.circuit.heads)]}

    return find


def detecting(made: Handmade) -> HeadSet:
    """Return the heads that do what circuits are made of: previous-token, duplicate-token and induction heads."""
    scores = detect_heads(LanguageModel(made.model, made.tokenizer))
    return {(each.layer, each.head) for kind in KINDS for each in scores.of_kind(kind, 0.5)}


def metric_of(made: Handmade, rows: slice = slice(None)) -> Metric:
    return metrics.logit_diff(made.answers[rows], made.wrong_answers[rows])


DETECTED: dict[str, HeadKind] = {"previous": "previous", "first": "first", "duplicate": "duplicate"}
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
        inducing = {head for head, role in roles.items() if role == "induction"}
        edges = {(edge.sender, edge.receiver) for edge in made.circuit.head_edges() if edge.receiver in inducing}
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


def _said(precision: float | None, recall: float) -> str:
    return f"{'-' if precision is None else f'{precision:.2f}':>9}  {recall:6.2f}"


METHODS: dict[str, Method] = {
    "ablation, zero": ablating("zero"),
    "ablation, mean": ablating("mean"),
    "ablation, resample": ablating("resample"),  # from other clean prompts: what a head says in all of them alike is not missed
    "patching z": patching("z"),
    "path patching": path_patching,
    "attribution, top k": attributing(None),
    "attribution on a line, top k": attributing("activations"),
    "detectors": detecting,
}


if __name__ == "__main__":
    main()
