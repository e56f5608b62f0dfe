"""Lines between nodes that go around the nodes between them, as far as a single bend can."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Box", "Point", "route"]

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""

_BOWS = (0.0, 0.4, -0.4, 0.8, -0.8, 1.3, -1.3)  # inches that a control point is moved aside
_BENDS = sorted(product(_BOWS, _BOWS), key=lambda bend: abs(bend[0]) + abs(bend[1]) + abs(bend[0] - bend[1]) / 2)
_LATEST = 1.5  # inches that it goes up, at most, before it turns
_CLEAR = 0.03  # inches beside a box
_PER_INCH, _FEWEST = 14, 24  # places at which a line is held against the boxes


def route(
    start: Point, end: Point, boxes: Collection[Box], *, across: tuple[float, float], bow: float = 0.0
) -> tuple[Point, Point]:
    """Return the two control points of a cubic Bezier curve upwards from one point to another, past as many boxes as it can.

    It is moved aside by `bow`, or where it would then lie on a box by what lets it lie on fewest, the least bent of these, between the
    two sides of `across`.
    """
    import numpy as np

    rise = end[1] - start[1]
    n_places = max(_FEWEST, int(_PER_INCH * (abs(rise) + abs(end[0] - start[0]))))
    walls = np.array(list(boxes)).reshape(-1, 4)
    reach, late = min(max(0.5 * rise, 0.1), 0.5), min(max(0.9 * rise, 0.1), _LATEST)
    usual, turned = (reach, reach), [(late, 0.1), (0.1, late)]  # how far it goes straight up before it turns, and after

    def curves(bends: Sequence[tuple[float, float]], reaches: Sequence[tuple[float, float]]) -> np.ndarray:
        return np.array(
            [
                [start, (start[0] + one, start[1] + up), (end[0] + other, end[1] - down), end]
                for up, down in reaches
                for one, other in bends
            ]
        )

    found = curves([(bow, bow)], [usual])
    if _costs(found, walls, n_places, across)[0] > 0:
        found = curves(_BENDS, [usual, *turned])
        found = found[[int(_costs(found, walls, n_places, across).argmin())]]  # the first of equal ones bends least
    _, one, other, _ = found[0].tolist()
    return (one[0], one[1]), (other[0], other[1])


def _costs(controls: np.ndarray, walls: np.ndarray, n_places: int, across: tuple[float, float]) -> np.ndarray:
    """Return on how many boxes each curve lies, and far more for one that leaves the picture."""
    import numpy as np

    t = np.linspace(0, 1, n_places)[:, None]
    weights = np.concatenate([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1)
    places = np.einsum("pc,nci->npi", weights, controls)
    x, y = places[..., :1], places[..., 1:]
    left, bottom, right, top = walls.T
    is_inside = (x > left - _CLEAR) & (x < right + _CLEAR) & (y > bottom - _CLEAR) & (y < top + _CLEAR)
    leaves = ((places[..., 0] < across[0]) | (places[..., 0] > across[1])).any(1)
    return np.asarray(is_inside.any(1).sum(1) + 1000 * leaves)
