"""What happened outside of the masks, and whether their edges show."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from insitu.evaluation.metrics.cases import Case, Image, Mask, asked_mask, missing, size_mismatch
from insitu.evaluation.metrics.scores import Failure, Parts, Scale, Scores, score

EDGE_PX, OFF_PX = 2, 3
"""Pixels to each side of a mask's edge that belong to it, and that follow them."""
FLOOR = 1.0
"""Grey levels that nobody sees: in a flat picture a step of this size is no seam."""


class BackgroundChange:
    """Largest or mean change outside of the masks, 0..255 grey levels, over pixels and channels.

    A picture of another size than its source has failed.
    """

    def __init__(self, how: Literal["largest", "mean"]) -> None:
        self.reduce = np.max if how == "largest" else np.mean
        self.scale = Scale(
            name=f"background_{how}", low=0, high=255, higher_is_better=False, unit="grey levels"
        )

    def __call__(self, cases: Sequence[Case]) -> Scores:
        return score(self.scale, cases, lambda painted: [self._one(case) for case in painted])

    def _one(self, case: Case) -> Parts:
        if case.source is None:
            raise missing("source pictures", "a change is a difference to what was there before")
        mask = asked_mask(case, case.source)
        if mask.all():
            raise missing("backgrounds", "the masks cover the whole picture")
        mismatch = size_mismatch(case.picture, case.source, "source")
        if mismatch:
            return (Failure(mismatch),)
        change = np.abs(case.picture[~mask].astype(np.float64) - case.source[~mask])
        return (float(self.reduce(change)),)


class SeamVisibility:
    """How far the masks' edges stand out from their surroundings, -1..1; see `seam_visibility`.

    Measured in the generated picture alone. A picture of another size than its source has failed.
    """

    scale = Scale(name="seam", low=-1, high=1, higher_is_better=False, unit="contrast of gradients")

    def __init__(self, *, edge_px: int = EDGE_PX, off_px: int = OFF_PX) -> None:
        self.edge_px, self.off_px = edge_px, off_px

    def __call__(self, cases: Sequence[Case]) -> Scores:
        return score(self.scale, cases, lambda painted: [self._one(case) for case in painted])

    def _one(self, case: Case) -> Parts:
        canvas = case.picture if case.source is None else case.source
        mask = asked_mask(case, canvas)
        mismatch = size_mismatch(case.picture, mask, "source")
        if mismatch:
            return (Failure(mismatch),)
        return (
            seam_visibility(case.picture, mask, edge_px=self.edge_px, off_px=self.off_px),
        )  # fmt: skip


def seam_visibility(
    image_HWC: Image, mask_HW: Mask, *, edge_px: int = EDGE_PX, off_px: int = OFF_PX
) -> float:
    """S = (J - B) / (J + B + 1): 0 = the edge is like its surroundings, 1 = it alone shows.

    Gradients are absolute differences of neighbouring pixels, in grey levels, mean over channels.
    Wherever a row or a column crosses the mask's edge, those up to `edge_px` pixels from the
    crossing belong to it, since soft masks spread a step; J is their mean over all crossings. B is
    the mean of the `off_px` that follow on both sides, up to the picture's border or another edge.
    So a texture or a slope that runs through the edge makes no seam, while a step shows the more,
    the calmer its surroundings are. Below 0 the edge is smoother than they: a blurred ring.
    A thing's own contour counts where it runs along the edge, so compare pictures of equal masks.

    Blockiness is measured so in JPEG pictures, by differences across and within blocks (Wang,
    Sheikh and Bovik, "No-reference perceptual quality assessment of JPEG compressed images", 2002);
    here a mask's edge takes the place of the blocks' grid.

    Raises:
        UserError: the mask has no edge in the picture, or nothing lies off it.
    """
    edge, off = [], []
    for image, mask in ((image_HWC, mask_HW), (image_HWC.transpose(1, 0, 2), mask_HW.T)):
        gradients, distances = _crossings(image.astype(np.float64), mask, edge_px + off_px)
        edge.append(gradients[distances <= edge_px])
        off.append(gradients[distances > edge_px])
    across, beside = np.concatenate(edge), np.concatenate(off)
    if not across.size or not beside.size:
        raise missing("mask edges", "the masks are empty, too thin, or cover the whole picture")
    j, b = float(across.mean()), float(beside.mean())
    return (j - b) / (j + b + FLOOR)


def _crossings(
    image_HWC: NDArray[np.float64], mask_HW: Mask, reach: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Gradients [G] along rows, within `reach` of a place where the row crosses the mask's edge.

    And how many pixels each is from the crossing [G], 0 = the crossing itself. A gradient beyond
    another crossing is left out.
    """
    if mask_HW.shape[1] < 2:
        return np.zeros(0), np.zeros(0, np.int64)
    steps = np.abs(np.diff(image_HWC, axis=1)).mean(-1)
    crosses = mask_HW[:, 1:] != mask_HW[:, :-1]
    rows, columns = np.nonzero(crosses)
    gradients, distances = [steps[rows, columns]], [np.zeros(len(rows), np.int64)]
    for side in (-1, 1):
        free = np.ones(len(rows), np.bool_)
        for distance in range(1, reach + 1):
            place = columns + side * distance
            free &= (place >= 0) & (place < steps.shape[1])
            free[free] &= ~crosses[rows[free], place[free]]
            gradients.append(steps[rows[free], place[free]])
            distances.append(np.full(int(free.sum()), distance, np.int64))
    return np.concatenate(gradients), np.concatenate(distances)
