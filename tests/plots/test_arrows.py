import math

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from cutaway.plots import arrows
from cutaway.report.colours import PALETTE


def clock(n: int) -> list[list[float]]:
    return [[math.cos(math.tau * i / n), math.sin(math.tau * i / n)] for i in range(n)]


def test_vectors_are_told_apart_by_colour_or_by_their_labels():
    figure = arrows({"one": [[1.0, 0.0], [0.0, 2.0]], "other": [[-1.0, 1.0]]}, title="T", axes_labels=("real", "imaginary"))
    first, second = figure.axes
    assert [line.get_color() for line in first.lines[::2]] == list(PALETTE[:2])
    assert [list(line.get_xdata()) for line in first.lines[::2]] == [[0, 1.0], [0, 0.0]]
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in (first, second)] == [("real", "imaginary"), ("real", "")]
    assert first.get_xlim() == second.get_xlim() == first.get_ylim()
    named = arrows({"one": clock(3)}, title="T", labels=["0", "1", "$2$"]).axes[0]
    assert {"0", "1", "$2$"} < {text.get_text() for text in named.texts}
    assert {line.get_color() for line in named.lines} == {PALETTE[0]}


def test_labels_of_sixty_vectors_lie_apart_and_within_the_frame():
    figure = arrows({"clock": clock(60)}, title="T", labels=[str(i) for i in range(60)])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (axes,) = figure.axes
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in axes.texts if text.get_text().isdecimal()]
    assert len(boxes) == 60
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])
    frame = axes.get_window_extent()
    assert all(frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1 for box in boxes)


def test_what_is_not_in_the_plane_is_refused():
    with pytest.raises(ValueError, match="of two finite numbers"):
        arrows({"one": [[1.0, 0.0, 2.0]]}, title="T")
    with pytest.raises(ValueError, match="there are no vectors"):
        arrows({}, title="T")
    with pytest.raises(ValueError, match="there are 1 labels for 2 vectors of 'one'"):
        arrows({"one": [[1.0, 0.0], [0.0, 1.0]]}, title="T", labels=["a"])
