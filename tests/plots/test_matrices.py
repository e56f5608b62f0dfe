import itertools
import math

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from cutaway.plots import attention, heatmap, token_grid
from cutaway.report.colours import DIVERGING, SEQUENTIAL, colour_at, readable_on

WORDS = ["When", " Mary", " and", "\n", "$x_1$ costs", " electrification", "<b>", "é"]


def words(n):
    return list(itertools.islice(itertools.cycle(WORDS), n))


def labels_of(axis):
    return [label for label in axis.get_ticklabels() if label.get_text()]


def drawn_boxes(texts):
    return [text.get_window_extent() for text in texts]


def overlaps(boxes):
    return any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def colours_of(axes):
    [mesh] = axes.collections
    axes.figure.draw_without_rendering()
    return mesh.get_facecolors()


@pytest.mark.parametrize(("n_rows", "n_columns"), [(1, 1), (1, 40), (30, 40), (12, 12), (30, 3), (200, 300)])
def test_labels_never_overlap_and_lie_inside_the_picture(n_rows, n_columns):
    figure = heatmap(
        np.ones((n_rows, n_columns)),
        rows=[f"layer {row}" for row in range(n_rows)],
        columns=words(n_columns),
        title="A title that is longer than some of these matrices are wide, as titles now and then are",
        row_title="layer",
        column_title="token",
        label="value",
    )
    figure.draw_without_rendering()
    axes = figure.axes[0]
    rows, columns = drawn_boxes(labels_of(axes.yaxis)), drawn_boxes(labels_of(axes.xaxis))
    assert not overlaps(rows)
    assert not overlaps(columns)
    assert len(rows) == n_rows or n_rows == 200
    assert len(columns) == n_columns or n_columns == 300
    inside = figure.bbox
    for box in [*rows, *columns, axes.title.get_window_extent(), axes.get_tightbbox()]:
        assert inside.x0 <= box.x0
        assert inside.y0 <= box.y0
        assert box.x1 <= inside.x1
        assert box.y1 <= inside.y1
    assert max(figure.get_size_inches()) < 13


def scale_of(figure):
    return figure.axes[0].collections[0].colorbar


@pytest.mark.parametrize("signed", [True, False])
def test_cells_have_the_colour_of_their_values(signed):
    values = np.array([[0.5, -1.0], [2.0, 0.0]]) if signed else np.array([[0.5, 1.0], [2.0, 0.0]])
    figure = heatmap(values, rows=["a", "b"], columns=["x", "y"], title="T", signed=signed)
    limits, colours = ((-2, 2), DIVERGING) if signed else ((0, 2), SEQUENTIAL)
    expected = np.array([colour_at(value, limits, colours) for value in values.ravel()]) / 255
    # matplotlib's map has 256 colours: half a step of it is at most 72 / 255 of a channel's way over 1/6 of the map
    assert np.abs(colours_of(figure.axes[0])[:, :3] - expected).max() < 0.5 * 6 * (72 / 255) / 256 + 1 / 255
    [mesh] = figure.axes[0].collections
    assert mesh.get_clim() == limits
    limited = heatmap(values, rows=["a", "b"], columns=["x", "y"], title="T", signed=signed, limit=5.0)
    assert limited.axes[0].collections[0].get_clim()[1] == 5.0
    assert scale_of(limited).extend == "neither"
    beyond = heatmap(values, rows=["a", "b"], columns=["x", "y"], title="T", signed=signed, limit=0.1)
    assert scale_of(beyond).extend == ("both" if signed else "max")  # a point where there are values beyond the colours


def test_the_first_row_is_on_top_and_what_is_not_a_number_is_empty():
    figure = heatmap([[1.0, math.nan], [0.0, 2.0]], rows=["a", "b"], columns=["x", "y"], title="T")
    axes = figure.axes[0]
    figure.draw_without_rendering()
    first, second = labels_of(axes.yaxis)
    assert first.get_text() == "a"
    assert first.get_window_extent().y0 > second.get_window_extent().y1
    assert colours_of(axes)[:, 3].tolist() == [1, 0, 1, 1]


