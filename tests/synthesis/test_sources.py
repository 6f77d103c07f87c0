"""Proves that pictures become the same records from every format, here and on S3, one at a time,
and the same shards to the byte.

S3 is moto's server on this machine; nothing else is reached.
"""

import hashlib
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from insitu.errors import UserError
from insitu.params.sources import Columns
from insitu.records import ShardWriter, read, read_rejected
from insitu.records.pictures import Picture
from insitu.synthesis import sources
from insitu.synthesis.sources import decoding
from tests.synthesis.picture_sources import (
    FORMATS,
    asked,
    encoded,
    laid_out,
    painted,
    parquet,
    put,
    rows,
    some,
    turned,
    upload,
    verdicts,
)

__all__ = ["upload"]


def test_every_format_gives_the_same_records(tmp_path: Path) -> None:
    found = {kind: rows(laid_out(kind, tmp_path / kind), format=kind) for kind in FORMATS}
    given = some()
    for kind, records in found.items():
        assert all(isinstance(row, Picture) for row in records)
        for g, row in zip(given, records, strict=True):
            assert (row.identity, row.caption) == (g.identity, g.caption)
            assert row.sha256 == hashlib.sha256(g.data).hexdigest()
            if not g.name.endswith("webp"):
                assert row.image.data == g.data
            assert np.array_equal(row.image.array(), np.asarray(Pillow.open(io.BytesIO(g.data))))
        same = [replace(row, id="", source="") for row in records]
        assert same == [replace(row, id="", source="") for row in found["folder"]], kind
        assert len({row.id for row in records}) == len(given)
        assert all(str(tmp_path) not in row.id for row in records)
    assert found["webdataset"][0].id == "0.tar#0000.jpg"
    assert found["parquet"][4].source == f"{tmp_path}/parquet/a[1].parquet#4"


@pytest.mark.parametrize("kind", FORMATS)
def test_s3_gives_what_the_disk_gives(
    kind: str, tmp_path: Path, upload: Callable[[Path], str]
) -> None:
    folder = laid_out(kind, tmp_path)
    here, there = rows(folder, format=kind), rows(upload(folder), format=kind)
    assert len(there) == 9
    assert [replace(row, source="") for row in there] == [replace(row, source="") for row in here]
    assert all(row.source.startswith("s3://pictures/set/") for row in there)


def test_a_missing_bucket_and_a_server_that_is_not_there_are_refused(
    upload: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    for missing in ("s3://pictures/none", "s3://no-such-bucket/set"):
        with pytest.raises(UserError, match="There is nothing at that place"):
            rows(missing)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(UserError, match="That failed"):
            rows("s3://pictures/set")
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    ("kind", "told"),
    [("imagefolder", "imagefolder"), ("webdataset", "webdataset"), ("parquet", "parquet")],
)
def test_auto_tells_the_format(kind: str, told: str, tmp_path: Path) -> None:
    folder = laid_out(kind, tmp_path / kind)
    assert rows(folder) == rows(folder, format=told)


def test_auto_takes_one_file_and_no_class_from_pictures_side_by_side(tmp_path: Path) -> None:
    data = encoded(painted(1), "JPEG")
    row = rows(put(tmp_path, {"b/c/1.JPG": data, "0.jpg": encoded(painted(2))}))[1]
    assert (row.id, row.identity) == ("b/c/1.JPG", None)
    (only,) = rows(tmp_path / "b/c/1.JPG")
    assert (only.id, only.source) == ("1.JPG", f"{tmp_path}/b/c/1.JPG")


def test_one_class_is_an_identity_and_hidden_files_are_none(tmp_path: Path) -> None:
    files = {f"train/anna/test_{i}.png": encoded(painted(i)) for i in range(2)}
    put(tmp_path, {**files, ".cache/a.png": b"", "train/anna/._0.png": b"", "notes.md": b""})
    assert [(row.id, row.identity) for row in rows(tmp_path, format="imagefolder")] == [
        ("train/anna/test_0.png", "anna"),
        ("train/anna/test_1.png", "anna"),
    ]


def test_names_stay_text_and_licences_are_known(tmp_path: Path) -> None:
    put(tmp_path, {"a/0.png": encoded(painted(0)), "a/1.png": encoded(painted(1))})
    (tmp_path / "a/metadata.csv").write_text("file_name,identity,license\n0.png,007,CC0-1.0\n")
    first, second = rows(tmp_path, format="imagefolder", licence="mine")
    assert (first.identity, first.licence) == ("007", "CC0-1.0")
    assert (second.identity, second.licence, second.caption) == ("a", "mine", None)


def test_plain_binary_and_named_columns(tmp_path: Path) -> None:
    data = [encoded(painted(i)) for i in range(2)]
    columns = {"photo": data, "who": ["anna", None], "text": ["a", ""]}
    put(tmp_path, {"x.parquet": parquet(columns)})
    named = Columns(image="photo", identity="who")
    first, second = rows(tmp_path, columns=named)
    assert (first.image.data, first.identity, first.caption) == (data[0], "anna", "a")
    assert (second.image.data, second.identity, second.caption) == (data[1], None, None)


def test_the_limit_takes_the_first_by_name(tmp_path: Path) -> None:
    put(tmp_path, {f"{i}.png": encoded(painted(i)) for i in (3, 1, 2)})
    assert list(verdicts(tmp_path, limit=2)) == ["1.png", "2.png"]


def write(path: Path, folder: Path, rows_each: int = 4) -> dict[str, bytes]:
    writer = ShardWriter(folder, Picture, "digest")
    found = rows(path)
    count = -(-len(found) // rows_each)
    for index in range(count):
        with writer.shard(index) as shard:
            for row in found[index * rows_each : (index + 1) * rows_each]:
                if isinstance(row, Picture):
                    shard.keep(row)
                else:
                    shard.reject(row.record, filter=row.filter, score=row.score, reason=row.reason)
    writer.finish(count)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_shards_are_equal_to_the_byte_and_open_with_datasets(tmp_path: Path) -> None:
    source = laid_out("imagefolder", tmp_path / "in")
    put(source, {"anna/broken.jpg": b"\xff\xd8\xff", "anna/again.png": some()[1].data})
    put(source, {"ben/turned.png": turned()})
    first, second = write(source, tmp_path / "one"), write(source, tmp_path / "two")
    assert first == second
    kept = list(read(tmp_path / "one", Picture))
    refused = list(read_rejected(tmp_path / "one", Picture))
    assert len(kept) == 10 and sorted(row.filter for row in refused) == ["duplicate", "unreadable"]

    import datasets

    for kind, expected in (("part", [row.image for row in kept]), ("rejected", None)):
        table = datasets.load_dataset(
            "parquet",
            data_files=sorted(map(str, (tmp_path / "one").glob(f"{kind}-*.parquet"))),
            split="train",
            cache_dir=str(tmp_path / "cache"),
        )
        pixels = [np.asarray(image.convert("RGB")) for image in table["image"]]
        if expected is not None:
            assert all(np.array_equal(a, b.array()) for a, b in zip(pixels, expected, strict=True))


def test_pictures_are_read_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, {f"{i}.png": encoded(painted(i)) for i in range(5)})
    decoded = []

    def counting(data: bytes) -> decoding.Decoded:
        decoded.append(len(data))
        return decoding.decode(data)

    monkeypatch.setattr(sources, "decode", counting)
    stream = sources.pictures(asked(tmp_path))
    assert decoded == []
    next(stream)
    next(stream)
    assert len(decoded) == 2
