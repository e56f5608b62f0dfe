import itertools
import math

import numpy as np
import pytest

from cutaway.plots import Arrow, Row, diagram, save_figure
from cutaway.plots.bands import bands
from cutaway.plots.diagrams import _places


def rows_of(n_layers, n_heads, *, seen=lambda layer, head: True, mlp=True):
    layers = [
        Row(
            f"layer {layer}",
            {f"L{layer}H{head}": (head + 0.5) / n_heads for head in range(n_heads) if seen(layer, head)},
            aside=f"mlp{layer}" if mlp else None,
        )
        for layer in range(n_layers)
    ]
    return [Row("embed", {"embed": 0.5}), *layers, Row("logits", {"logits": 0.5})]


@pytest.mark.parametrize(("n_layers", "n_heads"), [(2, 4), (6, 9), (3, 32), (12, 4), (30, 1)])
def test_no_node_lies_on_another(n_layers, n_heads):
    rows = rows_of(n_layers, n_heads)
    places, _ = _places(rows)
    assert len(places) == n_layers * (n_heads + 1) + 2
    for (_, a), (_, b) in itertools.combinations(places.items(), 2):
        assert abs(a.y - b.y) >= 0.23 or abs(a.x - b.x) >= (a.width + b.width) / 2, (a, b)
    assert all(place.x >= place.width / 2 - 1e-9 for place in places.values())


def test_nodes_stand_where_they_should_where_there_is_room():
    places, heights = _places([Row("a", {"x": 0.1, "y": 0.9}), Row("b", {"z": 0.5})])
    assert places["x"].x < places["z"].x < places["y"].x
    assert places["x"].y == places["y"].y < places["z"].y
    assert [name for _, name in heights] == ["a", "b"]


def test_arrows_are_as_wide_as_their_weight_and_as_coloured_as_its_sign(tmp_path):
    rows = rows_of(2, 3)
    arrows = [
        Arrow("embed", "L0H0", 4.0, "q"), Arrow("L0H0", "L1H2", -2.0, "v"), Arrow("mlp0", "logits", 1.0), Arrow("L1H2", "logits", None),
    ]  # fmt: skip
    figure = diagram(rows, arrows, title="A circuit", label="score")
    drawn = [patch for patch in figure.axes[0].patches if not patch.get_facecolor()[3]]
    widths = sorted(patch.get_linewidth() for patch in drawn)
    assert len(drawn) == 4
    assert widths[-1] == 4.0
    assert widths[-2] == pytest.approx(0.5 + 3.5 / 2)
    assert len({patch.get_edgecolor()[:3] for patch in drawn}) == 3
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert {"L1H2", "mlp1", "layer 0", "score above 0", "score below 0"} <= texts
    svg = save_figure(figure, tmp_path / "circuit.svg").read_text()
    assert svg == save_figure(diagram(rows, arrows, title="A circuit", label="score"), tmp_path / "again.svg").read_text()


def lies_on(controls, place):
    """Whether a Bezier curve with these control points passes behind a node."""
    degree, t = len(controls) - 1, np.linspace(0, 1, 400)[:, None]
    points = sum(math.comb(degree, i) * t**i * (1 - t) ** (degree - i) * controls[i] for i in range(degree + 1))
    left, bottom, right, top = place.box
    return bool(((points > (left, bottom)) & (points < (right, top))).all(1).any())


def curves_of(figure):
    return [patch.get_path().vertices for patch in figure.axes[0].patches if not patch.get_facecolor()[3]]


def test_an_arrow_goes_around_the_nodes_between_its_ends():
    rows = [Row("a", {"below": 0.2}), Row("b", {"between": 0.5}), Row("c", {"above": 0.8})]
    places, _ = _places(rows)
    (curve,) = curves_of(diagram(rows, [Arrow("below", "above", 1.0)], title="Past"))
    assert lies_on(curve[[0, 3]], places["between"])
    assert not lies_on(curve, places["between"])


def test_few_arrows_of_many_layers_lie_on_nodes():
    rows = rows_of(6, 4, seen=lambda layer, head: (layer + head) % 2 == 0)
    places, _ = _places(rows)
    ends = [(a, b) for a, b in itertools.permutations(places, 2) if places[b].y - places[a].y > 0.5]
    curves = curves_of(diagram(rows, [Arrow(a, b, 1.0) for a, b in ends], title="All"))

    def n_on_nodes(lines):
        return sum(
            lies_on(line, place)
            for line, pair in zip(lines, ends, strict=True)
            for node, place in places.items()
            if node not in pair
        )

    assert n_on_nodes([curve[[0, 3]] for curve in curves]) > 0.5 * len(ends)  # drawn straight
    assert n_on_nodes(curves) < 0.05 * len(ends)


def test_what_cannot_be_drawn_is_said():
    with pytest.raises(ValueError, match="begins or ends at 'L9H9', which stands in no row"):
        diagram(rows_of(1, 1), [Arrow("embed", "L9H9", 1.0)], title="")
    with pytest.raises(ValueError, match="the node 'x' stands twice"):
        diagram([Row("a", {"x": 0}), Row("b", {"x": 0})], [], title="")
    with pytest.raises(ValueError, match="nothing to draw"):
        bands({}, title="", x_label="", y_label="")
    with pytest.raises(ValueError, match=r"has \[2, 2, 1, 2\] numbers"):
        bands({"a": ([1, 2], [1, 2], [1], [1, 2])}, title="", x_label="", y_label="")


def test_bands_lie_around_their_lines():
    series = {"a": ([0.01, 0.1, 1.0], [0.2, 0.5, 1.0], [0.1, 0.4, 1.0], [0.3, 0.6, 1.0])}
    figure = bands(series, title="Curve", x_label="share", y_label="faithfulness", x_is_log=True, marks=[0.0, 1.0])
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0.1, 1.0)
    assert list(axes.lines[0].get_ydata()) == [0.2, 0.5, 1.0]
