"""Proves that pictures become the same records from every format, here and on S3, that what is of
no use is set aside with a reason rather than lost, that no identity is in two splits, and that a
source which cannot work is refused in three parts.

S3 is moto's server on this machine; nothing else is reached.
"""

import csv
import hashlib
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from pydantic import ValidationError

from insitu.errors import UserError
from insitu.params.sources import Columns, Pictures
from insitu.records import Rejected, ShardWriter, read, read_rejected
from insitu.records.pictures import Picture, placeholder
from insitu.synthesis import sources
from insitu.synthesis.sources import decoding

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


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it has side x side pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(3 * side + 1)))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "filter", "score", "reason"),
    [
        (b"", "unreadable", 0, "no picture"),
        (b"not a picture", "unreadable", 13, "no picture"),
        (encoded(painted(0), "JPEG")[:900], "unreadable", 900, "truncated"),
        (encoded(painted(0))[:-900], "unreadable", None, ""),
        (encoded(Pillow.new("F", (40, 40)), "TIFF"), "unreadable", None, "without a known range"),
        (bomb(9000), "too large", 9000**2, "9000 x 9000 pixels"),
        (bomb(20000), "too large", None, "over 178956970 pixels"),
        (encoded(painted(0, 15, 80)), "too small", 15, "has 15 pixels, under 16"),
    ],
)
def test_what_is_of_no_use_is_set_aside(
    data: bytes, filter: str, score: float | None, reason: str, tmp_path: Path
) -> None:
    row = alone(data, tmp_path)
    assert isinstance(row, Rejected) and row.filter == filter and reason in row.reason
    assert score is None or row.score == score
    assert row.record.sha256 == hashlib.sha256(data).hexdigest()
    assert " at 0x" not in row.reason
    if filter != "too small":
        assert row.record.image == placeholder()
    if filter == "unreadable":
        assert (row.record.width, row.record.height) == (0, 0)


def test_a_file_that_no_photo_has_the_size_of_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 100)
    row = alone(encoded(painted(0)), tmp_path)
    assert isinstance(row, Rejected) and row.filter == "file too large" and row.record.sha256 == ""


def turned() -> bytes:
    exif = Pillow.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to view
    return encoded(painted(3).transpose(Pillow.Transpose.ROTATE_90), exif=exif)


def sixteen_bit() -> bytes:
    grey = np.asarray(painted(3).convert("L")).astype(np.uint16)
    return encoded(Pillow.fromarray(grey * 257))


@pytest.mark.parametrize(
    ("data", "tolerance"),
    [
        (turned(), 0),
        (encoded(painted(3), "WEBP", lossless=True), 0),
        (encoded(painted(3), "BMP"), 0),
        (encoded(painted(3), "GIF"), 64),
        (encoded(painted(3).quantize(255)), 64),
        (encoded(painted(3).convert("CMYK"), "JPEG", quality=95), 60),
    ],
)
def test_other_kinds_become_upright_rgb(data: bytes, tolerance: int, tmp_path: Path) -> None:
    row = alone(data, tmp_path)
    assert isinstance(row, Picture) and (row.width, row.height) == (48, 40)
    assert row.image.data != data and row.image.data.startswith(b"\x89PNG")
    off = np.abs(row.image.array().astype(int) - np.asarray(painted(3)))
    assert off.max() <= tolerance
    assert row.sha256 == hashlib.sha256(data).hexdigest()


def test_grey_sixteen_bits_and_transparency(tmp_path: Path) -> None:
    grey = alone(sixteen_bit(), tmp_path)
    assert isinstance(grey, Picture)
    assert np.array_equal(grey.image.array()[..., 0], np.asarray(painted(3).convert("L")))
    clear = painted(4).convert("RGBA")
    clear.putalpha(0)
    row = alone(encoded(clear), tmp_path)
    assert isinstance(row, Picture) and (row.image.array() == 255).all()


def test_phone_jpegs_and_damaged_exif_keep_their_bytes(tmp_path: Path) -> None:
    several = encoded(painted(5), "MPO", save_all=True, append_images=[painted(6)])
    row = alone(several, tmp_path)
    assert isinstance(row, Picture) and row.image.data == several
    damaged = encoded(painted(5), "JPEG", exif=b"Exif\0\0nonsense")
    row = alone(damaged, tmp_path)
    assert isinstance(row, Picture) and row.image.data == damaged


