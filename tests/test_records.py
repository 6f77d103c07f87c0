"""Proves that records of any content come back as they were written, and that values which are not
what their annotation says are refused. Needs no model.
"""

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insitu.digest import weights_digest
from insitu.errors import UserError
from insitu.records import (
    Box,
    Image,
    Record,
    Rejected,
    ShardWriter,
    read,
    read_rejected,
    row_format,
)

PIXEL = Image.from_array(np.zeros((1, 1, 3), np.uint8))


@dataclass(frozen=True, kw_only=True)
class Thing(Record):
    """A record with every kind of field."""

    image: Image
    mask: Image | None
    box: Box
    spare: Box | None
    boxes: list[Box]
    views: tuple[Image, ...]
    scores: list[float]
    words: tuple[str, ...] | None
    caption: str
    note: str | None
    count: int
    weight: float
    clean: bool


texts = st.text(max_size=12)
floats = st.floats(allow_nan=False, allow_infinity=False)
images = st.builds(
    lambda start, rest: Image(start + rest),
    st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"]),
    st.binary(max_size=40),
)
spans = st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True).map(sorted)
boxes = st.builds(lambda x, y: Box(x0=x[0], y0=y[0], x1=x[1], y1=y[1]), spans, spans)
things = st.builds(
    Thing,
    id=st.text(min_size=1, max_size=12),
    image=images,
    mask=st.none() | images,
    box=boxes,
    spare=st.none() | boxes,
    boxes=st.lists(boxes, max_size=3),
    views=st.lists(images, max_size=3).map(tuple),
    scores=st.lists(floats, max_size=3),
    words=st.none() | st.lists(texts, max_size=3).map(tuple),
    caption=texts,
    note=st.none() | texts,
    count=st.integers(-(2**63), 2**63 - 1),
    weight=floats,
    clean=st.booleans(),
)
verdicts = st.none() | st.fixed_dictionaries({"filter": texts, "score": floats, "reason": texts})
rows = st.lists(st.tuples(things, verdicts), max_size=4, unique_by=lambda row: row[0].id)


@settings(max_examples=25, deadline=None)
@given(rows=rows)
def test_any_records_come_back_in_order(rows: list[tuple[Thing, dict[str, Any] | None]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        writer = ShardWriter(Path(name), Thing, "inputs")
        with writer.shard(0) as shard:
            for thing, verdict in rows:
                if verdict is None:
                    shard.keep(thing)
                else:
                    shard.reject(thing, **verdict)
        writer.finish(1)
        kept = [thing for thing, verdict in rows if verdict is None]
        rejected = [Rejected(record=thing, **verdict) for thing, verdict in rows if verdict]
        assert list(read(Path(name), Thing)) == kept
        assert list(read_rejected(Path(name), Thing)) == rejected


THING = Thing(
    id="a",
    image=PIXEL,
    mask=None,
    box=Box(x0=0, y0=0, x1=1, y1=1),
    spare=None,
    boxes=[],
    views=(),
    scores=[],
    words=None,
    caption="",
    note=None,
    count=0,
    weight=0.0,
    clean=True,
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""),
        ("id", 3),
        ("image", b"\x89PNG"),
        ("box", (0, 0, 1, 1)),
        ("boxes", [None]),
        ("views", [PIXEL]),
        ("scores", (0.5,)),
        ("scores", [0.5, float("nan")]),
        ("words", ("\ud800",)),
        ("caption", None),
        ("count", 2**63),
        ("count", True),
        ("count", 1.0),
        ("weight", float("inf")),
        ("weight", "1"),
        ("weight", 2**60),
        ("clean", 1),
    ],
)
def test_a_value_unlike_its_annotation_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    writer = ShardWriter(tmp_path, Thing, "inputs")
    with pytest.raises(UserError, match=f"`{field}` of"), writer.shard(0) as shard:
        shard.keep(replace(THING, **{field: value}))
    assert list(tmp_path.iterdir()) == []


def test_a_score_that_failed_is_refused(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, Thing, "inputs")
    with pytest.raises(UserError, match="a failure is not a number"), writer.shard(0) as shard:
        shard.reject(THING, filter="clip", score=float("nan"), reason="low")


def test_a_row_of_another_type_is_refused(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, Thing, "inputs")
    with pytest.raises(UserError, match="must be a Thing"), writer.shard(0) as shard:
        shard.keep(Record(id="a"))  # type: ignore[arg-type]


@pytest.mark.parametrize("annotation", [dict[str, int], np.ndarray, int | str, tuple[int, int]])
def test_an_annotation_without_schema_is_refused(annotation: Any) -> None:
    class Odd(Record):
        pass

    Odd.__annotations__ = {"odd": annotation}
    with pytest.raises(TypeError, match=r"Odd\.odd"):
        row_format(dataclass(frozen=True, kw_only=True)(Odd))


def test_datasets_finds_pictures() -> None:
    # Hugging Face `datasets` applies its metadata only to columns whose Arrow type equals its own:
    # nullable at every level, a picture as {bytes, path}.
    def nullable(field: pa.Field) -> bool:
        children = [field.type.field(i) for i in range(field.type.num_fields)]
        return field.nullable and all(map(nullable, children))

    schema = row_format(Thing).schema
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == schema.names
    assert all(map(nullable, schema))
    assert features["image"] == features["mask"] == {"_type": "Image"}
    assert features["views"] == [{"_type": "Image"}]
    assert features["box"]["x0"] == {"dtype": "float64", "_type": "Value"}
    assert schema.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7)])
def test_pixels_survive_encoding(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    decoded = Image.from_array(pixels).array()
    expected = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 3), np.float32), np.zeros((3, 4, 4), np.uint8), np.zeros(4, np.uint8)]
)
def test_arrays_that_are_no_pictures_are_refused(array: Any) -> None:
    with pytest.raises(UserError, match="uint8"):
        Image.from_array(array)


@pytest.mark.parametrize(
    "corners", [(0.5, 0, 0.5, 1), (0, 0.6, 1, 0.5), (-0.1, 0, 1, 1), (0, 0, 1, 1.1)]
)
def test_boxes_that_are_empty_or_outside_are_refused(corners: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match=r"within 0\.\.1"):
        Box(**dict(zip(("x0", "y0", "x1", "y1"), corners, strict=True)))


def test_weights_digest_depends_on_weights_and_their_names_only(tmp_path: Path) -> None:
    def checkpoint(name: str, **files: bytes) -> Path:
        for file, data in files.items():
            path = tmp_path / name / file.replace("__", "/").replace("_st", ".safetensors")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return tmp_path / name

    same = weights_digest(checkpoint("a", unet__w_st=b"1", vae__w_st=b"2"))
    assert weights_digest(checkpoint("b", vae__w_st=b"2", unet__w_st=b"1", card=b"x")) == same
    assert weights_digest(checkpoint("c", unet__w_st=b"2", vae__w_st=b"1")) != same
    assert weights_digest(checkpoint("d", unet__w_st=b"1", vae__v_st=b"2")) != same
    with pytest.raises(UserError, match=r"no \.safetensors file"):
        weights_digest(checkpoint("e", card=b"x"))
    with pytest.raises(UserError, match="no such folder"):
        weights_digest(tmp_path / "absent")
