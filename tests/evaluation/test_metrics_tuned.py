"""Proves that tuned and untuned pictures are measured alike, and that the page shows what failed.

Painters and metrics are written by hand; needs the world, no checkpoint.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from insitu.backbones.zoom import box_mask
from insitu.evaluation import tuned, tuned_page
from insitu.evaluation.gallery.writing import write
from insitu.evaluation.metrics import Case, Failure, Parts, Scale, Scores, score
from insitu.evaluation.metrics.edges import BackgroundChange
from insitu.evaluation.placement import places
from insitu.methods import Request
from insitu.records.subjects import SubjectPhoto
from insitu.records.types import Box, Image

SCENES, SEEDS = 2, 3


class Darkness:
    """How dark the picture is; black ones are lost."""

    scale = Scale(name="dino", low=0, high=1, higher_is_better=True, unit="share")

    def __call__(self, cases: Sequence[Case]) -> Scores:
        return score(self.scale, cases, lambda own: [self._one(case) for case in own])

    def _one(self, case: Case) -> Parts:
        (entity,) = case.entities
        assert entity.text == "an umbrella" and len(entity.references) == 2
        value = 1 - float(case.picture.mean()) / 255
        return (Failure("nothing but black") if value == 1 else value,)


def photos() -> list[SubjectPhoto]:
    return [
        SubjectPhoto(
            id=f"brolly/{n}", subject="brolly", class_word="umbrella", description="a red umbrella",
            image=Image.from_array(np.full((16, 16, 3), 200, np.uint8)),
            box=Box(x0=0.0, y0=0.0, x1=0.5, y1=1.0), box_from="given", source="",
        )
        for n in range(2)
    ]  # fmt: skip


def painted(levels: Sequence[int]) -> Callable[[Sequence[Request]], list[np.ndarray]]:
    """Whole pictures of one level each, scene by scene, seeds fastest."""
    return lambda requests: [
        np.full_like(request.image, level) for request, level in zip(requests, levels, strict=True)
    ]


@pytest.fixture(scope="module")
def trial() -> tuned.Trial:
    return tuned.trial(
        photos(),
        places(SCENES, size=64, seed=0),
        seeds=SEEDS,
        seed=0,
        identifier="sks",
        paint_tuned=painted([51, 51, 102, 0, 255, 255]),
        paint_untuned=painted([255] * 6),
        metrics=[Darkness(), BackgroundChange("mean")],
    )


def test_scores_run_scene_by_scene_and_failures_are_worth_the_worst(trial: tuned.Trial) -> None:
    found = trial.values(trial.tuned_scores["dino"])
    np.testing.assert_allclose(found, [[0.8, 0.8, 0.6], [0, 0, 0]], atol=1e-9)
    summary = tuned.summarize([trial], seed=0)
    dino = summary["dino"]
    assert dino.comparison.first.value == pytest.approx(2.2 / 6) and dino.comparison.first.n == 6
    assert (dino.first_failed, dino.second_failed) == (1, 0)
    assert summary["background_mean"].comparison.second.value > 50


def test_the_page_says_what_failed_and_why(trial: tuned.Trial, tmp_path: Path) -> None:
    rooms = places(SCENES, size=64, seed=0)
    write(tuned_page.make([trial], rooms, tuned.summarize([trial], seed=0)), tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert page.count("tuned: nothing but black") == 1
    assert page.count("failed, tuned") == 1 and "1 of 6" in page
    assert "failed, untuned" not in page
    assert "higher is better" in page and "lower is better" in page
    assert page.count("tuned, DINO 0.80") == 2  # what is measured stands under its picture


def test_each_picture_is_measured_with_its_own_box_and_photo() -> None:
    def fill(requests: Sequence[Request]) -> list[np.ndarray]:
        masks = [box_mask(r.placements[0].box_xyxy01, r.image)[..., None] for r in requests]
        return [np.where(mask, mask, r.image) for mask, r in zip(masks, requests, strict=True)]

    found = tuned.trial(
        photos(),
        places(3, size=64, seed=0),
        seeds=2,
        seed=0,
        identifier="sks",
        paint_tuned=fill,
        paint_untuned=painted([90] * 6),
        metrics=[BackgroundChange("largest")],
    )
    assert len(set(found.boxes_xyxy01)) == 3
    assert found.tuned_scores["background_largest"].values.tolist() == [0] * 6
    assert found.untuned_scores["background_largest"].values.min() > 0
