"""A check keeps its bounds, says by how much it misses them, and travels as JSON."""

import json
import math

import pytest

from cutaway.experiments.frame import Check


def check(value: float, null: float = 0.0, **bounds: float) -> Check:
    return Check(name="score", value=value, null=null, null_of="untrained", **bounds)


@pytest.mark.parametrize(
    ("value", "bounds", "passes", "misses_by"),
    [
        (0.75, {"at_least": 0.75}, True, 0.0),
        (0.74, {"at_least": 0.75}, False, 0.01),
        (1.0, {"at_most": 1.0}, True, 0.0),
        (1.5, {"at_most": 1.0}, False, 0.5),
        (3.0, {"at_least": 2, "at_most": 4}, True, 0.0),
        (5.0, {"at_least": 2, "at_most": 4}, False, 1.0),
        (1.0, {"at_least": 2, "at_most": 4}, False, 1.0),
        (math.inf, {"at_least": 2}, True, 0.0),
    ],
)
def test_bounds(value: float, bounds: dict[str, float], passes: bool, misses_by: float) -> None:
    each = check(value, **bounds)
    assert each.passed is passes
    assert each.misses_by == pytest.approx(misses_by)


def test_what_is_no_number_fails() -> None:
    each = check(math.nan, at_least=0.0)
    assert not each.passed
    assert math.isnan(each.misses_by)


def test_null_that_would_pass_is_told() -> None:
    assert check(0.9, null=0.8, at_least=0.5).null_passes
    assert not check(0.9, null=0.1, at_least=0.5).null_passes


def test_without_a_bound_it_is_refused() -> None:
    with pytest.raises(ValueError, match="has no bound and could not fail"):
        check(1.0)


@pytest.mark.parametrize("value", [0.5, math.nan, math.inf, -math.inf])
def test_json_and_back(value: float) -> None:
    each = check(value, at_least=0.1)
    written = json.loads(json.dumps(each.to_dict(), allow_nan=False))
    again = Check.from_dict(written)
    assert again.passed is each.passed
    assert again == each or math.isnan(value)


def test_expected_is_said_in_words() -> None:
    assert check(1.0, at_least=0.75).expected == "at least 0.75"
    assert check(1.0, at_most=4).expected == "at most 4"
    assert check(1.0, at_least=2, at_most=2.5).expected == "2 to 2.5"
    assert check(1.0, at_least=2, at_most=2).expected == "exactly 2"
