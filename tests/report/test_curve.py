import math

import numpy as np
import pytest

from cutaway.report import Curve, draw_curves

BRAILLE = {chr(0x2800 + bits) for bits in range(256)}


def rows_of(curves, **settings):
    return draw_curves(curves, **settings).plain.split("\n")


def plot_area(rows):
    """Return the rows between the axes, without tick labels and the curves' labels."""
    bottom = next(number for number, row in enumerate(rows) if "└" in row or "++" in row)
    left = rows[bottom].index("└" if "└" in rows[bottom] else "+") + 1
    right = rows[bottom].index(" step")
    return [row[left:right].ljust(right - left) for row in rows[:bottom]]


def test_a_falling_line_goes_from_the_upper_left_to_the_lower_right():
    steps = list(range(101))
    area = plot_area(rows_of([Curve("loss", steps, [100 - step for step in steps])], width=60, height=14))
    drawn = [[column for column, cell in enumerate(row) if cell in BRAILLE] for row in area]
    middles = [np.mean(columns) for columns in drawn if columns]
    assert middles == sorted(middles)
    assert drawn[0][0] == 0
    assert drawn[-1][-1] == len(area[0]) - 1
    # a straight line has no corner: every middle lies within two cells of the diagonal
    diagonal = np.linspace(middles[0], middles[-1], len(middles))
    assert np.abs(np.array(middles) - diagonal).max() < 2


def test_a_line_has_no_gap():
    steps = [0, 50, 51, 100]
    area = plot_area(rows_of([Curve("loss", steps * 30, [4, 4, 1, 1] * 30)], width=60, height=14))
    assert all(any(row[column] in BRAILLE for row in area) for column in range(len(area[0])))
    assert all(any(cell in BRAILLE for cell in row) for row in area[1:-1])


def test_few_points_are_marked_where_they_are():
    area = plot_area(rows_of([Curve("val", [0, 10, 20], [3.0, 1.0, 2.0])], width=60, height=13))
    marks = [(row, column) for row, cells in enumerate(area) for column, cell in enumerate(cells) if cell == "●"]
    last = len(area[0]) - 1
    assert sorted(column for _, column in marks) == pytest.approx([0, last / 2, last], abs=1)
    rows = {column: row for row, column in marks}
    high, low, between = rows[0], rows[sorted(rows)[1]], rows[last]
    assert high < between < low
    assert between == pytest.approx((high + low) / 2, abs=1)


@pytest.mark.parametrize("width", [40, 80, 100])
@pytest.mark.parametrize("is_unicode", [True, False])
def test_it_keeps_to_its_width_and_encoding(width, is_unicode):
    steps = list(range(0, 2001, 10))
    curves = [
        Curve("train", steps, [1.5 + math.exp(-step / 300) for step in steps]),
        Curve("a validation set with a very long name", steps[::25], [1.6] * len(steps[::25])),
    ]
    rows = rows_of(curves, width=width, height=14, is_unicode=is_unicode)
    assert max(map(len, rows)) <= width
    assert len(rows) == 14
    assert is_unicode or all(row.isascii() for row in rows)


def test_labels_stand_at_the_ends_in_the_order_of_the_values():
    curves = [Curve(name, [0, 1], [4, value]) for name, value in (("b", 1.02), ("c", 1.0), ("a", 1.04), ("z", 3.0))]
    rows = rows_of(curves, width=60, height=16)
    at = {name: next(number for number, row in enumerate(rows) if row.split()[-2:-1] == [name]) for name in "abcz"}
    assert at["z"] < at["a"] < at["b"] < at["c"]
    assert any("a 1.040" in row for row in rows)


def test_the_axis_tells_the_values():
    rows = rows_of([Curve("loss", [0, 20_000], [4.0, 1.0])], width=80, height=16)
    ticks = [float(row.split("┤")[0]) for row in rows if "┤" in row]
    assert ticks == sorted(ticks, reverse=True)
    assert min(ticks) >= 0.8
    assert max(ticks) <= 4.2
    assert len(set(np.round(np.diff(ticks), 6))) == 1
    assert rows[-1].split() == ["0", "5k", "10k", "15k", "20k"]


def test_values_that_are_not_finite_are_left_out():
    steps = [0, 1, 2, 3]
    assert rows_of([Curve("loss", steps, [3, math.nan, math.inf, 1])]) == rows_of([Curve("loss", [0, 3], [3, 1])])
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_curves([Curve("loss", [1], [math.nan]), Curve("none", [], [])])


def test_one_point_can_be_drawn():
    assert any("loss 2.000" in row for row in rows_of([Curve("loss", [5], [2.0])], width=40, height=8))


def test_a_curve_that_leads_lies_above_the_others_and_is_bold():
    curves = [Curve("a", [0, 1, 2], [0, 1, 0]), Curve("b", [0, 1, 2], [0, 1, 1])]  # the same up to step 1
    led, plain = (draw_curves(curves, width=60, height=12, first_leads=leads) for leads in (True, False))
    assert led.plain.count("●") > plain.plain.count("●")
    assert plain.plain.count("■") > led.plain.count("■")
    styles = {str(span.style) for span in led.spans}
    assert "bold cyan" in styles
    assert "bold yellow" not in styles
    assert not any("bold" in str(span.style) for span in plain.spans)


def test_small_values_look_small_beside_the_least_heights():
    wobble = [Curve("noise", list(range(100)), [0.02 + 0.001 * (step % 7) for step in range(100)])]
    filled = [
        sum(any(cell in BRAILLE for cell in row) for row in plot_area(rows_of(wobble, width=60, height=14, least=least)))
        for least in (None, (0.0, 0.2))
    ]
    assert filled[0] >= 10
    assert filled[1] <= 2
