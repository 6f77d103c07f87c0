"""Proves that each way of getting it wrong is caught by the metric that is meant for it.

Pictures are of the procedural world, right ones and deliberately broken ones of the same scenes,
compared in pairs: the 95% interval of the difference must exclude 0. Needs models/nano: clip, dino,
detector.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from insitu import world
from insitu.evaluation.checkpoints import Figure, bootstrap
from insitu.evaluation.checkpoints.judging import PRESENT
from insitu.evaluation.metrics import Case, Entity, Metric, Photo, summarize
from insitu.evaluation.metrics.attributes import (
    AttributeAccuracy,
    AttributeLeakage,
    AttributeReader,
)
from insitu.evaluation.metrics.edges import BackgroundChange, SeamVisibility
from insitu.evaluation.metrics.entities import (
    BoxIoU,
    EntityFinder,
    EntityInMask,
    EntityRecall,
    FoundLikeness,
    LocationError,
    MaskIoU,
)
from insitu.evaluation.metrics.quality import Aesthetic
from insitu.evaluation.metrics.regions import (
    PictureText,
    RegionCopyPaste,
    RegionIdentity,
    RegionLikeness,
    Regions,
    RegionText,
)
from insitu.perception.clip import ClipScorer
from insitu.perception.detector import ZeroShotDetector
from insitu.perception.dino import IdentityEncoder
from insitu.perception.segmenter import GrabCut

NANO = Path(__file__).resolve().parents[2] / "models" / "nano"
SCENES, SIDE = 24, 96
CROP = 64  # what the nano checkpoints see
Image = np.ndarray


@pytest.fixture(scope="module")
def clip() -> ClipScorer:
    return ClipScorer.from_pretrained(NANO / "clip")


@pytest.fixture(scope="module")
def dino() -> Regions:
    return Regions(IdentityEncoder.from_pretrained(str(NANO / "dino")), size=CROP)


@pytest.fixture(scope="module")
def finder() -> EntityFinder:
    return EntityFinder(ZeroShotDetector.from_pretrained(NANO / "detector"), threshold=PRESENT)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Two things in a scene, both well seen; without the front one; what was asked for."""

    scene: world.Scene
    image: Image
    without_last: Image
    entities: tuple[Entity, ...]

    def case(self, image: Image | None = None) -> Case:
        """All that was asked for, and a picture; the true one by default."""
        image = self.image if image is None else image
        return Case(image=image, entities=self.entities, text=world.caption(self.scene))

    def placed(self, image: Image) -> Case:
        """The front thing alone was asked for, in the picture without it."""
        return Case(image=image, entities=self.entities[-1:], source=self.without_last)

    def composite(self) -> Image:
        """The truth within the front thing's box, the picture without it elsewhere."""
        x0, y0, x1, y1 = np.rint(np.array(self.entities[-1].box_xyxy01) * SIDE).astype(int)
        image = self.without_last.copy()
        image[y0:y1, x0:x1] = self.image[y0:y1, x0:x1]
        return image


def stage(n: int, *, alike: bool) -> Stage:
    """Things of two colours and, where they are `alike`, of one category, else of two."""
    for attempt in range(100):
        rng = world.rng_for("test", "metrics", n, attempt)
        one, other = rng.choice(world.CATEGORIES, 2, replace=False).tolist()
        things: list[world.Thing] = [
            world.sample_subject(rng, category=category)
            for category in (one, one if alike else other)
        ]
        scene = world.sample_scene(rng, things=things, style="photo")
        drawn = world.render(scene, SIDE)
        colours = {thing.colour for thing in scene.things if isinstance(thing, world.Subject)}
        if all(thing.visible > 0.95 for thing in drawn.things) and len(colours) == 2:
            break
    entities = []
    for k, seen in enumerate(drawn.things):
        assert isinstance(seen.thing, world.Subject)
        photo = world.portrait(seen.thing, world.rng_for("test", "metrics-photo", n, k), SIDE)
        (known,) = photo.things
        entities.append(
            Entity(
                box_xyxy01=seen.box_xyxy01,
                mask_HW=None,
                text=world.article(f"{seen.thing.colour} {seen.thing.category}"),
                category=seen.thing.category,
                attributes={"colour": seen.thing.colour},
                references=(
                    Photo(image=photo.image, box_xyxy01=known.box_xyxy01, mask_HW=known.mask),
                ),
                truth=Photo(image=drawn.image, box_xyxy01=seen.box_xyxy01, mask_HW=seen.mask),
            )
        )
    rest = replace(scene, things=scene.things[:-1], frames=scene.frames[:-1])
    return Stage(
        scene=scene,
        image=drawn.image,
        without_last=world.render(rest, SIDE).image,
        entities=tuple(entities),
    )