def test_duplicates_are_set_aside_and_both_identities_named(tmp_path: Path) -> None:
    picture = painted(1, 96, 80)
    put(
        tmp_path,
        {
            "anna/0.png": encoded(picture),
            "anna/1.png": encoded(picture),
            "ben/2.jpg": encoded(picture.resize((60, 50)), "JPEG", quality=60),
            "ben/3.png": encoded(painted(2)),
            "carla/4.png": encoded(picture),
        },
    )
    found = {row.id: row for row in rows(tmp_path)}
    assert {name for name, row in found.items() if isinstance(row, Picture)} == {
        "anna/0.png",
        "ben/3.png",
    }
    equal, near, other = (found[n] for n in ("anna/1.png", "ben/2.jpg", "carla/4.png"))
    assert isinstance(equal, Rejected) and (equal.filter, equal.score) == ("duplicate", 0)
    assert equal.reason == "its file is equal to that of anna/0.png"
    assert isinstance(near, Rejected) and near.filter == "near-duplicate" and near.score <= 4
    assert "that of anna/0.png; that one shows anna, this one ben" in near.reason
    assert isinstance(other, Rejected) and "that one shows anna, this one carla" in other.reason
    assert verdicts(tmp_path, near_duplicate_bits=None)["ben/2.jpg"] == "kept"


def test_the_nearest_is_found_as_a_plain_loop_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from insitu.synthesis.sources import duplicates

    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2**63, 40, dtype=np.uint64)
    drawn = [int(rng.choice(codes)) ^ (1 << int(rng.integers(64))) for _ in range(600)]
    monkeypatch.setattr(duplicates, "_FIRST_CAPACITY", 2)
    monkeypatch.setattr(duplicates, "perceptual_hash", np.uint64)
    seen, kept = duplicates.Seen(1), []
    for i, code in enumerate(drawn):
        near = [(bin(code ^ other).count("1"), k) for k, other in enumerate(kept)]
        best = min(near, default=(64, 0))
        match = seen.repeats(f"{i}", None, sha256=f"{i:064x}", pixels=code)  # type: ignore[arg-type]
        assert (match is not None) == (best[0] <= 1)
        if match is None:
            kept.append(code)
        else:
            assert (match.bits, drawn[int(match.id)]) == (best[0], kept[best[1]])
    assert 40 < len(kept) < 600


def test_one_broken_sample_stops_no_other(tmp_path: Path) -> None:
    good = [encoded(painted(i)) for i in range(5)]
    members = {
        "0.png": good[0],
        "0.json": b"{broken",
        "1.png": good[1],
        "1.txt": b"\xff\xfe",
        "2.png": b"bad",
        "3.json": b'{"caption": ["a", "b"]}',
        "3.png": good[2],
        "d/4.v1.PNG": good[3],
        "d/4.cls": b"7",
        "5.txt": b"no picture",
    }
    put(tmp_path, {"a.tar": tar(members)})
    found = {row.id: row for row in rows(tmp_path)}
    reasons = {n.partition("#")[2]: getattr(row, "reason", "kept") for n, row in found.items()}
    assert reasons == {
        "0.png": "its .json is not JSON",
        "1.png": "its 1.txt is not in UTF-8",
        "2.png": "it is no picture, or of an unknown format",
        "3.png": "in its .json, `caption` is neither text nor a number",
        "d/4.v1.PNG": "kept",
    }
    assert found["a.tar#d/4.v1.PNG"].identity == "7"


def test_a_member_is_never_taken_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, {"0.png": encoded(painted(1)), "t/a.tar": tar({"0.png": encoded(painted(2))})})
    put(tmp_path, {"t/b.tar": tar({"0.png": b"x"})})
    monkeypatch.chdir(tmp_path)
    kept, bad = rows("t")
    assert isinstance(kept, Picture) and kept.image.data == encoded(painted(2))
    assert isinstance(bad, Rejected) and kept.source == "t/a.tar#0.png"


def test_rows_without_bytes_are_set_aside(tmp_path: Path) -> None:
    outside = put(tmp_path, {"secret.png": encoded(painted(1))}) / "secret.png"
    image = [{"bytes": None, "path": str(outside)}, None, {"bytes": b"bad", "path": "x"}]
    put(tmp_path / "t", {"a.parquet": parquet({"image": image})})
    found = rows(tmp_path / "t")
    assert [row.filter for row in found] == ["unreadable"] * 3
    assert found[0].reason == found[1].reason == "there are no bytes of a picture"
    assert found[0].record.sha256 == ""


