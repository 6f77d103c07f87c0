"""Proves that a data set's card is what `datasets` needs to open it, that what it counts is so, and
that equal shards have equal cards. Needs `datasets`, no model and no network."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image as Pillow
from ruamel.yaml import YAML

from insitu.records import Box, Image, Record, ShardWriter
from insitu.records.engines import BankFace, BoundId, EntityPicture, Group, Lineage, Quadruple
from insitu.records.pictures import Picture
from insitu.synthesis import cards
from insitu.synthesis.columns import Numbers, Words, columns, describe


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A thing that was seen."""

    identity: str
    category: str
    image: Image
    box: Box | None
    score: float


@dataclass(frozen=True, kw_only=True)
class Sight(Record):
    """One look at things.

    Attributes:
        things: what was seen,
            and where.
        left, right: how well, on
            each side.
    """

    image: Image
    things: tuple[Seen, ...]
    left: float
    right: float | None
    curve: tuple[float, ...]
    split: str
    lineage: Lineage


def sight(number: int) -> Sight:
    image = Image.from_array(np.full((8, 8, 3), number, np.uint8))
    things = tuple(
        Seen(
            identity=f"mug-{number % 5}",
            category="mug" if k else "lamp",
            image=image,
            box=Box(x0=0, y0=0, x1=1, y1=1) if k else None,
            score=number / 10,
        )
        for k in range(number % 3)
    )
    return Sight(
        id=f"s{number}",
        image=image,
        things=things,
        left=float(number),
        right=None if number % 2 else 1.0,
        curve=(0.0, 1.0),
        split="test" if number % 4 == 0 else "train",
        lineage=Lineage(sources=(), models=("world 2", f"judge {number % 2}")),
    )


REFUSED = (3, 4, 13)
KEPT = tuple(number for number in range(20) if number not in REFUSED)


