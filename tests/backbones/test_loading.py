"""Proves that a checkpoint which is missing, damaged or of another kind is refused in three parts.

Needs the small recognition checkpoints in models/nano.
"""

import shutil
from pathlib import Path

import pytest
from transformers import AutoModel, Dinov2Model

from insitu.backbones.loading import load_pretrained
from insitu.errors import UserError
from insitu.params import Checkpoint

NANO = Path(__file__).resolve().parents[2] / "models" / "nano"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(NANO / "dino", tmp_path / "dino"))


def load(folder: Path, model_class: object = Dinov2Model) -> object:
    return load_pretrained(model_class, Checkpoint(path=str(folder)))


def test_a_whole_folder_loads(copy: Path) -> None:
    assert isinstance(load(copy), Dinov2Model)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load(tmp_path / "none" / "here" / "at-all")


@pytest.mark.parametrize("damage", ["weights cut short", "no weights", "no config", "bad config"])
def test_a_damaged_folder_is_refused_and_named(copy: Path, damage: str) -> None:
    weights, config = copy / "model.safetensors", copy / "config.json"
    match damage:
        case "weights cut short":
            weights.write_bytes(weights.read_bytes()[:1000])
        case "no weights":
            weights.unlink()
        case "no config":
            config.unlink()
        case _:
            config.write_text("{")
    with pytest.raises(UserError) as caught:
        load(copy, AutoModel)
    assert str(copy) in caught.value.given
    assert "incomplete or of another model" in caught.value.why
