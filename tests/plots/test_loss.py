import itertools
import math

import matplotlib as mpl
import pytest
from matplotlib.colors import to_hex

from cutaway.plots import PALETTE, loss_figure, save_figure

STEPS = list(range(0, 2001, 10))
LOSSES = [1.5 + 2.7 * math.exp(-step / 250) + 0.05 * (-1) ** (step // 10) for step in STEPS]
VAL = (STEPS[::25], [1.7 + 2.5 * math.exp(-step / 250) for step in STEPS[::25]])


def labels_of(figure):
    return {text.get_text(): text for text in figure.axes[0].texts}


def boxes_of(figure):
    figure.draw_without_rendering()
    return [text.get_window_extent() for text in figure.axes[0].texts]


def test_every_curve_carries_its_label_and_last_value():
    figure = loss_figure({"train": (STEPS, LOSSES), "validation": VAL}, expected=1.74, title="tiny")
    labels = labels_of(figure)
    assert f"validation {VAL[1][-1]:.3f}" in labels
    assert "expected 1.740" in labels
    mean_of_last = sum(LOSSES[-(len(LOSSES) // 60 + 1) :]) / (len(LOSSES) // 60 + 1)
    assert f"train {mean_of_last:.3f}" in labels
    assert figure.axes[0].get_title(loc="left") == "tiny"
    assert to_hex(labels["expected 1.740"].get_color()) not in [colour.lower() for colour in PALETTE]


def test_the_line_drawn_is_the_data_given():
    [line] = loss_figure({"validation": VAL}).axes[0].lines
    assert list(line.get_xdata()) == VAL[0]
    assert list(line.get_ydata()) == VAL[1]
    assert to_hex(line.get_color()) == PALETTE[0].lower()


@pytest.mark.parametrize("last", [[1.0] * 6, [1.0, 1.001, 1.002, 3.99, 4.0, 4.0]])
def test_labels_do_not_overlap_and_lie_inside_the_picture(last):
    curves = {f"run number {number}": ([0, 1000], [4, loss]) for number, loss in enumerate(last)}
    figure = loss_figure(curves, expected=1.0)
    boxes = boxes_of(figure)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert all(box.x1 <= figure.bbox.x1 and box.y0 >= 0 for box in boxes)
    by_height = sorted(zip(boxes, [*last, 1.0], strict=True), key=lambda pair: -pair[1])
    assert len(by_height) == 7


def test_values_that_are_not_finite_are_left_out():
    [line] = loss_figure({"loss": ([0, 1, 2], [3.0, math.nan, 1.0])}).axes[0].lines
    assert list(line.get_xdata()) == [0, 2]
    with pytest.raises(ValueError, match="nothing to draw"):
        loss_figure({"loss": ([0], [math.inf]), "empty": ([], [])})


def test_pictures_are_written_whole_and_alike(tmp_path):
    before = dict(mpl.rcParams)
    figure = loss_figure({"train": (STEPS, LOSSES), "validation": VAL})
    assert save_figure(figure, tmp_path / "deep" / "loss.png").read_bytes().startswith(b"\x89PNG")
    first, second = (
        save_figure(loss_figure({"train": (STEPS, LOSSES), "validation": VAL}), tmp_path / name).read_bytes()
        for name in ("1.svg", "2.svg")
    )
    assert first == second
    assert dict(mpl.rcParams) == before
    with pytest.raises(ValueError, match=r"expected one of \.png"):
        save_figure(figure, tmp_path / "loss.docx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.svg", "2.svg", "deep"]
