"""Proves that a source which cannot work is refused in three parts when it is opened. Needs no
model and no network.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from insitu.errors import UserError
from insitu.params.sources import Columns
from insitu.synthesis import sources
from tests.synthesis.picture_sources import asked, encoded, painted, parquet, put, rows, tar


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
