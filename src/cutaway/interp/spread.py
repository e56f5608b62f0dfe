"""How far prompts are apart, and with them a mean over prompts from what it would be over others."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

__all__ = ["standard_error", "with_errors"]


def standard_error(values: Float[Tensor, "*cell batch"]) -> Float[Tensor, "*cell"]:
    """Return the standard error of each mean over rows, rows without a number left out; NaN for less than two."""
    n = (~values.isnan()).sum(-1)
    deviation = values - values.nanmean(-1, keepdim=True)
    variance: Tensor = deviation.square().nansum(-1) / (n - 1).clamp(min=1)
    return (variance / n.clamp(min=1)).sqrt().masked_fill(n < 2, float("nan"))


def with_errors(
    header: Sequence[str], rows: Sequence[Sequence[str]], errors: Sequence[float], *, after: int, form: str = ".2g"
) -> tuple[list[str], list[list[str]]]:
    """Return a table with a column of standard errors after one of its columns; without it where there are none."""
    if all(map(math.isnan, errors)):
        return list(header), [list(row) for row in rows]
    shown = ["" if math.isnan(error) else f"± {error:{form}}" for error in errors]
    place = after + 1
    return [*header[:place], "±", *header[place:]], [
        [*row[:place], error, *row[place:]] for row, error in zip(rows, shown, strict=True)
    ]
