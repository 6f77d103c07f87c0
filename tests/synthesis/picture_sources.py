"""The same few pictures in every format, as tests of sources read them, here and on S3."""

import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Pillow

from insitu.params.sources import Pictures
from insitu.records import Rejected
from insitu.records.pictures import Picture
from insitu.synthesis import sources

PEOPLE = ("anna", "ben", "carla")
FORMATS = ("folder", "imagefolder", "webdataset", "parquet")


def painted(seed: int, width: int = 48, height: int = 40) -> Pillow.Image:
    """Smooth blots; those of different seeds are no near-duplicates."""
    blots = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Pillow.fromarray(blots).resize((width, height), Pillow.Resampling.BICUBIC)


def encoded(picture: Pillow.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


@dataclass(frozen=True)
class Given:
    """A picture as a user has it."""

    name: str
    data: bytes
    identity: str
    caption: str


def some() -> list[Given]:
    kinds = (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"))
    return [
        Given(f"{who}/{i}.{ending}", encoded(painted(10 * p + i), kind), who, f"{who}, {i}")
        for p, who in enumerate(PEOPLE)
        for i, (kind, ending) in enumerate(kinds)
    ]


def put(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def parquet(columns: dict[str, list[Any]], metadata: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata), buffer, row_group_size=4)
    return buffer.getvalue()


def laid_out(kind: str, root: Path) -> Path:
    """The same pictures in one of the formats."""
    given = some()
    match kind:
        case "folder":
            rows = [{"file_name": g.name, "text": g.caption, "identity": g.identity} for g in given]
            lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
            return put(root, {g.name: g.data for g in given} | {"metadata.jsonl": lines})
        case "imagefolder":
            text = io.StringIO()
            table = csv.writer(text)
            table.writerows([("file_name", "text"), *((g.name, g.caption) for g in given)])
            files = {g.name: g.data for g in given} | {"metadata.csv": text.getvalue().encode()}
            return put(root, files)
        case "webdataset":
            first, second = {}, {}
            for number, g in enumerate(given):
                shard = first if number < 5 else second
                key = f"{number:04d}"
                shard[f"{key}.{g.name[-3:].replace('ebp', 'webp')}"] = g.data
                shard[f"{key}.txt"] = g.caption.encode()
                shard[f"{key}.json"] = json.dumps({"identity": g.identity}).encode()
            return put(root, {"0.tar": tar(first), "1.tar": tar(second)})
        case _:
            features = {
                "image": {"_type": "Image"},
                "label": {"_type": "ClassLabel", "names": list(PEOPLE)},
                "caption": {"dtype": "string", "_type": "Value"},
            }
            image = [{"bytes": g.data, "path": None} for g in given]
            columns = {
                "image": image,
                "label": [PEOPLE.index(g.identity) for g in given],
                "caption": [g.caption for g in given],
            }
            info = {"huggingface": json.dumps({"info": {"features": features}})}
            return put(root, {"a[1].parquet": parquet(columns, info)})


def asked(path: Path | str, **changed: Any) -> Pictures:
    values: dict[str, Any] = {
        "path": str(path),
        "format": "auto",
        "min_side": 16,
        "near_duplicate_bits": 4,
        "split": "identity",
        "validation": 0.2,
        "test": 0.2,
    }
    return Pictures(**(values | changed))


def rows(path: Path | str, **changed: Any) -> list[Picture | Rejected[Picture]]:
    return list(sources.pictures(asked(path, **changed)))


def verdicts(path: Path | str, **changed: Any) -> dict[str, str]:
    return {
        row.id: row.filter if isinstance(row, Rejected) else "kept" for row in rows(path, **changed)
    }


def alone(data: bytes, tmp_path: Path, name: str = "x.jpg") -> Picture | Rejected[Picture]:
    (row,) = rows(put(tmp_path, {name: data}))
    return row


@pytest.fixture
def upload(object_store: str) -> Iterator[Callable[[Path], str]]:
    """Puts a folder on S3 and gives its url."""
    import boto3
    import s3fs

    client = boto3.client("s3")
    client.create_bucket(Bucket="pictures")

    def put_all(folder: Path) -> str:
        for path in sorted(folder.rglob("*.*")):
            key = f"set/{path.relative_to(folder).as_posix()}"
            client.put_object(Bucket="pictures", Key=key, Body=path.read_bytes())
        return "s3://pictures/set"

    yield put_all
    listed = client.list_objects_v2(Bucket="pictures").get("Contents", [])
    for each in listed:
        client.delete_object(Bucket="pictures", Key=each["Key"])
    client.delete_bucket(Bucket="pictures")
    s3fs.S3FileSystem.clear_instance_cache()


def turned() -> bytes:
    exif = Pillow.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to view
    return encoded(painted(3).transpose(Pillow.Transpose.ROTATE_90), exif=exif)