@settings(max_examples=25)
@given(
    names=st.lists(st.text(min_size=1), unique=True, min_size=1, max_size=20),
    validation=st.floats(0, 0.5),
    test=st.floats(0, 0.49),
    more=st.floats(0, 0.5),
)
def test_the_split_of_a_name_depends_on_nothing_else(
    names: list[str], validation: float, test: float, more: float
) -> None:
    def split(name: str, test: float = test) -> str:
        return sources.split_of(name, validation=validation, test=test)

    alone = {name: split(name) for name in names}
    assert {name: split(name) for name in reversed(names)} == alone
    assert all(split(n, test + more) == "test" for n, where in alone.items() if where == "test")


@settings(max_examples=25)
@given(validation=st.floats(0.05, 0.4), test=st.floats(0.05, 0.4), prefix=st.text(max_size=5))
def test_shares_are_those_of_a_fair_draw(validation: float, test: float, prefix: str) -> None:
    count = 400
    drawn = [
        sources.split_of(f"{prefix}{i}", validation=validation, test=test) for i in range(count)
    ]
    for name, share in (("validation", validation), ("test", test)):
        # Five standard deviations of a binomial: passed by all but one in a million.
        slack = 5 * (count * share * (1 - share)) ** 0.5
        assert abs(drawn.count(name) - count * share) <= slack


def test_an_identity_stays_where_it_is_when_pictures_come(tmp_path: Path) -> None:
    people = [f"p{i}" for i in range(30)]
    put(tmp_path, {f"{who}/0.png": encoded(painted(i)) for i, who in enumerate(people)})
    before = {row.identity: row.split for row in rows(tmp_path, near_duplicate_bits=None)}
    assert set(before.values()) == {"train", "validation", "test"}
    put(tmp_path, {f"{who}/1.png": encoded(painted(99 + i)) for i, who in enumerate(people)})
    put(tmp_path, {"newcomer/0.png": encoded(painted(999))})
    for row in rows(tmp_path, near_duplicate_bits=None):
        assert row.identity == "newcomer" or row.split == before[row.identity]


def splits(path: Path, **changed: Any) -> list[str]:
    return [row.split for row in rows(path, split="given", **changed)]


def test_a_given_split_is_kept(tmp_path: Path) -> None:
    one, two, three = (encoded(painted(i)) for i in range(3))
    folder = put(tmp_path / "f", {"test/a/0.png": one, "train/b/0.png": two, "Val/c/0.png": three})
    assert splits(folder) == ["validation", "test", "train"]
    tars = {"test-00000.tar": tar({"0.png": one}), "train-00000.tar": tar({"0.png": two})}
    assert splits(put(tmp_path / "w", tars)) == ["test", "train"]
    columns = {"image": [one, two], "split": ["dev", "train"]}
    table = put(tmp_path / "p", {"x.parquet": parquet(columns)})
    assert splits(table) == ["validation", "train"]


def test_a_given_split_with_a_leak_or_a_gap_is_refused(tmp_path: Path) -> None:
    one, two = encoded(painted(0)), encoded(painted(1))
    leaking = put(tmp_path / "f", {"test/a/0.png": one, "train/a/1.png": two})
    with pytest.raises(UserError, match="pictures of 'a' in test and in train"):
        sources.pictures(asked(leaking, split="given"))
    for said, problem in ((None, "in none of"), ("holdout", "but in 'holdout'")):
        table = {"image": [one, two], "split": ["train", said]}
        with pytest.raises(UserError, match=problem):
            sources.pictures(
                asked(put(tmp_path / "p", {"x.parquet": parquet(table)}), split="given")
            )


def test_the_limit_takes_the_first_by_name(tmp_path: Path) -> None:
    put(tmp_path, {f"{i}.png": encoded(painted(i)) for i in (3, 1, 2)})
    assert list(verdicts(tmp_path, limit=2)) == ["1.png", "2.png"]


def metadata(text: str, name: str = "metadata.csv") -> dict[str, bytes]:
    return {"a/0.png": encoded(painted(0)), f"a/{name}": text.encode()}


