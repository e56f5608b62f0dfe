import math
from itertools import pairwise

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from cutaway.plots import Panel, panels
from cutaway.report.colours import PALETTE

STEPS = list(range(0, 100, 10))


def panel(**settings):
    lines = {"a": (STEPS, [step / 100 for step in STEPS]), "b": (STEPS, [0.1] * 10), "c": (STEPS, [math.nan] + [0.2] * 9)}
    return Panel("Scores", "score", lines, **{"named": ("a", "b"), **settings})


def test_panels_share_their_steps_and_show_the_first_line_most():
    figure = panels([panel(span=(20, 40)), panel(least=(-1.0, 3.0))], x_label="step", title="Both")
    upper, lower = figure.axes
    assert upper.get_xlim() == lower.get_xlim()
    by_colour = {line.get_color(): line for line in upper.lines}
    assert list(by_colour[PALETTE[0]].get_ydata()) == [step / 100 for step in STEPS]
    assert by_colour[PALETTE[0]].get_linewidth() > by_colour[PALETTE[1]].get_linewidth()
    assert max(upper.lines, key=lambda line: line.get_zorder()) is by_colour[PALETTE[0]]
    assert {text.get_text() for text in upper.texts} == {"a: 0.9", "b: 0.1"}, "those named, with the values at their ends"
    unnamed = next(line for line in upper.lines if line.get_color() not in PALETTE)
    assert list(unnamed.get_xdata()) == STEPS[1:], "what is not finite is left out"
    assert upper.patches[0].get_x() == 20
    assert upper.patches[0].get_width() == 20
    low, high = lower.get_ylim()
    assert low < -1
    assert high > 3
    assert figure.get_label() == "Both: Scores, Scores over step, one below the other"


def test_the_title_stands_above_a_first_panel_without_one_of_its_own():
    lines = {"a": (STEPS, STEPS)}
    figure = panels([Panel("", "score", lines, ("a",)), Panel("Below", "loss", lines, ("a",))], x_label="step", title="Both")
    assert [axes.get_title("left") for axes in figure.axes] == ["Both", "Below"]
    assert figure.get_label() == "Both: score, Below over step, one below the other"
    assert panels([panel()], x_label="step", title="Both").axes[0].get_title("left") == "Scores"


def test_labels_in_a_low_panel_do_not_overlap():
    lines = {name: (STEPS, [0.5 + place * 1e-3] * 10) for place, name in enumerate("abcd")}
    figure = panels([Panel("t", "y", lines, named=tuple("abcd"))] * 6, x_label="step", title="Six")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    for axes in figure.axes:
        boxes = sorted((text.get_window_extent(renderer) for text in axes.texts), key=lambda box: box.y0)
        assert len(boxes) == 4
        assert all(lower.y1 <= upper.y0 + 1 for lower, upper in pairwise(boxes))


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="no panel is given"):
        panels([], x_label="step", title="None")
    with pytest.raises(ValueError, match="nothing to draw of 'Scores': no line has a finite value"):
        panels([Panel("Scores", "y", {"a": ([1], [math.nan])}, named=("a",))], x_label="step", title="None")
