import itertools
import math

import numpy as np
import pytest
from matplotlib.colors import to_hex

from cutaway.plots import PALETTE, bars, lines


def overlaps(texts):
    boxes = [text.get_window_extent() for text in texts]
    return any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def bars_of(figure):
    return figure.axes[0].patches


def test_bars_have_the_length_the_colour_and_the_number_of_their_values():
    figure = bars([1.5, -2.0, math.nan, 0.0], labels=["a", " b", "gone", "$c$"], title="T", label="effect")
    axes = figure.axes[0]
    assert [bar.get_width() for bar in bars_of(figure)] == [1.5, -2.0, 0.0]
    assert [to_hex(bar.get_facecolor()).upper() for bar in bars_of(figure)] == [PALETTE[0], PALETTE[1], PALETTE[0]]
    assert [text.get_text() for text in axes.texts] == ["1.5", "−2.0", "0.0"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "·b", "$c$"]
    assert axes.get_xlabel() == "effect"
    assert axes.yaxis_inverted()


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ([9.0, 1.53, 0.281], ["9.00", "1.53", "0.28"]),
        ([0.15, -0.54321, -0.00001], ["0.150", "−0.543", "0.000"]),
        ([12, 7, 130], ["12", "7", "130"]),
        ([12345.6, 0.5], ["12346", "0"]),
        ([0.25, 0.5], ["0.25", "0.50"]),
        ([0.1 + 0.2, 0.5], ["0.3", "0.5"]),
        ([0.0, 0.0], ["0", "0"]),
        ([2.5e9, -1.0], ["2.50e+09", "−1.00e+00"]),
        ([3e-7, 0.0], ["3.00e−07", "0.00e+00"]),
    ],
)
def test_numbers_beside_bars_have_the_same_number_of_decimals(values, written):
    figure = bars(values, labels=[str(place) for place in range(len(values))], title="T")
    assert [text.get_text() for text in figure.axes[0].texts] == written


def test_the_greatest_are_kept_from_high_to_low():
    values = np.random.default_rng(0).normal(size=144)
    figure = bars(values, labels=[str(number) for number in range(144)], title="T", label="effect", top=20)
    order = np.argsort(-np.abs(values))[:20]
    assert [bar.get_width() for bar in bars_of(figure)] == sorted(values[order].tolist(), reverse=True)
    assert figure.axes[0].get_xlabel() == "effect, the 20 greatest of 144"


@pytest.mark.parametrize("n_bars", [1, 40, 300])
def test_bars_do_not_overlap_their_labels(n_bars):
    values = np.linspace(-1, 1, n_bars) if n_bars > 1 else [-3.0]
    figure = bars(values, labels=[f"layer {number}" for number in range(n_bars)], title="T")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert not overlaps([*axes.texts, *axes.get_yticklabels()])
    assert max(figure.get_size_inches()) < 17


def test_a_line_is_its_points_and_carries_its_name():
    figure = lines({" Paris": ([0, 1, 2, 3], [1.0, math.nan, 3.0, -1.0])}, title="T", x_label="layer", y_label="logit")
    axes = figure.axes[0]
    line, zero = axes.lines
    assert list(line.get_xdata()) == [0, 2, 3]
    assert list(line.get_ydata()) == [1.0, 3.0, -1.0]
    assert list(zero.get_ydata()) == [0, 0]
    assert [text.get_text() for text in axes.texts] == ["·Paris"]
    assert all(tick == int(tick) for tick in axes.get_xticks())


def test_many_lines_are_told_apart():
    series = {f"head {number}": (range(12), [number / 100 + layer for layer in range(12)]) for number in range(18)}
    figure = lines(series, title="T", x_label="layer", y_label="score")
    axes = figure.axes[0]
    figure.draw_without_rendering()
    looks = {
        (line.get_color(), str(line.get_linestyle()), line._dash_pattern[1] and tuple(line._dash_pattern[1])) for line in axes.lines
    }
    assert len(looks) == 18
    assert not overlaps(axes.texts)
    assert all(text.get_window_extent().x1 <= figure.bbox.x1 for text in axes.texts)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2,\): expected \(1,\)"):
        bars([1.0, 2.0], labels=["a"], title="T")
    with pytest.raises(ValueError, match="nothing to draw"):
        bars([math.nan], labels=["a"], title="T")
    with pytest.raises(ValueError, match="nothing to draw"):
        lines({"a": ([0], [math.inf])}, title="T", x_label="x", y_label="y")
    with pytest.raises(ValueError, match="2 values of x and 1 of y"):
        lines({"a": ([0, 1], [1.0])}, title="T", x_label="x", y_label="y")
