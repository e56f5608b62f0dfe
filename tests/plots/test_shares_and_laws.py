"""Bars up to a limit, and points on lines of laws."""

import pytest
from matplotlib.colors import to_hex

from cutaway.plots import PALETTE, LawPanel, ShareGroup, laws, save_figure, shares


def group(title, **values):
    return ShareGroup(title=title, values=values, words={name: f"{value} s" for name, value in values.items()}, ours=["we"])


def test_bars_are_as_long_as_their_share_ours_in_colour():
    figure = shares([group("a $work$", we=0.9, peer=0.4), group("another", we=0.2)], title="T", x_label="share")
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [0.9, 0.4, 0.2]
    colours = [to_hex(bar.get_facecolor()).upper() for bar in axes.patches]
    assert colours[0] == colours[2] == PALETTE[0] != colours[1]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["we", "peer", "we"]
    assert [text.get_text() for text in axes.texts] == ["a $work$", "0.9 s", "0.4 s", "another", "0.2 s"]
    assert axes.get_xlim()[1] > 1
    assert axes.yaxis_inverted()
    tops = [bar.get_y() for bar in axes.patches]
    assert tops == sorted(tops)


def test_what_beats_the_limit_is_drawn_whole():
    figure = shares([group("a", we=1.3)], title="T", x_label="share")
    assert figure.axes[0].get_xlim()[1] > 1.3


def test_a_figure_is_written_the_same_each_time(tmp_path):
    for name in ("one.svg", "two.svg"):
        save_figure(shares([group("a", we=0.5)], title="T", x_label="share"), tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def panel(**changes):
    values = {
        "title": "Seconds", "x_label": "tokens", "laws": {"law": ([1, 10, 100], [2, 20, 200])}, "measured": {"law": ([10], [21])},
        "write_y": lambda value: f"{value:g} s", "x_ticks": {1: "one", 10: "ten", 100: "hundred"},
    }  # fmt: skip
    return LawPanel(**{**values, **changes})


def test_a_law_is_a_line_and_a_measurement_a_dot_of_its_colour():
    figure = laws([panel(), panel(title="Bytes")], title="T")
    first, second = figure.axes
    line, dot = first.lines
    assert line.get_color() == dot.get_color()
    assert (dot.get_linestyle(), dot.get_marker()) == ("None", "o")
    assert list(dot.get_ydata()) == [21]
    assert [label.get_text() for label in first.get_xticklabels()] == ["one", "ten", "hundred"]
    assert (first.get_xscale(), first.get_yscale()) == ("log", "log")
    assert second.get_title(loc="left") == "Bytes"
    assert "Seconds over tokens; Bytes over tokens" in figure.get_label()


def test_what_was_not_measured_has_no_dot():
    figure = laws([panel(measured={"law": ([1, 10], [0.0, 21.0])})], title="T")
    assert list(figure.axes[0].lines[1].get_xdata()) == [10]


def test_what_is_measured_of_no_law_has_its_name_too():
    axes = laws([panel(measured={"clock": ([1, 10], [3.0, 21.0])})], title="T").axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["law", "clock"]
    named = laws([panel()], title="T").axes[0]
    assert [text.get_text() for text in named.get_legend().get_texts()] == ["law"]


def test_nothing_to_draw_is_a_sentence():
    with pytest.raises(ValueError, match=r"^there is nothing to draw: no group has a value$"):
        shares([], title="T", x_label="share")
    with pytest.raises(ValueError, match=r"^there is nothing to draw: no panel is given$"):
        laws([], title="T")
    with pytest.raises(ValueError, match=r"^there is nothing to draw of 'Seconds': no value is finite and above 0$"):
        laws([panel(laws={}, measured={"law": ([1], [0.0])})], title="T")