@pytest.fixture(scope="module")
def stages() -> list[Stage]:
    return [stage(n, alike=True) for n in range(SCENES)]


@pytest.fixture(scope="module")
def unlike() -> list[Stage]:
    return [stage(n, alike=False) for n in range(SCENES)]


def difference(metric: Metric, right: Sequence[Case], broken: Sequence[Case]) -> Figure:
    """How much worse the broken pictures are, case by case; above 0 = caught."""
    scores = metric([*right, *broken]).values
    worse = scores[: len(right)] - scores[len(right) :]
    return bootstrap(worse if metric.scale.higher_is_better else -worse)


def redrawn(stage: Stage, **changes: object) -> Image:
    return world.render(replace(stage.scene, **changes), SIDE).image  # type: ignore[arg-type]


def test_identities_swapped_between_two_boxes_are_less_like_their_references(
    stages: list[Stage], dino: Regions, clip: ClipScorer, finder: EntityFinder
) -> None:
    right = [stage.case() for stage in stages]
    swapped = [s.case(redrawn(s, things=s.scene.things[::-1])) for s in stages]
    likeness = RegionLikeness("dino", dino)
    assert difference(likeness, right, swapped).low > 0.2
    assert difference(RegionIdentity(dino), right, swapped).low > 0.6
    # They are still there, so what asks for no place cannot tell.
    assert abs(difference(FoundLikeness(finder, dino), right, swapped).value) < 0.1
    assert difference(RegionLikeness("clip_i", Regions(clip, size=CROP)), right, swapped).low > 0
    assert difference(RegionText(clip, Regions(clip, size=CROP)), right, swapped).low > 0
    # Against the backgrounds of photo and scene: the thing alone tells as well.
    cut = Regions(dino.embedder, size=CROP, background="white")
    masked = [
        Case(
            image=case.image,
            entities=tuple(replace(e, mask_HW=e.truth and e.truth.mask_HW) for e in case.entities),
        )
        for case in (*right, *swapped)
    ]
    found = difference(RegionLikeness("dino", cut), masked[:SCENES], masked[SCENES:])
    assert found.low > 0.2


def test_a_thing_drawn_elsewhere_is_told_by_its_place(
    unlike: list[Stage], finder: EntityFinder
) -> None:
    """The front thing stands where the other was; it is still there, so recall does not tell."""
    right = [s.placed(s.composite()) for s in unlike]
    moved = [s.placed(redrawn(s, things=s.scene.things[::-1])) for s in unlike]
    recall = EntityRecall(finder)
    assert min(recall(right).values.mean(), recall(moved).values.mean()) > 0.8
    assert difference(LocationError(finder), right, moved).low > 0.3
    assert difference(BoxIoU(finder), right, moved).low > 0.4
    assert difference(EntityInMask(finder), right, moved).low > 0.4
    assert difference(BackgroundChange("largest"), right, moved).low > 50
    assert BackgroundChange("largest")(right).values.max() == 0


def test_a_repainted_background_is_told_by_its_change(
    unlike: list[Stage], finder: EntityFinder
) -> None:
    right = [s.placed(s.composite()) for s in unlike]
    repainted = [
        s.placed(
            redrawn(
                s,
                background=next(kind for kind in ("beach", "forest") if kind != s.scene.background),
            )
        )
        for s in unlike
    ]
    assert difference(BackgroundChange("mean"), right, repainted).low > 10
    assert abs(difference(LocationError(finder), right, repainted).value) < 0.2


