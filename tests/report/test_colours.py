import math
from itertools import pairwise

import numpy as np
import pytest

from cutaway.report.colours import DIVERGING, PALETTE, SEQUENTIAL, colour_at, colour_limits, readable_on

STEPS = [number / 50 for number in range(-50, 51)]


def linear(rgb):
    """IEC 61966-2-1: light of an sRGB colour, 0 to 1."""
    share = np.asarray(rgb, dtype=float) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def luminance(rgb):
    return float(np.array([0.2126, 0.7152, 0.0722]) @ linear(rgb))


def lightness(rgb):
    """CIE 1976 L*, 0 to 100."""
    light = luminance(rgb)
    return 116 * light ** (1 / 3) - 16 if light > (6 / 29) ** 3 else light * (29 / 3) ** 3


def diverging(value):
    return colour_at(value, (-1.0, 1.0), DIVERGING)


def test_lightness_falls_with_the_magnitude_in_even_steps():
    found = [lightness(colour_at(value, (0.0, 1.0), SEQUENTIAL)) for value in np.linspace(0, 1, 51)]
    falls = [before - after for before, after in pairwise(found)]
    assert min(falls) > 0
    assert max(falls) < 3 * min(falls)  # no step looks like an edge: 72 of lightness in 50 steps of 1.4


def test_both_signs_are_equally_light_at_the_same_magnitude():
    # a difference of 1 in L* is about the smallest that is seen
    assert max(abs(lightness(diverging(value)) - lightness(diverging(-value))) for value in STEPS) < 1.5
    assert diverging(0.0) == tuple(int(SEQUENTIAL[0][at : at + 2], 16) for at in (1, 3, 5))


# Machado, Oliveira and Fernandes 2009, table 1, severity 1.0; on light, not on sRGB values
BLIND = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(light):
    """CIE 1976 L*a*b* of linear sRGB at D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt((to_xyz @ np.clip(light, 0, 1)) / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("kind", BLIND)
def test_the_signs_are_told_apart_with_every_kind_of_colour_blindness(kind):
    for value in (0.4, 0.6, 0.8, 1.0):
        seen = [lab(np.array(BLIND[kind]) @ linear(diverging(side))) for side in (-value, value)]
        # 2.3 is a just noticeable difference of neighbouring patches (Mahy et al. 1994)
        assert np.linalg.norm(seen[0] - seen[1]) > 8 * 2.3


@pytest.mark.parametrize("background", [diverging(value) for value in STEPS])
def test_text_can_be_read_on_every_colour(background):
    light = luminance(background)
    contrast = {"#ffffff": 1.05 / (light + 0.05), "#000000": (light + 0.05) / 0.05}
    assert contrast[readable_on(background)] == max(contrast.values())
    assert contrast[readable_on(background)] >= 4.5  # WCAG 2.2, level AA


def test_limits_are_symmetric_for_signed_values_and_begin_at_zero_for_magnitudes():
    assert colour_limits(-1.0, 3.0, signed=True) == (-3.0, 3.0)
    assert colour_limits(-4.0, 3.0, signed=True) == (-4.0, 4.0)
    assert colour_limits(8.0, 12.0, signed=False) == (0.0, 12.0)
    assert colour_limits(-7.0, -2.0, signed=False) == (-7.0, -2.0)
    assert colour_limits(0.0, 0.2, signed=False, limit=1.0) == (0.0, 1.0)
    assert colour_limits(0.0, 0.0, signed=False) == (0.0, 1.0)
    assert colour_limits(0.0, 0.0, signed=True) == (-1.0, 1.0)
    with pytest.raises(ValueError, match="expected a positive number"):
        colour_limits(0.0, 1.0, signed=False, limit=-2.0)


def test_colours_lie_between_their_neighbours_and_stop_at_the_ends():
    assert colour_at(0.5, (0.0, 1.0), ("#000000", "#ffffff")) == (128, 128, 128)
    assert colour_at(7.0, (0.0, 1.0), ("#000000", "#102030")) == (16, 32, 48)
    assert colour_at(-7.0, (0.0, 1.0), ("#000000", "#102030")) == (0, 0, 0)
    assert colour_at(math.inf, (0.0, 1.0), ("#000000", "#102030")) == (16, 32, 48)
    assert len(set(PALETTE)) == 6
