"""Charts of the data engines' reports, as pictures: the funnel, and what a filter trades."""

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from insitu.evaluation.filters import Cases, Quality, curve

Image = NDArray[np.uint8]
INK, KEPT, LOST = "#1d1d1f", "#2f6f4f", "#d9d4cb"
DPI = 120


def funnel(steps: Sequence[tuple[str, int]]) -> Image:
    """A bar for each step: how many are left, of how many, and how many it took.

    Args:
        steps: name and count, in their order; the first is what there was to begin with.
    """
    canvas = Canvas(figsize=(8, 0.62 * len(steps) + 0.5), dpi=DPI)
    axes = canvas.add_subplot()
    whole = max(1, steps[0][1])
    for row, (name, count) in enumerate(steps):
        before = steps[row - 1][1] if row else count
        axes.barh(row, before, color=LOST, height=0.62)
        axes.barh(row, count, color=KEPT, height=0.62)
        lost = f"  -{before - count:,}" if before > count else ""
        text = f"{count:,}  ({count / whole:.0%}){lost}"
        axes.text(max(before, count) + whole * 0.015, row, text, va="center", color=INK)
        axes.text(-whole * 0.015, row, name, va="center", ha="right", color=INK)
    axes.set_ylim(len(steps) - 0.5, -0.5)
    axes.set_xlim(0, whole * 1.45)
    axes.axis("off")
    canvas.subplots_adjust(left=0.25, right=0.99, top=0.98, bottom=0.02)
    return pixels(canvas)


def trade(filters: dict[str, tuple[Cases, Quality]]) -> Image:
    """Precision over recall of each filter on the reporting half, and where it is set."""
    canvas = Canvas(figsize=(3.1 * len(filters), 3.3), dpi=DPI)
    for place, (name, (cases, at)) in enumerate(filters.items(), start=1):
        axes = canvas.add_subplot(1, len(filters), place)
        _, precision, recall = curve(cases.half(False))
        axes.plot(recall, precision, color=KEPT, linewidth=1.6)
        if at.precision is not None and at.recall is not None:
            x, y = at.recall, at.precision
            axes.errorbar(
                [x.value],
                [y.value],
                xerr=[[x.value - x.low], [x.high - x.value]],
                yerr=[[y.value - y.low], [y.high - y.value]],
                fmt="o",
                color=INK,
                capsize=3,
                markersize=5,
            )
        axes.set_title(f"{name}\nrefused under {at.threshold:g}", fontsize=10, color=INK)
        axes.set_xlabel("recall of what was planted", fontsize=8)
        if place == 1:
            axes.set_ylabel("precision of what is refused", fontsize=8)
        axes.set_xlim(0, 1.03)
        axes.set_ylim(0, 1.03)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    canvas.tight_layout()
    return pixels(canvas)


def pixels(canvas: Canvas) -> Image:
    agg = FigureCanvasAgg(canvas)
    agg.draw()
    return np.ascontiguousarray(np.asarray(agg.buffer_rgba())[..., :3])
