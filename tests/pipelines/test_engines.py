"""Proves the data engines' stages as a user runs them: from settings to published rows and pages.

Needs the nano checkpoints and, for FLUX as the generator, a tiny random one of the real class.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow
from ruamel.yaml import YAML

from insitu import world
from insitu.errors import UserError
from insitu.params import Params, load
from insitu.records import load_manifest, read, read_rejected
from insitu.records.engines import (
    BankFace,
    BoundId,
    Candidate,
    Detections,
    EntityPicture,
    Group,
    Pair,
    Quadruple,
)
from insitu.synthesis.boundid import FILTERS
from insitu.synthesis.lineage import source
from pipelines import (
    _paths,
    boundid,
    candidates,
    detections,
    entities,
    faces,
    groups,
    images,
    pairs,
    quadruples,
)

ROOT = Path(__file__).resolve().parents[2]
STAGES = (images, pairs, candidates, detections, boundid, entities, quadruples, faces, groups)


def told(facts: dict[str, Any]) -> None:
    """What a stage reports; nobody listens here."""


def settings(folder: Path, **changes: dict[str, Any]) -> Params:
    """The shipped settings with few rows, models by absolute path, and changes on top."""
    content: dict[str, Any] = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text())
    for model in content["models"].values():
        model["path"] = str(ROOT / model["path"])
    content["device"] = "cpu"
    content["runner"] |= {"threads": 1, "shard": 6, "batch": 4}
    content["pairs"] |= {"identities": 30, "size": 64, "count": 12}
    content["candidates"]["faults"] |= {"missing": 0.4}
    for name, count in (("entities", 6), ("quadruples", 4), ("groups", 6)):
        content[name]["count"] = count
    content["groups"] |= {"identities": 6, "references": 2}
    for name, values in changes.items():
        content[name] |= values
    YAML().dump(content, folder / "params.yaml")
    return load(folder / "params.yaml")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which every stage has run once."""
    folder = tmp_path_factory.mktemp("engines")
    (folder / "pictures").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        params = settings(folder)
        for stage in STAGES:
            stage.main(params, told)
        yield folder


def manifests(folder: Path) -> dict[str, bytes]:
    return {
        p.parent.name: p.read_bytes() for p in sorted((folder / "data").glob("*/manifest.json"))
    }


def test_every_row_is_kept_or_refused_with_its_reason(made: Path) -> None:
    kept, refused = (
        list(read(_paths.BOUNDID, BoundId)),
        list(read_rejected(_paths.BOUNDID, BoundId)),
    )
    asked = {row.id for row in read(_paths.PAIRS, Pair)}
    assert {row.id for row in kept} | {row.id for row in refused} == asked and len(asked) == 12
    assert refused and all(row.filter in FILTERS and row.reason for row in refused)
    for row in kept:
        assert all(box is not None for box in row.boxes) and len(row.boxes) == 2
        assert row.masked.array().shape == row.image.array().shape


def test_rows_name_what_they_were_made_from(made: Path) -> None:
    behind = {
        source(row)
        for folder, kind in (
            (_paths.PAIRS, Pair),
            (_paths.CANDIDATES, Candidate),
            (_paths.DETECTIONS, Detections),
        )
        for row in read(folder, kind)
    }
    for row in read(_paths.BOUNDID, BoundId):
        named = set(row.lineage.sources)
        assert len(named & behind) == 3  # its pair, its candidate, what was found
        assert len([s for s in named if s.startswith("world-")]) == 2  # and both identities
        assert [m.split()[0] for m in row.lineage.models] == ["world", "detector", "dino", "clip"]


def test_pages_and_figures_are_there(made: Path) -> None:
    for page in (
        _paths.BOUNDID_PAGE,
        _paths.ENTITIES_PAGE,
        _paths.QUADRUPLES_PAGE,
        _paths.GROUPS_PAGE,
    ):
        assert (page / "index.html").stat().st_size > 1000
        with Pillow.open(page / "funnel.png") as funnel:
            assert funnel.width > 400
    figures = json.loads(_paths.BOUNDID_FIGURES.read_text())
    left = list(figures["funnel"].values())
    assert left[0] == 12 and left == sorted(left, reverse=True)
    assert left[-1] == load_manifest(_paths.BOUNDID).rows


