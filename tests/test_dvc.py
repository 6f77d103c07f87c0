"""The root's DVC project notices a changed checkpoint, and only that.

Proves that stages depend on checkpoints through their cards, and that each card names the weights
beside it. Needs the checkpoints in models/nano, no GPU, no DVC run.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from insitu.digest import weights_digest

ROOT = Path(__file__).parents[1]
NANO = ROOT / "models" / "nano"


@pytest.fixture(scope="module")
def stages() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return found


def test_stages_depend_on_checkpoints_through_their_cards(
    stages: dict[str, dict[str, Any]],
) -> None:
    """Because DVC takes a folder of a nested project for empty, which never equals the lock."""
    in_nano = {
        dependency
        for stage in stages.values()
        for dependency in stage.get("do", stage).get("deps", ())
        if (ROOT / dependency).is_relative_to(NANO)
    }
    assert in_nano
    assert {Path(dependency).name for dependency in in_nano} == {"card.json"}


@pytest.mark.parametrize(
    "card", sorted(NANO.glob("*/card.json")), ids=lambda card: card.parent.name
)
def test_a_card_names_the_weights_beside_it(card: Path) -> None:
    assert json.loads(card.read_text())["weights_digest"] == weights_digest(card.parent)
