"""Figures from arrays, one module a subject; nothing here knows a model."""

from cutaway.plots.arrows import arrows
from cutaway.plots.bands import bands
from cutaway.plots.categories import categories
from cutaway.plots.diagrams import Arrow, Row, diagram
from cutaway.plots.histograms import histogram
from cutaway.plots.laws import LawPanel, laws
from cutaway.plots.layered_graph import Point, layered_graph
from cutaway.plots.loss import loss_figure, smoothed
from cutaway.plots.matrices import heatmap, token_grid
from cutaway.plots.panels import Panel, panels
from cutaway.plots.patterns import attention
from cutaway.plots.scatter import scatter
from cutaway.plots.series import bars, lines
from cutaway.plots.shares import ShareGroup, shares
from cutaway.plots.style import save_figure, style
from cutaway.report.colours import PALETTE

__all__ = [
    "arrows",
    "heatmap",
    "categories",
    "bars",
    "lines",
    "scatter",
    "bands",
    "histogram",
    "diagram",
    "Row",
    "Arrow",
    "attention",
    "token_grid",
    "layered_graph",
    "Point",
    "loss_figure",
    "smoothed",
    "Panel",
    "panels",
    "LawPanel",
    "laws",
    "ShareGroup",
    "shares",
    "save_figure",
    "style",
    "PALETTE",
]
