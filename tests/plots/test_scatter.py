import math

import pytest

from cutaway.plots import scatter


def test_points_stand_where_their_numbers_say():
    figure = scatter(
        {"frozen": ([1.0, 2.0, math.nan], [1.0, 3.0, 0.0]), "$x$": ([-1.0], [0.5])},
        title="T",
        x_label="x",
        y_label="y",
        has_diagonal=True,
    )
    axes = figure.axes[0]
    frozen, other = axes.collections
    assert frozen.get_offsets().tolist() == [[1.0, 1.0], [2.0, 3.0]]
    assert other.get_offsets().tolist() == [[-1.0, 0.5]]
    (diagonal,) = axes.lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [-1.0, 2.0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["frozen", "$x$"]
    assert not any(text.get_parse_math() for text in axes.get_legend().get_texts())
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x", "y")
    assert len({tuple(each.get_facecolor()[0]) for each in axes.collections}) == 2


def test_levels_are_lines_with_names():
    figure = scatter({"a": ([0.0, 2.0], [0.0, 1.0])}, title="T", x_label="x", y_label="y", levels={"half": 0.5})
    axes = figure.axes[0]
    (line,) = axes.lines
    assert list(line.get_ydata()) == [0.5, 0.5]
    assert [text.get_text() for text in axes.texts] == ["half"]


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="no point is finite"):
        scatter({"a": ([math.nan], [1.0])}, title="T", x_label="x", y_label="y")
    with pytest.raises(ValueError, match="give one y for each x"):
        scatter({"a": ([1.0, 2.0], [1.0])}, title="T", x_label="x", y_label="y")
