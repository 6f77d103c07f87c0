"""Proves that descriptions become items that can be asked and judged, drawn from the world and read
from folders in the way that data sets come, and that what a folder lacks is refused.

Needs no model.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from insitu.errors import UserError
from insitu.evaluation import sets
from insitu.evaluation.metrics import Photo
from insitu.evaluation.placement import Reference
from insitu.evaluation.sets.description import FOLDER, Description

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(path.stem for path in (ROOT / FOLDER).glob("*.yaml"))
TUNED = sets.Tuned(
    reference=Reference(
        photos=(Photo(image=np.full((64, 64, 3), 9, np.uint8), box_xyxy01=(0.2, 0.2, 0.6, 0.9)),),
        class_word="mug",
    ),
    identifier="same red striped",
    attributes={"colour": ["red"], "pattern": ["striped"], "material": []},
    vocabulary={"colour": ["red", "blue"], "pattern": ["striped", "dotted"], "material": ["wooly"]},
)


def described(name: str) -> Description:
    return sets.load(name, ROOT / FOLDER)


def items(name: str, count: int) -> list[sets.Item]:
    asked = described(name)
    if asked.kind == "tuned":
        return sets.tuned_of(asked, TUNED, count)
    return sets.items_of(asked, count)


@pytest.mark.parametrize("name", NAMES)
def test_each_description_becomes_items_that_are_always_the_same(name: str) -> None:
    asked, found = described(name), items(name, 6)
    assert sets.digest(found) == sets.digest(items(name, 6)) != sets.digest(items(name, 5))
    assert len({item.request.seed for item in found}) == 6
    for item in found:
        assert item.request.image.shape == (asked.size, asked.size, 3)
        assert len(item.entities) == len(item.request.placements) >= 1
        for entity, place in zip(item.entities, item.request.placements, strict=True):
            x0, y0, x1, y1 = entity.box_xyxy01
            assert entity.box_xyxy01 == place.box_xyxy01 and 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1


def test_pairs_are_of_two_subjects_with_a_placeholder_for_each() -> None:
    found = items("dreambench", 24)
    for item in found:
        first, second = item.entities
        assert first.references[0].image.shape[2] == 3
        assert not np.array_equal(first.references[0].image, second.references[0].image)
        assert "[V1]" in item.request.prompt and "[V2]" in item.request.prompt
    pairs = {
        frozenset(e.references[0].image.tobytes() for e in item.entities) for item in found
    }  # fmt: skip
    assert len(pairs) > 12


def test_lar_benchmarks_ask_for_the_same_things_in_other_words() -> None:
    named, edits, wordless = (items(name, 8) for name in ("lar", "lar-edits", "lar-wordless"))
    for one, other, none in zip(named, edits, wordless, strict=True):
        assert np.array_equal(one.request.image, none.request.image)
        assert one.entities[0].box_xyxy01 == other.entities[0].box_xyxy01
        assert none.request.prompt == "" and none.entities[0].text
        assert len(other.request.prompt.split()) == len(one.request.prompt.split()) + 1


def test_edits_replace_one_kind_of_a_tuned_subjects_attributes() -> None:
    for item in items("dreammix-editing", 4):
        (gone,) = item.request.replaced
        assert gone not in item.request.prompt.split()
        kept = {"red", "striped"} - {gone}
        assert kept < set(item.request.prompt.split()) and "same" in item.request.prompt
    own, small = items("dreammix-editing", 1)[0], items("dreammix-identity", 1)[0]
    assert small.request.replaced == () and small.request.prompt == "a same red striped mug"
    width = [
        item.entities[0].box_xyxy01[2] - item.entities[0].box_xyxy01[0] for item in (own, small)
    ]
    assert width[1] < width[0]


def test_layouts_go_from_one_entity_to_four_in_boxes_and_in_masks() -> None:
    boxes, masks = items("eligen-boxes", 4), items("eligen-masks", 4)
    assert [len(item.entities) for item in boxes] == [1, 2, 3, 4]
    assert all(item.request.background == "free" for item in boxes)
    for box, mask in zip(boxes, masks, strict=True):
        assert [e.text for e in box.entities] == [e.text for e in mask.entities]
        assert all(e.mask_HW is None for e in box.entities)
        assert all(e.mask_HW is not None and e.mask_HW.any() for e in mask.entities)
    photo = items("eligen-photo", 2)[0]
    assert photo.request.background == "keep" and len(photo.entities) == 1
    styled = items("eligen-styles", 3)
    assert all(
        item.request.style is not None and item.text != item.request.prompt for item in styled
    )


def picture(path: Path, shade: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(np.full((40, 60, 3), shade, np.uint8)).save(path)


def test_real_subjects_and_scenes_come_in_folders(tmp_path: Path) -> None:
    picture(tmp_path / "subjects" / "dog6" / "00.jpg")
    picture(tmp_path / "subjects" / "sneaker_old" / "00.png", 30)
    (tmp_path / "subjects" / "classes.txt").write_text("sneaker_old,sneaker\n")
    picture(tmp_path / "scenes" / "a.png", 200)
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 15:45] = 255
    Pillow.fromarray(mask).save(tmp_path / "scenes" / "a.mask.png")
    (tmp_path / "scenes" / "a.txt").write_text("on a table\n")
    asked = described("lar").model_copy(
        update={
            "subjects": described("lar").subjects.model_copy(  # type: ignore[union-attr]
                update={"path": str(tmp_path / "subjects"), "count": 2}
            ),
            "scenes": described("lar").scenes.model_copy(  # type: ignore[union-attr]
                update={"path": str(tmp_path / "scenes"), "count": 1}
            ),
            "prompts": ("a {0} {place}",),
        }
    )
    found = sets.items_of(asked, 2)
    assert [item.request.prompt for item in found] == ["a dog on a table", "a sneaker on a table"]
    assert found[0].request.image.shape == (40, 60, 3)
    x0, y0, x1, y1 = found[0].entities[0].box_xyxy01
    assert 15 / 60 <= x0 < x1 <= 45 / 60 and y0 >= 0 and y1 <= 1
    (tmp_path / "scenes" / "a.mask.png").unlink()
    with pytest.raises(UserError, match="Nothing says where"):
        sets.items_of(asked, 1)
    (tmp_path / "subjects" / "dog6" / "00.jpg").unlink()
    with pytest.raises(UserError, match="holds no picture"):
        sets.items_of(asked, 1)
    few = asked.model_copy(update={"subjects": asked.subjects.model_copy(update={"count": 9})})  # type: ignore[union-attr]
    picture(tmp_path / "subjects" / "dog6" / "00.jpg")
    with pytest.raises(UserError, match="It holds 2"):
        sets.items_of(few, 1)
