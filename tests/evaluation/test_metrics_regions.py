"""Proves likeness, text and attribute metrics on pictures whose embeddings are known by hand.

The embedder is the mean colour and a text's is its colour word's, so every cosine can be computed
with numpy. Needs no checkpoint.
"""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.nn.functional import normalize

from insitu.errors import UserError
from insitu.evaluation.metrics import Case, Entity, Photo, summarize
from insitu.evaluation.metrics.attributes import (
    AttributeAccuracy,
    AttributeLeakage,
    AttributeReader,
)
from insitu.evaluation.metrics.quality import Aesthetic
from insitu.evaluation.metrics.regions import (
    PictureText,
    RegionCopyPaste,
    RegionLikeness,
    Regions,
    RegionText,
    angle,
    copy_paste,
)
from insitu.perception.dino import crop_square

RGB = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250), "pale": (200, 190, 210)}
LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
SIZE = 8


class MeanColour:
    """Unit mean colours; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def embed_images(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        self.asked += 1
        return normalize(torch.tensor(np.array([i.mean((0, 1)) for i in images])).float(), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        colours = [next(RGB[word] for word in text.split() if word in RGB) for text in texts]
        return normalize(torch.tensor(colours).float(), dim=-1)

    def aesthetic(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.tensor([float(image.mean()) - 128 for image in images])


def flat(name: str, width: int = 16) -> np.ndarray:
    return np.full((16, width, 3), RGB[name], np.uint8)


def halves(left: str, right: str) -> np.ndarray:
    return np.concatenate([flat(left), flat(right)], axis=1)


def cosine(one: str, other: str) -> float:
    a, b = np.array(RGB[one], float), np.array(RGB[other], float)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_likeness_is_the_mean_cosine_with_each_reference_by_entity() -> None:
    embedder = MeanColour()
    metric = RegionLikeness("dino", Regions(embedder, size=SIZE))
    both = tuple(Photo(image=flat(name)) for name in ("red", "pale"))
    entities = (
        Entity(box_xyxy01=LEFT, references=both),
        Entity(
            box_xyxy01=RIGHT, references=(Photo(image=halves("red", "blue"), box_xyxy01=RIGHT),)
        ),
    )
    case = Case(image=halves("pale", "green"), entities=entities)
    (found,) = metric([case]).parts
    wanted = (cosine("pale", "red") + 1) / 2, cosine("green", "blue")
    assert found == pytest.approx(wanted, abs=1e-5)
    assert metric([case]).values == pytest.approx(sum(wanted) / 2, abs=1e-5)
    assert embedder.asked == 2  # the case's regions and the references, once each
    with pytest.raises(UserError, match="without references"):
        metric([Case(image=flat("red"), entities=(Entity(box_xyxy01=LEFT),))])
    with pytest.raises(UserError, match="without entities"):
        metric([Case(image=flat("red"))])


def test_the_region_is_the_square_around_the_box() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    box = (0.2, 0.1, 0.5, 0.9)
    regions = Regions(MeanColour(), size=SIZE, margin=0.1)
    found = regions.photos([Photo(image=image, box_xyxy01=box)])[0]
    mean = crop_square(image, box, SIZE, 0.1).mean((0, 1))
    np.testing.assert_allclose(found.numpy(), mean / np.linalg.norm(mean), rtol=1e-5)


def test_a_white_background_leaves_nothing_but_the_thing() -> None:
    mask = np.zeros((16, 16), np.bool_)
    mask[4:12, 4:12] = True

    def thing(background: str) -> np.ndarray:
        return np.where(mask[..., None], flat("red"), flat(background))

    def likeness(background: str, masked: bool) -> float:
        regions = Regions(MeanColour(), size=16, background=background)  # type: ignore[arg-type]
        photo = Photo(image=thing("blue"), mask_HW=mask if masked else None)
        entity = Entity(box_xyxy01=(0, 0, 1, 1), references=(photo,), mask_HW=mask)
        case = Case(image=thing("green"), entities=(entity,))
        return float(RegionLikeness("clip_i", regions)([case]).values[0])

    assert likeness("kept", True) < 0.5
    assert likeness("white", True) == pytest.approx(1, abs=1e-6)
    with pytest.raises(UserError, match="without masks"):
        likeness("white", False)


def test_texts_are_compared_with_the_region_or_the_whole_picture() -> None:
    embedder = MeanColour()
    entities = tuple(
        Entity(box_xyxy01=box, text=f"a {name} mug")
        for box, name in ((LEFT, "red"), (RIGHT, "green"))
    )
    case = Case(image=halves("red", "blue"), entities=entities, text="a pale room")
    clip: object = embedder
    (regional,) = RegionText(clip, Regions(embedder, size=SIZE))([case]).parts  # type: ignore[arg-type]
    assert regional == pytest.approx((1, cosine("blue", "green")), abs=1e-5)
    mixed = (np.array(RGB["red"]) + RGB["blue"]) / 2
    wanted = mixed @ RGB["pale"] / np.linalg.norm(mixed) / np.linalg.norm(RGB["pale"])
    whole = PictureText(clip)  # type: ignore[arg-type]
    assert whole([case]).values == pytest.approx(wanted, abs=1e-5)
    with pytest.raises(UserError, match="without texts"):
        whole([Case(image=flat("red"))])


def test_a_pasted_reference_is_plus_one_and_the_truth_minus_one() -> None:
    references = (Photo(image=flat("red")),)
    truth = Photo(image=flat("pale"))
    entity = Entity(box_xyxy01=LEFT, references=references, truth=truth)
    cases = [Case(image=flat(name), entities=(entity,)) for name in ("red", "pale")]
    scores = RegionCopyPaste(Regions(MeanColour(), size=SIZE))(cases)
    assert scores.values == pytest.approx([1, -1], abs=1e-3) and scores.scale.worst == 1
    with pytest.raises(UserError, match="without true pictures"):
        RegionCopyPaste(Regions(MeanColour(), size=SIZE))(
            [Case(image=flat("red"), entities=(Entity(box_xyxy01=LEFT, references=references),))]
        )


VECTORS = arrays.arrays(np.float64, (3, 4), elements=st.floats(-1, 1)).filter(
    lambda v: bool((np.linalg.norm(v, axis=1) > 0.1).all())
)


@given(VECTORS)
def test_copy_paste_is_a_share_of_the_angle_between_truth_and_reference(v: np.ndarray) -> None:
    unit = v / np.linalg.norm(v, axis=1, keepdims=True)
    g, gt, ref = torch.from_numpy(unit)
    by_cosine = np.arccos(np.clip(unit[0] @ unit[1], -1, 1))
    assert angle(unit[0], unit[1]) == pytest.approx(by_cosine, abs=1e-7)
    assert -1 - 1e-6 <= copy_paste(g, gt, ref) <= 1 + 1e-6
    assert copy_paste(g, gt, ref) == pytest.approx(-copy_paste(g, ref, gt), abs=1e-6)
    if angle(unit[1], unit[2]) > 1e-3:
        assert copy_paste(ref, gt, ref) == pytest.approx(1)
        assert copy_paste(gt, gt, ref) == pytest.approx(-1)


def read(*shown: str, category: str = "mug") -> tuple[float, float]:
    """Accuracy and leakage where a red and a blue thing were asked for."""
    embedder: object = MeanColour()
    regions = Regions(MeanColour(), size=SIZE)
    vocabulary = {"colour": ("green", "red", "blue")}
    reader = AttributeReader(embedder, regions, vocabulary)  # type: ignore[arg-type]
    entities = tuple(
        Entity(box_xyxy01=box, category=category, attributes={"colour": name})
        for box, name in ((LEFT, "red"), (RIGHT, "blue"))
    )
    case = Case(image=halves(*shown), entities=entities)
    scores = AttributeAccuracy(reader)([case]), AttributeLeakage(reader)([case])
    return float(scores[0].values[0]), float(scores[1].values[0])


def test_what_leaked_is_another_entitys_attribute_and_what_is_merely_wrong_is_not() -> None:
    assert read("red", "blue") == (1, 0)
    assert read("blue", "red") == (0, 1)
    assert read("green", "green") == (0, 0)
    assert read("red", "red") == (0.5, 0.5)
    assert read("red", "green") == (0.5, 0)


def test_attributes_that_cannot_be_told_are_refused() -> None:
    reader = AttributeReader(
        MeanColour(), Regions(MeanColour(), size=SIZE), {"colour": ("red", "blue")}  # type: ignore[arg-type]
    )  # fmt: skip

    def entities(*given: dict[str, str]) -> tuple[Entity, ...]:
        return tuple(Entity(box_xyxy01=LEFT, category="mug", attributes=own) for own in given)

    for asked, message in (
        ([{"colour": "mauve"}], "The colour 'mauve' was asked for"),
        ([{"size": "big"}], "The size 'big' was asked for"),
        ([{}], "without attributes"),
        ([{"colour": "red"}, {"colour": "red"}], "nothing can leak"),
    ):
        with pytest.raises(UserError, match=message):
            AttributeLeakage(reader)([Case(image=flat("red"), entities=entities(*asked))])


def test_the_aesthetic_score_is_the_heads_logit_between_0_and_1() -> None:
    clip: object = MeanColour()
    grey = np.full((4, 4, 3), 129, np.uint8)
    lost = Case(image=None, failure="timed out")
    scores = Aesthetic(clip)([Case(image=grey), lost])  # type: ignore[arg-type]
    assert scores.values == pytest.approx([1 / (1 + np.exp(-1)), 0])
    assert summarize(scores).failed == 1
