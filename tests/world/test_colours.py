"""Proves that the first colour and the pattern which a caption names can be seen on the thing.

Every category is painted in every pattern, matte and evenly lit, so that its colours are exact.
Needs no checkpoint.
"""

from dataclasses import replace

import numpy as np
import pytest

from insitu import world
from insitu.world.paint import Canvas, paint_body
from insitu.world.shapes import SHAPES

SUBJECTS = 16
FIRST, PATTERN, OTHER = (200, 0, 0), (0, 0, 200), (0, 200, 0)
KINDS = [(category, pattern) for category in world.CATEGORIES for pattern in world.PATTERNS]


def shares(subject: world.Subject) -> tuple[float, float, float]:
    """Shares of the thing: of the first colour, of the pattern, of whole parts in the second.

    Parts that have the second colour of their own, like a mug's rim, are painted in a third.
    """
    canvas, shape = Canvas(48), SHAPES[subject.category](*subject.shape)
    parts = (replace(p, paint=OTHER) if p.paint == "second" else p for p in shape.parts)
    canvas.begin(1)
    paint_body(
        canvas, world.Frame(0.5, 0.5, 0.45), replace(shape, parts=tuple(parts)), base=FIRST,
        second=PATTERN, pattern=subject.pattern, material="matte", light=(0, 0),
    )  # fmt: skip
    own = canvas.rgb[canvas.owner == 1]
    first, pattern, other = ((own == c).all(1).mean() for c in (FIRST, PATTERN, OTHER))
    return float(first), float(pattern), float(other)


@pytest.mark.parametrize(("category", "pattern"), KINDS)
def test_named_colours_and_patterns_show(category: str, pattern: str) -> None:
    seen = []
    for seed in range(SUBJECTS):
        rng = world.rng_for("colours", category, pattern, seed)
        subject = world.sample_subject(rng, category=category)
        kind = replace(subject.pattern, kind=pattern)
        seen.append(shares(replace(subject, pattern=kind)))
    firsts, patterns, others = np.array(seen).T
    assert firsts.min() > 0.1
    # The first colour names the thing, so more of it is seen than of the second.
    assert firsts.mean() > patterns.mean() + others.mean()
    if pattern == "plain":
        assert patterns.max() == 0
    else:
        assert patterns.min() > 0.01
