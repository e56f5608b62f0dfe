"""In models whose circuit is known, patched edges are that circuit; what estimates miss of it is known too."""

from collections.abc import Callable

import pytest
from benchmarks.edges import known_edges, metric_of, saturated, wrong_or_missing

from cutaway.experiments.handmade import HANDMADE, Handmade
from cutaway.interp.circuits import EdgeScores, score_edges

THRESHOLD = 0.05  # of the difference between the runs
N_ROWS = 2


def scored(make: Callable, method: str, *, is_saturated: bool, steps: int = 5) -> tuple[EdgeScores, Handmade]:
    made = saturated(make()) if is_saturated else make()
    rows = slice(0, N_ROWS)
    found = score_edges(
        made.model,
        made.tokens[rows],
        made.corrupted_tokens[rows],
        metric_of(made, rows),
        method=method,
        steps=steps,  # type: ignore[arg-type]
    )
    return found, made


@pytest.mark.parametrize(
    ("name", "is_saturated"),
    [(name, False) for name in HANDMADE if "3 layers" not in name]
    + [(name, True) for name in ("induction", "copying", "indirect object", "neuron")],
)
def test_patched_edges_are_the_circuit(name: str, is_saturated: bool) -> None:
    found, made = scored(HANDMADE[name], "exact", is_saturated=is_saturated)
    assert wrong_or_missing(found, made, THRESHOLD) == (set(), set())


@pytest.mark.parametrize(("method", "steps"), [("eap", 1), ("eap-ig-inputs", 4), ("eap-ig-activations", 4)])
def test_estimates_miss_keys_where_attention_is_saturated(method: str, steps: int) -> None:
    """Along a line too, unless one of its points happens to lie where attention goes over from one key to the other."""
    found, made = scored(HANDMADE["induction"], method, is_saturated=False, steps=steps)
    assert wrong_or_missing(found, made, THRESHOLD) == (set(), set())
    found, made = scored(HANDMADE["induction"], method, is_saturated=True, steps=steps)
    before, inducing = (f"L{layer}H{head}" for layer, head in made.circuit.heads)
    assert wrong_or_missing(found, made, THRESHOLD) == (set(), {f"{before}->{inducing}.k", f"embed->{before}.v"})


def test_a_line_of_too_few_points_is_told_by_its_sum() -> None:
    found, _ = scored(HANDMADE["induction"], "eap-ig-inputs", is_saturated=True, steps=4)
    assert "The embedding's scores sum to -" in found.summary()
    assert f"with more points they come to {found.gap:+.4g}" in found.summary()
    assert abs(found.completeness.total) < 0.01 * abs(found.gap)


def test_what_was_missed_is_told_where_it_is_tried() -> None:
    made = saturated(HANDMADE["induction"]())
    rows = slice(0, N_ROWS)
    found = score_edges(made.model, made.tokens[rows], made.corrupted_tokens[rows], metric_of(made, rows), exact_top=1000)
    agreement = found.agreement()
    assert agreement is not None
    assert set(map(str, agreement.misses)) == known_edges(made) - {
        f"L1H{next(head for layer, head in made.circuit.heads if layer)}->logits"
    }
    assert "2 misses" in found.summary()
    assert set(map(str, (each.edge for each in found.ranked(3)))) == known_edges(made)
