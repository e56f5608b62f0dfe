import numpy as np
import pytest
from matplotlib.colors import to_rgba

from cutaway.plots import categories
from cutaway.report.colours import FAINT, PALETTE


def test_each_cell_has_the_colour_of_its_kind_and_the_key_says_which():
    kinds = [[0, 1, 2], [3, 1, 1]]
    figure = categories(kinds, names=["$a$", "b", "c", "d"], rows=["x", "y"], columns=["1", "2", "3"], title="Kinds", row_title="r")
    axes = figure.axes[0]
    colours = [to_rgba(colour) for colour in (FAINT, *PALETTE)]
    shown = axes.collections[0].to_rgba(np.array(kinds, float)).reshape(-1, 4)
    assert (
        np.abs(shown - [colours[kind] for kind in np.ravel(kinds)]).max() < 0.5 * 6 / 255
    )  # half a step of the scale, of 255 in all between 7 colours
    key = axes.get_legend()
    assert [text.get_text() for text in key.get_texts()] == ["$a$", "b", "c", "d"]
    assert [patch.get_facecolor() for patch in key.get_patches()] == colours[:4]
    assert axes.get_ylabel() == "r"
    assert figure.get_label() == "Kinds: 2 rows by 3 columns, each cell one of $a$, b, c, d"


def test_the_key_names_only_kinds_that_occur():
    figure = categories([[0, 2]], names=["a", "b", "c"], rows=["x"], columns=["1", "2"], title="Kinds")
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["a", "c"]


def test_what_does_not_fit_together_is_refused():
    labels = {"rows": ["x"], "columns": ["1", "2"], "title": "Kinds"}
    with pytest.raises(ValueError, match=r"the shape \(1, 3\): expected \(1, 2\)"):
        categories([[0, 1, 2]], names=["a", "b", "c"], **labels)
    with pytest.raises(ValueError, match="the kind 2 has no name: expected numbers from 0 to 1"):
        categories([[0, 2]], names=["a", "b"], **labels)
    with pytest.raises(ValueError, match="there are 8 kinds: expected at most 7"):
        categories([[0, 1]], names=list("abcdefgh"), **labels)
