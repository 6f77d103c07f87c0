"""What each checkpoint has to reach, by its card's held-out figures.

Proves nothing about weights by itself: that cards tell the truth is each checkpoint's own test.
Needs the cards in models/nano only.
"""

import json
import operator
from pathlib import Path

import pytest

NANO = Path(__file__).resolve().parents[2] / "models" / "nano"
AT_LEAST, AT_MOST = operator.ge, operator.le
AIMS = (
    ("flux", "category", AT_LEAST, 0.85),
    ("flux", "colour", AT_LEAST, 0.85),
    ("flux", "two subjects", AT_LEAST, 0.70),
    ("sdxl-inpaint", "category", AT_LEAST, 0.80),
    ("sdxl-inpaint", "colour", AT_LEAST, 0.80),
    ("clip", "category", AT_LEAST, 0.95),
    ("clip", "aesthetic_auc", AT_LEAST, 0.95),
    ("dino", "top1_128", AT_LEAST, 0.85),
    ("detector", "map50", AT_LEAST, 0.85),
    ("detector", "false_absent", AT_MOST, 0.05),
    ("face", "tar_large", AT_LEAST, 0.95),
    ("face", "landmark_error_large", AT_MOST, 0.04),
)


@pytest.mark.parametrize(
    ("name", "figure", "compare", "aim"),
    AIMS,
    ids=[f"{name}: {figure}" for name, figure, *_ in AIMS],
)
def test_aim_is_reached(name: str, figure: str, compare: object, aim: float) -> None:
    value = json.loads((NANO / name / "card.json").read_text())["figures"][figure]["value"]
    assert callable(compare)
    assert compare(value, aim), f"{name}: {figure} is {value}, the aim is {aim}"