def pasted(s: Stage) -> Image:
    """The front thing's photo, backdrop and light included, fitted into its box."""
    photo = s.entities[-1].references[0]
    height, width = photo.image.shape[:2]
    x0, y0, x1, y1 = np.rint(np.array(photo.box_xyxy01) * [width, height, width, height]).astype(
        int
    )
    u0, v0, u1, v1 = np.rint(np.array(s.entities[-1].box_xyxy01) * SIDE).astype(int)
    image = s.without_last.copy()
    image[v0:v1, u0:u1] = cv2.resize(
        photo.image[y0:y1, x0:x1], (int(u1 - u0), int(v1 - v0)), interpolation=cv2.INTER_AREA
    )
    return image


def test_a_pasted_photo_shows_its_seam_and_that_it_is_a_copy(
    stages: list[Stage], dino: Regions
) -> None:
    right = [s.placed(s.composite()) for s in stages]
    broken = [s.placed(pasted(s)) for s in stages]
    assert difference(SeamVisibility(), right, broken).low > 0.05
    copying = RegionCopyPaste(dino)
    assert copying(right).values.mean() < -0.9
    assert difference(copying, right, broken).low > 1
    assert copying(broken).values.mean() > 0.3


def test_swapped_attributes_are_told_by_leakage(stages: list[Stage], clip: ClipScorer) -> None:
    vocabulary = {"colour": tuple(world.COLOURS)}
    reader = AttributeReader(clip, Regions(clip, size=CROP, margin=0.1), vocabulary)
    right, swapped = [s.case() for s in stages], []
    for n, s in enumerate(stages):
        rng = world.rng_for("test", "metrics-swap", n)
        scene, faults = world.inject(s.scene, rng, {"swapped attributes": 1.0})
        assert faults
        swapped.append(s.case(world.render(scene, SIDE).image))
    leakage, accuracy = AttributeLeakage(reader), AttributeAccuracy(reader)
    assert leakage(right).values.mean() < 0.1 and leakage(swapped).values.mean() > 0.7
    assert difference(leakage, right, swapped).low > 0.5
    assert difference(accuracy, right, swapped).low > 0.5


def test_a_missing_thing_lowers_recall_and_stays_in_the_means(
    stages: list[Stage], finder: EntityFinder, dino: Regions
) -> None:
    right, missing = [s.case() for s in stages], [s.case(s.without_last) for s in stages]
    recall = EntityRecall(finder)
    assert difference(recall, right, missing).low > 0.2
    assert difference(FoundLikeness(finder, dino), right, missing).low > 0.2
    assert recall(missing).values.max() <= 0.5  # one thing never counts for two
    error = LocationError(finder)
    scores = error(missing)
    assert scores.failures >= SCENES and len(scores.values) == SCENES
    assert scores.values.min() >= error.scale.worst / 2
    summary = summarize(scores)
    assert summary.figure.n == SCENES and summary.failed == scores.failures
    assert summary.figure.value == pytest.approx(scores.values.mean())


def test_a_thing_of_another_shape_is_told_by_its_mask(
    stages: list[Stage], finder: EntityFinder
) -> None:
    """The asked mask is the thing's own, and a disc of the same box's size that it is not."""
    metric = MaskIoU(finder, GrabCut())

    def cases(masks: Sequence[np.ndarray]) -> list[Case]:
        return [
            Case(image=s.composite(), entities=(replace(s.entities[-1], mask_HW=mask),))
            for s, mask in zip(stages, masks, strict=True)
        ]

    own = []
    for s in stages:
        truth = s.entities[-1].truth
        assert truth is not None and truth.mask_HW is not None
        own.append(truth.mask_HW)
    assert difference(metric, cases(own), cases([mask[:, ::-1] for mask in own])).low > 0.2


def test_a_spoilt_picture_looks_worse_and_a_wrong_prompt_fits_less(
    stages: list[Stage], clip: ClipScorer
) -> None:
    right = [s.case() for s in stages]
    spoilt = [
        s.case(world.degrade(s.image, "noise", world.rng_for("test", "metrics-noise", n)))
        for n, s in enumerate(stages)
    ]
    assert difference(Aesthetic(clip), right, spoilt).low > 0.1
    others = [replace(case, text=right[n - 1].text) for n, case in enumerate(right)]
    assert difference(PictureText(clip), right, others).low > 0.1