def folder(path: Path, *, refused: Sequence[int] = REFUSED, count: int = 20) -> Path:
    """Two shards of sights with a card, and a row that was set aside."""
    writer = ShardWriter(path, Sight, "i" * 64)
    for index, numbers in enumerate((range(count // 2), range(count // 2, count))):
        with writer.shard(index) as shard:
            for number in numbers:
                if number in refused:
                    shard.reject(sight(number), filter="dark", score=0.1, reason="too dark")
                else:
                    shard.keep(sight(number))
            if index:
                shard.set_aside("s99", "ValueError: no")
    writer.finish(2)
    write(path)
    return path


def write(path: Path, **changed: Any) -> None:
    given: dict[str, Any] = {
        "title": "Sights: two",
        "text": "What was seen.",
        "record_type": Sight,
        "path": "data/sights",
        "filters": ("far", "dark"),
        "settings": {"sights": {"least": 0.5, "words": ("a", "b")}},
        "licences": {"CC0-1.0": "drawn"},
    }
    cards.write(path, **(given | changed))


@pytest.fixture(scope="module")
def sights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("cards") / "sights")


def text(path: Path) -> str:
    return (path / cards.CARD).read_text(encoding="utf-8")


def head(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe", pure=True).load(text(path).split("---\n")[1])
    return content


def table(path: Path) -> dict[str, list[str]]:
    """The cells of every line of every table, by the first."""
    lines = text(path).replace("`", "").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line[:1] == "|"]
    return {row[0]: row[1:] for row in rows}


def opened(path: Path, cache: Path, *names: str) -> Any:
    return load_dataset(str(path), *names, cache_dir=str(cache))


def test_datasets_opens_kept_and_rejected_with_pictures(sights: Path, tmp_path: Path) -> None:
    kept = opened(sights, tmp_path)
    assert list(kept) == ["kept"]
    rows = kept["kept"]
    assert [row["id"] for row in rows] == [f"s{number}" for number in KEPT]
    assert isinstance(rows[0]["image"], Pillow.Image)
    assert isinstance(rows[1]["things"][0]["image"], Pillow.Image)
    rejected = opened(sights, tmp_path, "rejected")["rejected"]
    assert [row["id"] for row in rejected] == [f"s{number}" for number in REFUSED]
    assert {row["rejected_by"] for row in rejected} == {"dark"}
    assert rejected[0]["image"].getpixel((0, 0)) == (3, 3, 3)


@pytest.mark.parametrize("refused", [(), range(10)], ids=["none", "a whole shard"])
def test_datasets_opens_it_whatever_was_refused(tmp_path: Path, refused: Sequence[int]) -> None:
    path = folder(tmp_path / "sights", refused=refused)
    assert opened(path, tmp_path / "cache")["kept"].num_rows == 20 - len(refused)
    configs = [config["config_name"] for config in head(path)["configs"]]
    assert configs == ["kept", "rejected"][: 1 + bool(refused)]


def test_what_it_counts_is_so(sights: Path) -> None:
    rows = table(sights)
    assert rows["kept"] == ["17"] and rows["refused by far"] == ["0"]
    assert rows["refused by dark"] == ["3"]
    assert rows["set aside, since no row could be made"] == ["1"]
    test = sum(number % 4 == 0 for number in KEPT)
    assert rows["test"] == [str(test), "1"] and rows["train"] == [str(17 - test), "2"]
    expected = [float(np.mean(KEPT)), *np.percentile(KEPT, (5, 50, 95))]
    assert rows["left"] == ["17", *(f"{value:.4g}" for value in expected)]
    scores = [number / 10 for number in KEPT for _ in range(number % 3)]
    assert rows["things.score"][:2] == [str(len(scores)), f"{np.mean(scores):.4g}"]
    assert rows["things in a row"][:2] == ["17", f"{np.mean([n % 3 for n in KEPT]):.4g}"]
    assert rows["things.identity"][0] == "5"
    mugs = sum(number % 3 == 2 for number in KEPT)
    assert rows["things.category"] == ["2", f"lamp {len(scores) - mugs}, mug {mugs}"]
    assert sum(line.startswith("- judge ") for line in text(sights).splitlines()) == 2
    assert "curve" not in [column.name for column in columns(Sight)]


def test_what_a_row_is_comes_from_the_class(sights: Path) -> None:
    rows = table(sights)
    assert rows["things"] == ["list of Seen", "what was seen, and where."]
    assert "| `left` | number | how well, on each side. |" in text(sights)
    assert "| `right` | number or nothing | how well, on" in text(sights)
    assert "| `lineage` | Lineage | What a row was made from. |" in text(sights)
    assert "**Seen.** A thing that was seen." in text(sights)


@pytest.mark.parametrize("record_type", [BoundId, EntityPicture, Quadruple, Group, BankFace])
def test_every_field_of_the_data_engines_has_a_type(record_type: type[Record]) -> None:
    said = describe(record_type)
    names = list(record_type.__dataclass_fields__)
    assert [name for name in names if f"| `{name}` |" not in said] == []
    assert all(column.parquet for column in columns(record_type))


def test_settings_licences_and_how_to_get_it_are_said(sights: Path, tmp_path: Path) -> None:
    said = text(sights)
    (block,) = re.findall(r"```yaml\n(.*?)```", said, re.DOTALL)
    assert YAML(typ="safe").load(block) == {"sights": {"least": 0.5, "words": ["a", "b"]}}
    assert head(sights)["license"] == "cc0-1.0" and head(sights)["pretty_name"] == "Sights: two"
    assert "dvc get <repository> data/sights --rev" in said
    path = folder(tmp_path / "sights")
    write(path, licences={"CC0-1.0": "drawn", "see the model's licence": "painted"})
    assert head(path)["license"] == ["cc0-1.0", "other"]
    assert head(path)["license_name"] == "see the model's licence"
    assert "- see the model's licence: painted" in text(path)


def test_equal_shards_have_equal_cards(sights: Path, tmp_path: Path) -> None:
    assert text(folder(tmp_path / "elsewhere")) == text(sights)
    before = text(sights)
    write(sights)
    assert text(sights) == before


def test_more_than_memory_should_hold_is_sampled() -> None:
    many = Numbers("x")
    many.add(float(number) for number in range(3 * Numbers.SAMPLE))
    assert many.sampled and len(many._sample) == Numbers.SAMPLE
    _, count, mean, low, middle, _ = many.line()
    assert count == "30,000" and float(mean) == pytest.approx(14999.5, rel=1e-3)
    assert float(low) == pytest.approx(1500, rel=0.1)
    assert float(middle) == pytest.approx(15000, rel=0.05)
    words = Words("identity")
    words.add(str(number) for number in range(Words.MOST + 5))
    assert words.line(3)[1] == "more than 100,000"


def test_licences_of_own_pictures_are_read_from_the_pictures(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, Picture, "i" * 64)
    with writer.shard(0) as shard:
        for number, licence in enumerate(("CC-BY-4.0", None, "CC-BY-4.0")):
            shard.keep(
                Picture(
                    id=str(number), image=sight(1).image, width=8, height=8, identity=None,
                    caption=None, split="train", source="x", sha256="", licence=licence,
                )
            )  # fmt: skip
    writer.finish(1)
    assert cards.licences_in(tmp_path) == ["CC-BY-4.0", "unknown"]
