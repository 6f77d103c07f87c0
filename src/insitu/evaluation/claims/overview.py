"""All claims in one picture: their differences in units of the smallest that counts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from insitu.evaluation.charts import DPI, INK, pixels

COLOURS = {"holds": "#2f6f4f", "contradicted": "#b3452c", "undecided": "#8a8378"}
MARKS = {"holds": "o", "contradicted": "X", "undecided": "D"}
WIDEST = 6.0
"""Smallest effects beyond which a line is cut off."""


def draw(claims: Sequence[dict[str, Any]]) -> NDArray[np.uint8]:
    """A line a claim, with its 95% interval, of several comparisons the least; uint8 [H, W, 3].

    1 is the smallest difference that counts, 0 is none; of a margin 0 is all of it lost. Arrows go
    on beyond the picture.
    """
    canvas = Figure(figsize=(8.5, 0.27 * len(claims) + 1.1), dpi=DPI)
    axes = canvas.add_subplot()
    for row, claim in enumerate(claims):
        test = min(claim["tests"], key=lambda test: _scaled(test, test["difference"]))
        value, low, high = (_scaled(test, test[key]) for key in ("difference", "low", "high"))
        low, high = min(low, high), max(low, high)
        colour = COLOURS[claim["verdict"]]
        axes.plot(np.clip([low, high], -WIDEST, WIDEST), [row, row], color=colour, linewidth=2)
        for beyond, mark in ((low < -WIDEST, "<"), (high > WIDEST, ">")):
            if beyond:
                end = -WIDEST if mark == "<" else WIDEST
                axes.plot(end, row, mark, color=colour, markersize=5)
        if abs(value) > WIDEST:
            continue
        axes.plot(
            value, row, MARKS[claim["verdict"]], color=colour,
            markersize=6,
        )  # fmt: skip
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(claims)), [claim["id"] for claim in claims], fontsize=8)
    axes.set_ylim(len(claims) - 0.5, -0.5)
    axes.set_xlim(-WIDEST - 0.2, WIDEST + 0.2)
    axes.set_xlabel("difference in smallest differences that count (95% interval)", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    handles = [
        axes.plot([], [], MARKS[verdict], color=colour, label=verdict)[0]
        for verdict, colour in COLOURS.items()
    ]
    axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3,
                frameon=False, fontsize=9)  # fmt: skip
    canvas.tight_layout()
    return pixels(canvas)


def _scaled(test: dict[str, Any], value: float) -> float:
    if test["margin"] is not None:
        return float((value + test["margin"]) / test["margin"])
    return float(value / test["effect"])
