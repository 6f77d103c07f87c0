"""Settings of painting, compared: the same requests and seeds for each, edits, small boxes.

Proves that a variant's difference is paired with the first one's pictures, that edits change one
word to another of its kind, that the overview shows each variant, and the table every score.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.evaluation import tables, variants
from insitu.evaluation.metrics import Case, Entity, Image, Photo, Scale
from insitu.evaluation.metrics.scores import Scores, score
from insitu.evaluation.variants import Asked, Group, recoloured, run, smaller
from insitu.randomness import rng_for
from insitu.requests import Placement, Request

VOCABULARY = {"colour": ["red", "blue", "green"], "pattern": ["striped", "dotted"]}
BOX = (0.25, 0.25, 0.75, 0.75)


class Brightness:
    """Mean of the picture, in shares of white."""

    scale = Scale(name="light", low=0, high=1, higher_is_better=True, unit="share")

    def __call__(self, cases: Sequence[Case]) -> Scores:
        return score(self.scale, cases, lambda own: [(float(c.image.mean() / 255),) for c in own])


def asked(number: int) -> Asked:
    image = np.full((16, 16, 3), 10 * number, np.uint8)
    return Asked(
        request=Request(
            image=image, placements=(Placement(box_xyxy01=BOX),), prompt="a red mug", seed=0
        ),
        entity=Entity(
            box_xyxy01=BOX, text="a red mug", references=(Photo(image=image, box_xyxy01=BOX),)
        ),
    )


def paint(variant: Any, requests: Sequence[Request]) -> list[Image]:
    """Noise of the request's seed, brighter by the variant's `light`."""
    return [
        np.random.default_rng(r.seed).integers(0, 100, (16, 16, 3)).astype(np.uint8)
        + np.uint8(variant.get("light", 0))
        for r in requests
    ]


def test_a_variant_is_compared_picture_by_picture() -> None:
    groups = [Group(asked=[asked(k) for k in range(3)], paint=paint) for _ in range(2)]
    done = run(groups, [{}, {"light": 51}], [Brightness()], seeds=2, seed=0)
    assert done.values[0]["light"].shape == (2, 3, 2)
    found = done.comparisons(1, seed=0)["light"].difference
    # The noise is the same, so that nothing but the light differs.
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.2, 0.2), abs=1e-6)
    assert len(np.unique(done.values[0]["light"])) > 6  # each picture has noise of its own
    shown = variants.overview(done, rows=2, side=32)
    assert shown.shape[1] == 4 * (32 + variants.GAP) - variants.GAP
    assert variants.label({}) == "as trained" and variants.label({"beta": 0.1}) == "beta 0.1"


def test_its_table_gives_the_scores_back(tmp_path: Path) -> None:
    groups = [Group(asked=[asked(k) for k in range(3)], paint=paint) for _ in range(2)]
    done = run(groups, [{}, {"light": 51}], [Brightness()], seeds=2, seed=0)
    rows = [row for name in ("edits", "small") for row in variants.rows(done, name)]
    tables.write(tmp_path / "scores.csv", rows)
    for number, variant in enumerate(("as trained", "light 51")):
        back = tables.read(tmp_path / "scores.csv", asked="small", variant=variant)
        assert list(back) == ["light"]
        assert np.allclose(back["light"], done.values[number]["light"], atol=1e-6)


@given(st.integers(0, 500))
def test_an_edit_is_another_word_of_the_same_kind(seed: int) -> None:
    found = recoloured("a red striped mug", VOCABULARY, rng_for("test", seed))
    assert found is not None
    words, old = found
    assert old == "red" and words in ("a blue striped mug", "a green striped mug")


def test_an_edit_has_the_article_that_its_word_wants() -> None:
    found = recoloured("an orange mug", {"colour": ["orange", "red"]}, rng_for("test"))
    assert found == ("a red mug", "orange")


def test_words_without_attributes_are_not_edited() -> None:
    assert recoloured("a mug", VOCABULARY, rng_for("test")) is None


@given(st.floats(0.1, 0.5), st.floats(0.1, 0.9))
def test_a_smaller_box_stands_on_the_same_ground(half: float, share: float) -> None:
    x0, y0, x1, y1 = smaller((0.5 - half, 0.2, 0.5 + half, 0.8), share)
    assert y1 == 0.8 and x0 + x1 == pytest.approx(1)
    assert (x1 - x0, y1 - y0) == pytest.approx((2 * half * share, 0.6 * share))