def test_texts_are_written_where_all_of_them_fit():
    values = np.linspace(0, 1, 12).reshape(3, 4)
    texts = [[f"{value:.2f}" for value in row] for row in values]
    figure = heatmap(values, rows=list("abc"), columns=list("wxyz"), title="T", texts=texts)
    axes = figure.axes[0]
    figure.draw_without_rendering()
    assert [text.get_text() for text in axes.texts] == [text for row in texts for text in row]
    assert not overlaps(drawn_boxes(axes.texts))
    for text, value in zip(axes.texts, values.ravel(), strict=True):
        assert to_rgb(text.get_color()) == to_rgb(readable_on(colour_at(value, (0, 1), SEQUENTIAL)))
    many = heatmap(np.ones((2, 60)), rows=["a", "b"], columns=words(60), title="T", texts=[["123.45"] * 60] * 2)
    assert not many.axes[0].texts


@pytest.mark.parametrize("n_columns", [3, 40])
def test_every_word_of_a_grid_fits_its_cell(n_columns):
    texts = [words(n_columns), words(n_columns)[::-1]]
    values = np.random.default_rng(0).random((2, n_columns))
    figure = token_grid(texts, values, rows=["0", "1"], columns=words(n_columns), title="Lens", label="probability")
    axes = figure.axes[0]
    figure.draw_without_rendering()
    assert len(axes.texts) == 2 * n_columns
    width = axes.get_window_extent().width / n_columns
    boxes = drawn_boxes(axes.texts)
    assert max(box.width for box in boxes) <= width
    assert not overlaps(boxes)
    assert not overlaps(drawn_boxes(labels_of(axes.xaxis)))
    shown = {text.get_text() for text in axes.texts}
    assert {"When", "·Mary", "·and"} <= shown
    assert n_columns == 3 or {"⏎", "é", "<b>", "·electr…"} <= shown


@pytest.mark.parametrize(("n_heads", "n_tokens"), [(1, 1), (1, 40), (3, 12), (6, 40), (12, 12), (14, 25)])
def test_attention_panels_carry_titles_and_tokens(n_heads, n_tokens):
    patterns = np.tril(np.ones((n_heads, n_tokens, n_tokens)))
    patterns /= patterns.sum(-1, keepdims=True)
    titles = [f"head {head}" for head in range(n_heads)]
    figure = attention(patterns, tokens=words(n_tokens), titles=titles, title="Layer 3")
    figure.draw_without_rendering()
    panels = figure.axes[:-1]
    assert [axes.get_title("center") for axes in panels] == titles
    written = [axes.title for axes in panels] + [text for axes in panels for text in axes.texts]
    written += [label for axes in panels for axis in (axes.xaxis, axes.yaxis) for label in labels_of(axis)]
    assert not overlaps(drawn_boxes(written))
    assert labels_of(panels[0].yaxis)
    assert labels_of(panels[-1].xaxis)
    for axes, pattern in zip(panels, patterns, strict=True):
        [image] = axes.images
        assert image.get_clim() == (0, 1)
        kept = image.get_array()
        assert (kept.mask == np.triu(np.ones_like(pattern, dtype=bool), k=1)).all()
        assert (kept.filled(0) == pattern).all()


def test_attention_that_looks_ahead_is_shown_whole():
    figure = attention(np.full((1, 2, 2), 0.5), tokens=["a", "b"], titles=["head 0"], title="T")
    assert not np.ma.getmaskarray(figure.axes[0].images[0].get_array()).any()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"shape \(1, 2\): expected \(1, 1\)"):
        heatmap([[1.0, 2.0]], rows=["a"], columns=["x"], title="T")
    with pytest.raises(ValueError, match="expected 1 of 1"):
        token_grid([["a", "b"]], [[1.0]], rows=["a"], columns=["x"], title="T", label="p")
    with pytest.raises(ValueError, match="nothing to draw"):
        heatmap(np.ones((0, 0)), rows=[], columns=[], title="T")
    with pytest.raises(ValueError, match=r"shape \(1, 2, 2\): expected \(2, 2, 2\)"):
        attention(np.ones((1, 2, 2)), tokens=["a", "b"], titles=["0", "1"], title="T")
