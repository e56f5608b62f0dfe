"""Circuits that are known: what each method finds of them in the models made by hand, as precision and recall."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple

from cutaway.experiments.handmade import HANDMADE, Edge, Handmade, Head, Neuron
from cutaway.interp import metrics
from cutaway.interp.ablation import How, ablate
from cutaway.interp.attribution import Along, AttributionPatching, attribute_patches
from cutaway.interp.composition import candidate_circuits
from cutaway.interp.heads import HeadKind
from cutaway.interp.metrics import Metric
from cutaway.interp.patching import patch
from cutaway.interp.path_patching import patch_paths
from cutaway.language_model import LanguageModel

Found = Mapping[str, Set[object]]
"""What a method named, by what it names: heads, the inputs of heads, their patterns, neurons, edges."""
Method = Callable[[Handmade], Found]
Models = Mapping[str, Callable[[], Handmade]]

MATTERS = (
    0.05  # of the logit difference, or of the difference between the runs: what counts, as in attribution patching unless given
)
N_ROWS = 4  # of prompts for paths, which are many
WIDTH = 36  # of a model's name


class Known(NamedTuple):
    """What is right to name, and what of it must be found: the rest is the same in both runs, or all prompts."""

    right: Set[object]
    wanted: Set[object]


def main() -> None:
    for line in [*table(METHODS), "", *detector_table()]:
        print(line)


# --- what is known


def known_of(made: Handmade) -> dict[str, Known]:
    """Return what is known by what it is of: heads as (layer, head), inputs with the letter after it, neurons, edges by their names."""
    heads, neurons = set(made.circuit.heads), set(made.circuit.neurons)
    of_heads = [edge for edge in made.circuit.edges if isinstance(edge.receiver, Head)]
    inputs = {(*edge.receiver, edge.input) for edge in of_heads}
    carrying = {(*edge.receiver, edge.input) for edge in of_heads if edge in made.carrying}
    patterns = [{(layer, head) for layer, head, letter in each if letter in "qk"} for each in (inputs, carrying)]
    return {
        "heads": Known(heads, heads),
        "inputs": Known(inputs, carrying),
        "patterns": Known(*patterns),
        "neurons": Known(neurons, neurons),
        "edges": Known(set(map(_edge_name, made.circuit.edges)), set(map(_edge_name, made.carrying))),
    }


def _edge_name(edge: Edge) -> tuple[str, str]:
    """Return sender and receiver as path patching writes them."""
    return _part_name(edge.sender), _part_name(edge.receiver) + (f".{edge.input}" if isinstance(edge.receiver, Head) else "")


def _part_name(part: Head | Neuron | str) -> str:
    match part:
        case Head(layer, head):
            return f"L{layer}H{head}"
        case Neuron(layer, index):
            return f"mlp{layer}.{index}"
    return part


# --- what is found


def ablating(how: How) -> Method:
    """Return the heads and neurons without which the logit difference changes."""

    def find(made: Handmade) -> Found:
        def changing(what: Any, layers: int | None = None) -> Set[tuple[int, int]]:
            found = ablate(made.model, made.tokens, what=what, layers=layers, how=how, metric=metric_of(made))
            least = MATTERS * float(found.base.mean())
            return {(unit.layer or 0, unit.index or 0) for unit, effect in found.ranked() if abs(effect) >= least}

        config = made.model.config
        layers = range(config.n_layers if config.d_mlp else 0)
        neurons = {Neuron(*place) for layer in layers for place in changing("neuron", layer)}
        return {"heads": changing("head"), **({"neurons": neurons} if layers else {})}

    return find


def patching(*sites: str) -> Method:
    """Return the heads whose activation, patched, takes the run part of the way to the other."""

    def find(made: Handmade) -> Found:
        lm, found = LanguageModel(made.model, made.tokenizer), set[object]()
        for site in sites:
            result = patch(lm, made.tokens, made.corrupted_tokens, made.answers, made.wrong_answers, site=site, by="head")
            places = (result.recovery.abs() >= MATTERS).nonzero().tolist()
            found |= {(layer, head, *([site] if site in "qkv" else [])) for layer, head in places}
        return {KIND_OF[sites[0]]: found}

    return find


def path_patching(made: Handmade) -> Found:
    """Return the paths that take the run part of the way to the other, and the heads and neurons that have one to the logits."""
    rows, config = slice(0, N_ROWS), made.model.config
    heads = [f"L{layer}H{head}" for layer in range(config.n_layers) for head in range(config.n_heads)]
    neurons = [f"mlp{layer}.{index}" for layer in range(config.n_layers) for index in range(config.d_mlp)]
    found = patch_paths(
        made.model, made.tokens[rows], made.corrupted_tokens[rows], metric_of(made, rows), senders=["embed", *heads, *neurons],
        receivers=[*heads, *neurons, "logits"],
    )  # fmt: skip
    edges = {(path.sender, path.receiver) for path in found.ranked() if abs(path.recovery) >= MATTERS}
    reached, before = {"logits"}, set[str]()
    while reached != before:
        before = set(reached)
        reached |= {sender for sender, receiver in edges if receiver.rpartition(".")[0] in reached or receiver in reached}
    named = {"edges": edges, "heads": {_place(name) for name in reached & set(heads)}}
    return named | ({"neurons": {Neuron(*_place(name)) for name in reached & set(neurons)}} if neurons else {})


def _place(name: str) -> tuple[int, int]:
    layer, place = name.removeprefix("mlp").removeprefix("L").replace("H", ".").split(".")
    return int(layer), int(place)


def attributing(along: Along | None) -> Method:
    """Return the heads, their inputs and patterns, and the neurons whose estimates are of the size that matters."""

    def find(made: Handmade) -> Found:
        has_neurons = made.model.config.d_mlp > 0
        kinds = ("z", "q", "k", "v", "pattern", *(["neuron"] if has_neurons else []))
        found = attribute_patches(made.model, made.tokens, made.corrupted_tokens, metric_of(made), kinds=kinds, along=along)
        named: dict[str, set[object]] = {"heads": set(), "inputs": set(), "patterns": set()}
        for kind in kinds[:-1] if has_neurons else kinds:
            named[KIND_OF[kind]] |= {(*place, *([kind] if kind in "qkv" else [])) for place in _large(found, kind)}
        return named | ({"neurons": {Neuron(*place) for place in _large(found, "neuron")}} if has_neurons else {})

    return find


def _large(found: AttributionPatching, kind: Any) -> Set[tuple[int, int]]:
    """Return the places of the nodes of a kind whose estimate is of the size from which on the library counts them."""
    least = found.threshold * abs(found.gap)
    return {(each.node.layer, each.node.unit or 0) for each in found.ranked(kind) if abs(each.estimate) >= least}


KIND_OF = {"z": "heads", "q": "inputs", "k": "inputs", "v": "inputs", "pattern": "patterns"}


def metric_of(made: Handmade, rows: slice = slice(None)) -> Metric:
    return metrics.logit_diff(made.answers[rows], made.wrong_answers[rows])


METHODS: dict[str, Method] = {
    "ablation, zero": ablating("zero"),
    "ablation, mean": ablating("mean"),
    "ablation, resample": ablating("resample"),  # from other clean prompts: what a head says in all of them alike is not missed
    "patching z": patching("z"),
    "patching q, k, v": patching("q", "k", "v"),
    "patching pattern": patching("pattern"),
    "path patching": path_patching,
    "attribution": attributing(None),
    "attribution on a line": attributing("activations"),
}


# --- how much of it is right


def table(methods: Mapping[str, Method], models: Models = HANDMADE) -> list[str]:
    """Return for each method, and what it names, a line for each model: how many it named, how many there are to be found, precision,
    recall, and the seconds of all that it names; at last each method's means, precision's over the models where it named any."""
    lines: list[str] = []
    means = [_line("mean over the models", ("models", "", "precision", "recall", ""))]
    for method, find in methods.items():
        rows: dict[str, list[str]] = {}
        shares: dict[str, list[tuple[float | None, float]]] = {}
        for name, make in models.items():
            made = make()
            started = time.perf_counter()
            found = find(made)
            time_s = time.perf_counter() - started
            for kind, named in found.items():
                known = known_of(made)[kind]
                if not known.right and not named:
                    continue  # a model without any, and none was named
                precision, recall = precision_and_recall(named, *known)
                shares.setdefault(kind, []).append((precision, recall))
                numbers = str(len(named)), str(len(known.wanted)), _said(precision), _said(recall), f"{time_s:.2f} s"
                rows.setdefault(kind, []).append(_line(f"  {name}", numbers))
        for kind, of_kind in rows.items():
            lines += [_line(f"{method}: {kind}", ("named", "known", "precision", "recall", "time")), *of_kind]
            means.append(_line(f"  {method}: {kind}", (str(len(of_kind)), "", *_means(shares[kind]), "")))
    return [*lines, "", *means]


def precision_and_recall(found: Set[object], right: Set[object], wanted: Set[object]) -> tuple[float | None, float | None]:
    """Return the shares of what was found that is right, None where nothing was found, and of what is wanted that was found."""
    return len(found & right) / len(found) if found else None, len(found & wanted) / len(wanted) if wanted else None


DETECTED: dict[str, HeadKind] = {"previous": "previous", "first": "first", "duplicate": "duplicate"}
DETECTED |= {"previous token": "previous", "duplicate token": "duplicate", "induction": "induction"}


def detector_table(models: Models = HANDMADE) -> list[str]:
    """Return two lines for each model, and their means: heads of a kind, and pairs of heads that make an induction circuit, as the
    detectors name them."""
    lines: dict[str, list[str]] = {"heads of a kind": [], "induction pairs": []}
    shares: dict[str, list[tuple[float | None, float | None]]] = {kind: [] for kind in lines}
    for name, make in models.items():
        made = make()
        started = time.perf_counter()
        found = candidate_circuits(LanguageModel(made.model, made.tokenizer))
        time_s = time.perf_counter() - started
        roles = {**made.circuit.heads, **made.distractors}
        inducing = {head for head, role in roles.items() if role == "induction"}
        known: dict[str, Set[object]] = {
            "heads of a kind": {(head, DETECTED[role]) for head, role in roles.items() if role in DETECTED},
            "induction pairs": {(edge.sender, edge.receiver) for edge in made.circuit.head_edges() if edge.receiver in inducing},
        }
        kinds = sorted(set(DETECTED.values()))
        named: dict[str, Set[object]] = {
            "heads of a kind": {((each.layer, each.head), kind) for kind in kinds for each in found.heads.of_kind(kind, 0.5)},
            "induction pairs": {(pair.previous, pair.induction) for pair in found.candidates},
        }
        for kind in lines:
            if known[kind] or named[kind]:
                shares[kind].append(precision_and_recall(named[kind], known[kind], known[kind]))
                numbers = str(len(named[kind])), str(len(known[kind])), *map(_said, shares[kind][-1]), f"{time_s:.2f} s"
                lines[kind].append(_line(f"  {name}", numbers))
    shown = []
    for kind, rows in lines.items():
        shown += [_line(f"detectors: {kind}", ("named", "known", "precision", "recall", "time")), *rows]
    shown += ["", _line("mean over the models", ("models", "", "precision", "recall", ""))]
    return shown + [_line(f"  detectors: {kind}", (str(len(rows)), "", *_means(shares[kind]), "")) for kind, rows in lines.items()]


def _means(shares: Sequence[tuple[float | None, float | None]]) -> tuple[str, str]:
    columns = [[each for each in column if each is not None] for column in zip(*shares, strict=True)]
    precision, recall = (_said(sum(column) / len(column) if column else None) for column in columns)
    return precision, recall


def _said(share: float | None) -> str:
    return "-" if share is None else f"{share:.2f}"


def _line(name: str, numbers: Sequence[str]) -> str:
    widths = (8, 7, 11, 8, 9)
    return (f"{name:{WIDTH}}" + "".join(f"{each:>{width}}" for each, width in zip(numbers, widths, strict=True))).rstrip()


if __name__ == "__main__":
    main()
