"""How often which value comes up."""

import numpy as np
import pytest

from cutaway.plots import histogram


def test_bars_are_as_high_as_values_are_many():
    values = [0.1, 0.1, 0.9, np.nan, 1.0]
    figure = histogram(values, title="Values", x_label="value", n_bins=2)
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == [2, 2]
    assert "4 values of value, from 0.1 to 1" in figure.get_label()


def test_nothing_is_not_drawn():
    with pytest.raises(ValueError, match="nothing to draw"):
        histogram([np.nan], title="Values", x_label="value")
