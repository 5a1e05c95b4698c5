"""Figures: every function takes results and returns a Matplotlib figure.

`pictures` shows images, points and tables as areas of gray and color, `plots` shows numbers along axes, and `style` has
the look that all share.

The attribute `alt` of each figure is its alternative text: one or two plain sentences, made from the arguments, for
readers who cannot see it. A bad argument raises a TypeError or ValueError that names it and says how it must be.
"""

from .pictures import confusion, embedding, image_grid, matrices
from .plots import concentration, curves, intervals, lines, plane, tradeoff
from .style import PALETTE, WIDTH, in_book_style

__all__ = ["PALETTE", "WIDTH", "concentration", "confusion", "curves", "embedding", "image_grid", "in_book_style",
           "intervals", "lines", "matrices", "plane", "tradeoff"]
