"""Nodes in rows and columns with lines between them."""

import pytest
from matplotlib.collections import LineCollection, PathCollection

from cutaway.plots import Point, layered_graph, save_figure

POINTS = [Point(0, 0, "", True), Point(0, 1, "", True), Point(1, 1, "12", True), Point(1, 1, "", False), Point(2, 1, "Paris", True)]
LINKS = [(0, 2, 0.5), (1, 3, -0.1), (2, 4, 1.0), (3, 4, -0.25)]


def test_nodes_and_links_stand_where_they_belong(tmp_path):
    figure = layered_graph(
        POINTS, LINKS, rows=["tokens", "layer 0", "logits"], columns=["The", " capital"], title="What leads to $x$"
    )
    (axes,) = figure.axes
    lines = next(each for each in axes.collections if isinstance(each, LineCollection) and each.get_zorder() == 1)
    assert sorted(lines.get_linewidths()) == pytest.approx([0.35, 0.875, 1.75, 3.5])  # the strongest is drawn last
    assert len(lines.get_segments()) == 4
    main, other = (each for each in axes.collections if isinstance(each, PathCollection))
    assert (len(main.get_offsets()), len(other.get_offsets())) == (4, 1)
    assert [int(y) for _, y in main.get_offsets()] == [0, 0, 1, 2]
    assert main.get_offsets()[2][0] < other.get_offsets()[0][0]  # those of one cell side by side
    assert [text.get_text() for text in axes.texts] == ["12", "Paris"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["The", "·capital"]
    assert figure.get_label() == "What leads to $x$: 5 nodes and 4 links"
    assert save_figure(figure, tmp_path / "graph.svg").stat().st_size > 1000


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="no node is given"):
        layered_graph([], [], rows=["a"], columns=["b"], title="nothing")
    with pytest.raises(ValueError, match="outside the 1 rows and 1 columns"):
        layered_graph(POINTS[:2], [], rows=["a"], columns=["b"], title="too far")
    assert layered_graph(POINTS[:1], [], rows=["a"], columns=["b"], title="one").axes