REFUSED: dict[str, tuple[dict[str, bytes], dict[str, Any], str]] = {
    "empty": ({"notes.md": b"", ".hidden.png": b""}, {}, "no file that is a picture"),
    "no tar": ({"0.png": b""}, {"format": "webdataset"}, "ends with .tar"),
    "tar without pictures": ({"0.tar": tar({"0.txt": b"x"})}, {}, "no file with a picture in it"),
    "table without rows": (
        {"0.parquet": parquet({"image": pa.array([], pa.binary())})},
        {},
        "no file with a picture in it",
    ),
    "mixed": ({"0.tar": tar({}), "0.png": b""}, {}, "several formats: webdataset, folder"),
    "no tar at all": ({"0.tar": b"nonsense" * 200}, {}, "no uncompressed tar"),
    "no parquet at all": ({"0.parquet": b"PAR1 nonsense"}, {}, "cut off, damaged, or no Parquet"),
    "no image column": ({"0.parquet": parquet({"x": [b""]})}, {}, "no column `image`, only x"),
    "image column of text": ({"0.parquet": parquet({"image": ["x"]})}, {}, "It holds string"),
    "identity of floats": (
        {"0.parquet": parquet({"image": [b""], "label": [0.5]})},
        {},
        "It holds double",
    ),
    "wrong column": (
        {"0.parquet": parquet({"image": [b""], "b": [1]})},
        {"columns": Columns(caption="words")},
        "no such column, only b, image",
    ),
    "wrong key": (
        {"0.tar": tar({"0.png": b"", "0.json": b'{"a": 1}'})},
        {"columns": Columns(identity="who")},
        "no such column, only a",
    ),
    "column without metadata": (
        {"0.png": b""},
        {"columns": Columns(identity="who")},
        "no such column, only none",
    ),
    "image column of files": (
        {"0.png": b""},
        {"columns": Columns(image="x")},
        "where pictures are files",
    ),
    "too deep": ({"a/b/0.png": b""}, {"format": "imagefolder"}, "a folder within a folder"),
    "no such picture": (metadata("file_name,text\n1.png,x\n"), {}, "Row 1 names 1.png"),
    "outside": (metadata("file_name,text\n../../0.png,x\n"), {}, "no such picture is there"),
    "named twice": (metadata("file_name\n0.png\n./0.png\n"), {}, "has a row already"),
    "no file_name": (metadata("name\n0.png\n"), {}, "has no `file_name`"),
    "ragged": (metadata("file_name\n0.png,1,2\n"), {}, "does not fit the header"),
    "broken lines": (metadata("{", "metadata.jsonl"), {}, "It cannot be read"),
    "wrong value": (
        metadata('{"file_name": "0.png", "text": [1]}', "metadata.jsonl"),
        {},
        "`text` is neither text nor a number",
    ),
    "metadata in parquet": (metadata("", "metadata.parquet"), {"format": "folder"}, "is not read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_source_that_cannot_work_is_refused_at_the_call(case: str, tmp_path: Path) -> None:
    files, changed, problem = REFUSED[case]
    with pytest.raises(UserError, match=problem) as refused:
        sources.pictures(asked(put(tmp_path, files), **changed))
    assert refused.value.given and refused.value.why and refused.value.todo


def test_a_place_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing at that place"):
        rows(tmp_path / "none")
    with pytest.raises(UserError, match="Protocol not known"):
        rows("nosuch://bucket/pictures")


@pytest.mark.parametrize("length", [1100, 2000, -10240])
def test_a_tar_that_was_not_copied_whole_is_no_smaller_tar(length: int, tmp_path: Path) -> None:
    whole = tar({f"{i}.png": encoded(painted(i)) for i in range(4)})
    put(tmp_path, {"a.tar": whole[:length]})
    with pytest.raises(UserError, match="cut off or damaged"):
        rows(tmp_path)
    damaged = bytearray(whole)
    second = 512 + -(-len(encoded(painted(0))) // 512) * 512
    damaged[second] ^= 1
    put(tmp_path, {"a.tar": bytes(damaged)})
    with pytest.raises(UserError, match="cut off or damaged"):
        rows(tmp_path)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"format": "zip"}, "'auto', 'folder'"),
        ({"path": ""}, "at least 1"),
        ({"validation": 0.5, "test": 0.5}, "leave nothing to train on"),
        ({"near_duplicate_bits": 17}, "less than or equal to 16"),
        ({"min_side": 0}, "greater than or equal to 1"),
        ({"limit": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_out_of_range_are_refused(changed: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        asked(**{"path": "x"} | changed)


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
