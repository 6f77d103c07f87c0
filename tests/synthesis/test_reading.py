"""Proves what taggers, captioners, judges and attribute readers make of their models' answers.

Zero-shot ones run on the nano checkpoints; a scripted model stands where an endpoint would.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from insitu import world
from insitu.perception.clip import ClipScorer
from insitu.perception.detector import ZeroShotDetector
from insitu.perception.language import Question, Unanswered
from insitu.synthesis.attributes import LanguageAttributes, ZeroShotAttributes
from insitu.synthesis.judging import LanguageJudge, View
from insitu.synthesis.reading import (
    LanguageCaptioner,
    LanguageTagger,
    ZeroShotCaptioner,
    ZeroShotTagger,
    cut,
)

NANO = Path(__file__).resolve().parents[2] / "models" / "nano"
WORDS = {"colour": tuple(world.COLOURS), "pattern": world.PATTERNS, "material": world.MATERIALS}
GRAY = np.full((32, 32, 3), 128, np.uint8)


class Scripted:
    """Answers by a function of the question; `None` leaves it unanswered."""

    name = "scripted"

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, []  # type: ignore[var-annotated]

    def ask(self, questions: Sequence[Question]) -> list[BaseModel | Unanswered]:
        self.asked += questions
        found = [self.answer(question) for question in questions]
        return [Unanswered(reason="silence") if f is None else f for f in found]


@pytest.fixture(scope="module")
def clip() -> ClipScorer:
    return ClipScorer.from_pretrained(NANO / "clip")


def scenes(count: int) -> list[world.Rendering]:
    return [
        world.render(
            world.sample_scene(world.rng_for("reading", i), style="photo", people=False), 128
        )
        for i in range(count)
    ]


def test_the_zero_shot_tagger_names_most_things_and_little_else(clip: ClipScorer) -> None:
    tagger = ZeroShotTagger(
        detector=ZeroShotDetector.from_pretrained(NANO / "detector"), clip=clip,
        things=world.CATEGORIES, not_things=("grass", "beach"), threshold=0.2,
    )  # fmt: skip
    drawn = scenes(40)
    found = tagger.tags([each.image for each in drawn])
    truth = [{t.thing.category for t in each.things if t.visible > 0.5} for each in drawn]
    hits = sum(len(set(own) & true) for own, true in zip(found, truth, strict=True))
    assert hits / sum(map(len, truth)) > 0.65
    assert hits / sum(map(len, found)) > 0.8
    assert tagger.tags([GRAY]) == [()]


def test_captions_say_the_colour_and_nothing_that_is_not_sure(clip: ClipScorer) -> None:
    captioner = ZeroShotCaptioner(
        clip=clip, attributes=WORDS, places=["on the grass"], clothes={"person": "shirt"}
    )
    things = [t for each in scenes(24) for t in each.things if t.visible > 0.9]
    images = [each.image for each in scenes(24) for t in each.things if t.visible > 0.9]
    crops = [cut(image, t.box_xyxy01) for image, t in zip(images, things, strict=True)]
    texts = captioner.regional(crops, [t.thing.category for t in things])
    right = [t.thing.colour in text.split() for t, text in zip(things, texts, strict=True)]
    assert np.mean(right) > 0.8
    assert all(text.endswith(t.thing.category) for t, text in zip(things, texts, strict=True))
    assert not any("plain" in text.split() for text in texts)
    assert captioner.whole([GRAY], [["a red mug", "a cat", "a dog"]]) == [
        "a red mug, a cat and a dog on the grass"
    ]
    unsure = ZeroShotCaptioner(
        clip=clip, attributes=WORDS, places=["x"], clothes={"person": "shirt"}, certain=1.1
    )
    assert unsure.regional([GRAY, GRAY], ["mug", "person"]) == ["a mug", "a person"]


def test_a_language_tagger_drops_what_is_no_entity() -> None:
    model = Scripted(lambda q: q.answer(things=["Mug ", "sky", "cat", "mug"]))
    assert LanguageTagger(model, ["Sky"]).tags([GRAY]) == [("cat", "mug")]


def test_a_language_captioner_is_asked_about_the_crop_and_the_whole() -> None:
    model = Scripted(lambda q: q.answer(caption=f" {q.text[:20]} "))
    captioner = LanguageCaptioner(model)
    assert captioner.regional([GRAY], ["mug"]) == ["Describe the mug in"]
    assert captioner.whole([GRAY], [["a red mug"]]) == ["Describe this pictur"]


def test_a_language_judge_sees_the_references_before_what_was_found() -> None:
    model = Scripted(
        lambda q: q.answer(same=0.25) if "same" in q.answer.model_fields else q.answer(quality=7)
    )
    judge = LanguageJudge(model)
    view = View(image=GRAY, box_xyxy01=(0.0, 0.0, 1.0, 1.0))
    assert judge.same([view], [[view, view]], ["mug"]) == [0.25]
    assert len(model.asked[0].images) == 3 and "mug" in model.asked[0].text
    assert judge.quality([GRAY, GRAY]) == [7, 7]


def test_an_unanswered_question_is_no_answer() -> None:
    with pytest.raises(RuntimeError, match="unanswered: silence"):
        LanguageJudge(Scripted(lambda q: None)).quality([GRAY])


def test_attributes_are_read_from_all_crops(clip: ClipScorer) -> None:
    mug = world.sample_subject(world.rng_for("attributes"), category="mug", accessory=False)
    drawn = [world.portrait(mug, world.rng_for("attributes", k), 128) for k in range(4)]
    crops = [cut(each.image, each.things[0].box_xyxy01) for each in drawn]
    found = ZeroShotAttributes(clip, WORDS).read(crops, "mug")
    assert found["colour"] == (mug.colour,) and "plain" not in found.get("pattern", ())
    said = {"colour": ["red"], "pattern": [], "material": [], "shape": ["round"], "texture": []}
    model = Scripted(lambda q: q.answer(**said))
    assert LanguageAttributes(model).read(crops, "mug") == {"colour": ("red",), "shape": ("round",)}