def test_entities_quadruples_and_groups_hold_what_training_needs(made: Path) -> None:
    for entity_row in read(_paths.ENTITIES, EntityPicture):
        assert entity_row.entities and all(
            e.prompt and e.word in e.prompt for e in entity_row.entities
        )
        assert entity_row.asked and entity_row.prompt
    quads = list(read(_paths.QUADRUPLES, Quadruple))
    for quad in quads:
        mask = quad.mask.array()
        assert mask.shape == quad.image.array().shape and set(mask.ravel().tolist()) == {0, 255}
        assert quad.tag in quad.text and quad.text in quad.global_text
        assert quad.area == pytest.approx((mask > 0).mean(), abs=1e-4)
    assert quads
    bank = {face.identity for face in read(_paths.FACES, BankFace)}
    people = list(read(_paths.GROUPS, Group))
    assert people and all(f.identity in bank for row in people for f in row.faces)


def test_a_second_run_makes_the_same_bytes_and_a_threshold_reruns_filters_alone(made: Path) -> None:
    before = manifests(made)
    params = settings(made)
    for stage in STAGES:
        stage.main(params, told)
    assert manifests(made) == before
    strict = settings(made, boundid={"quality": 5.0})
    boundid.main(strict, told)
    after = manifests(made)
    assert [name for name in after if after[name] != before[name]] == ["boundid"]
    assert load_manifest(_paths.BOUNDID).rejected_by_filter[FILTERS[2]] > 0
    boundid.main(params, told)


def test_flux_draws_pairs_and_a_users_captions(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "captions.txt").write_text("a red mug\n\na blue cat on the grass\n")
    few = {"steps": 1, "guidance_scale": 3.5, "true_cfg_scale": 2.0, "max_sequence_length": 16}
    params = settings(
        tmp_path,
        models={"flux": {"path": str(checkpoints["flux"]), "size": 16, "max_sequence_length": 16}},
        pairs={"count": 2, "identities": 12, "size": 64},
        candidates={"generator": "flux", "flux": few},
        entities={"generator": "flux", "captions": "captions.txt", "flux": few},
    )
    for stage in (pairs, candidates, detections, boundid, entities):
        stage.main(params, told)
    drawn = list(read(_paths.CANDIDATES, Candidate))
    assert [row.faults for row in drawn] == [None, None]
    assert all(row.lineage.models[0].startswith("flux ") for row in drawn)
    assert load_manifest(_paths.BOUNDID).rejected_rows + load_manifest(_paths.BOUNDID).rows == 2
    rows = [*read(_paths.ENTITIES, EntityPicture)]
    rows += [row.record for row in read_rejected(_paths.ENTITIES, EntityPicture)]
    assert sorted(row.asked for row in rows) == ["a blue cat on the grass", "a red mug"]


def test_own_pictures_become_a_bank_and_stills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for index, name in enumerate(("red-mug", "blue-car", "old-lamp", "grey-cat")):
        thing = world.sample_subject(world.rng_for("own", index))
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for view in range(2):
            photo = world.portrait(thing, world.rng_for("own", index, view), 64).image
            Pillow.fromarray(photo).save(tmp_path / "pictures" / name / f"{view}.png")
    (tmp_path / "pictures" / "red-mug" / "broken.png").write_bytes(b"no picture")
    shares = {"validation": 0.0, "test": 0.0}
    params = settings(
        tmp_path,
        pictures={"format": "imagefolder", "near_duplicate_bits": None, **shares},
        pairs={"bank": "pictures", "count": 3},
        quadruples={"source": "pictures"},
    )
    for stage in (images, pairs, quadruples):
        stage.main(params, told)
    assert load_manifest(_paths.IMAGES).rejected_by_filter == {"unreadable": 1}
    for pair in read(_paths.PAIRS, Pair):
        first, second = pair.references
        assert first.identity != second.identity and first.image != first.other
        assert first.category in {"red mug", "blue car", "old lamp", "grey cat"}
    names = {row.id.rpartition("/")[0] for row in read(_paths.QUADRUPLES, Quadruple)}
    assert names <= {row.id for row in read(_paths.IMAGES, images.Picture)}
    with pytest.raises(UserError, match="only its own can be drawn"):
        candidates.main(params, told)


def test_what_cannot_work_is_refused_before_any_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="floor"):
        settings(tmp_path, boundid={"detection": 0.001})
    with pytest.raises(UserError, match=r"perception.endpoint"):
        settings(tmp_path, perception={"judge": "endpoint"})
    missing = {"captions": "missing.txt", "generator": "flux"}
    with pytest.raises(UserError, match="cannot be read"):
        entities.main(settings(tmp_path, entities=missing), told)
    with pytest.raises(UserError, match="draws scenes, not words"):
        entities.main(settings(tmp_path, entities={"captions": "some.txt"}), told)
