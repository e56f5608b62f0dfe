"""Figures from arrays, one module a subject; nothing here knows a model."""

from cutaway.plots.loss import loss_figure
from cutaway.plots.style import PALETTE, save_figure, style

__all__ = ["loss_figure", "save_figure", "style", "PALETTE"]
